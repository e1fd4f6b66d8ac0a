"""Contrastive representation distillation (CRD): one example's two embeddings told from those of others."""

import keras
import tensorflow as tf
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import float32, unit_vectors
from keras_distill.schedules import check_positive, value_at


def contrastive_representation(scores, log_mean, prior=None):
    """Noise-contrastive loss of an anchor: its own counterpart is to be recognised among others.

    ```
    loss = -log(r_0 / (r_0 + K)) - sum_k log(K / (r_k + K))
    r_k = exp(<anchor, embedding_k> / T) / mean of such exponentials
    ```

    The paper's `P_k` is `r_k / N` and its prior `K / N`: the number of examples, `N`, cancels.

    Args:
        scores: `<anchor, embedding_k> / T`, the anchor's counterpart first, shape `[batch, 1 + K]`.
        log_mean: Logarithm of the mean of their exponentials, a constant of the first batch.
        prior: Stands for `K` in the denominators if given.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699, equations 9 to 11
    """
    scores, log_mean = float32(scores, log_mean)
    ratio = scores - log_mean - ops.log(float(prior or scores.shape[-1] - 1))
    return ops.softplus(-ratio[:, 0]) + ops.sum(ops.softplus(ratio[:, 1:]), axis=-1)


def log_mean_exp(scores):
    """Logarithm of the mean of the exponentials of all scores, a scalar without gradient."""
    count = ops.cast(ops.size(scores), "float32")
    return ops.stop_gradient(ops.logsumexp(scores) - ops.log(count))


@keras.saving.register_keras_serializable("keras_distill")
class ContrastiveRepresentation(DistillationLoss):
    """`contrastive_representation` as a loss for a `Term`, with either network's embedding as the anchor in turn.

    Vectors of any two widths; needs no head. Has weights of its own: a trained map of each network's vectors to
    embeddings of length 1, and a memory of embeddings that an anchor is contrasted with.

    By default the memory is a queue of the latest ones, whose size does not depend on the data set. With `examples` it
    is the authors': a bank with one embedding of every example, which moves half of the way to each new one, and from
    which the contrasts, and the counterpart too, are taken. It must be known then which examples a batch holds:

    ```python
    distiller.fit(with_index(x, np.arange(len(x))), y)
    ```

    Unlike the authors' draws, these never contrast an example with itself. Where there is no index, as in `evaluate`,
    the counterpart is the embedding of the moment.

    Args:
        dim: Width of the embeddings, default 128.
        size: Length of the queues, or number of contrasts drawn from the bank, default 4096.
        temperature: A number or a schedule, default 0.07.
        examples: Number of examples, of which `with_index` numbers each from 0; None for queues, the default. Another
            number fails, or makes the loss NaN.
        momentum: How much of an old embedding stays in the bank, 0 to 1, a number or a schedule; default 0.5.
        seed: Of what is drawn, which depends on nothing else but the step; default 0.
    """

    relational = True
    rank = 2

    def __init__(self, dim=128, size=4096, temperature=0.07, examples=None, momentum=0.5, seed=0, **kwargs):
        super().__init__(**kwargs)
        for name, number, least in (("dim", dim, 1), ("size", size, 1), ("examples", examples, 2)):
            if name == "examples" and number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"`{name}` must be an integer, {least} or more. Received: {number!r}")
        self.dim = dim
        self.size = size
        self.temperature = check_positive(temperature, "temperature")
        self.examples = examples
        self.momentum = check_positive(momentum, "momentum", zero=True)
        self.seed = seed

    def build(self, student_shape, teacher_shape):
        self.kernels = [
            self.add_weight(shape=(shape[-1], self.dim), initializer="glorot_uniform", name=f"{side}_kernel")
            for side, shape in (("student", student_shape), ("teacher", teacher_shape))
        ]
        self.biases = [
            self.add_weight(shape=(self.dim,), initializer="zeros", name=f"{side}_bias")
            for side in ("student", "teacher")
        ]
        length = self.size if self.examples is None else self.examples
        self.memories = [
            self._state((length, self.dim), _directions, f"{side}_memory") for side in ("student", "teacher")
        ]
        self.log_means = self._state((2,), "zeros", "log_means")
        self.started = self._state((), "zeros", "started")

    def comparable(self, student_shape, teacher_shape):
        return True

    def compare(self, student, teacher, batch):
        scores = self._scores(student, teacher, batch)
        first = ops.stack([log_mean_exp(x) for x in scores])
        constants = ops.where(self.started > 0, self.log_means, first)
        values = sum(contrastive_representation(x, constants[i]) for i, x in enumerate(scores))
        if self.examples is None or batch.index is None:
            return values
        # XLA takes another example's row for one that is not there.
        known = ops.logical_and(batch.index >= 0, batch.index < self.examples)
        return ops.where(known, values, float("nan"))

    def remember(self, student, teacher, batch):
        scores = self._scores(student, teacher, batch)
        first = ops.stack([log_mean_exp(x) for x in scores])
        self.log_means.assign(ops.where(self.started > 0, self.log_means, first))
        self.started.assign(ops.ones_like(self.started))
        for memory, latest in zip(self.memories, self._embeddings(student, teacher)):
            latest, kept = ops.stop_gradient(latest), ops.convert_to_tensor(memory)
            memory.assign(self._queued(kept, latest) if self.examples is None else self._banked(kept, latest, batch))

    def _queued(self, kept, latest):
        return ops.reshape(ops.concatenate([latest, kept])[: self.size], kept.shape)

    def _banked(self, kept, latest, batch):
        if batch.index is None:
            raise ValueError(
                f"'{self.name}' remembers {self.examples} examples, and must know which ones a batch holds. Pass "
                "`with_index(x, np.arange(len(x)))` as x, or leave `examples` out."
            )
        momentum = value_at(self.momentum, batch.step)
        moved = momentum * ops.take(kept, batch.index, axis=0) + (1.0 - momentum) * latest
        return ops.scatter_update(kept, ops.expand_dims(batch.index, -1), unit_vectors(moved))

    def _embeddings(self, *vectors):
        parts = zip(float32(*vectors), self.kernels, self.biases)
        return [unit_vectors(ops.matmul(x, kernel) + bias) for x, kernel, bias in parts]

    def _scores(self, student, teacher, batch):
        student, teacher = self._embeddings(student, teacher)
        pairs = (student, teacher, self.memories[1]), (teacher, student, self.memories[0])
        temperature = value_at(self.temperature, batch.step)
        return [self._products(*pair, batch) / temperature for pair in pairs]

    def _products(self, anchor, counterpart, memory, batch):
        """Of the anchors with their counterparts, and with what they are contrasted with."""
        memory = ops.convert_to_tensor(memory)
        if self.examples is None:
            contrasts = ops.matmul(anchor, ops.transpose(memory))
        else:
            own = 0 if batch.index is None else ops.expand_dims(ops.cast(batch.index, "int32"), -1)
            rows = ops.mod(own + self._steps_away(ops.shape(anchor)[0], batch), self.examples)
            contrasts = ops.einsum("bd,bkd->bk", anchor, ops.take(memory, rows, axis=0))
            counterpart = counterpart if batch.index is None else ops.take(memory, batch.index, axis=0)
        return ops.concatenate([ops.sum(anchor * counterpart, axis=-1, keepdims=True), contrasts], axis=-1)

    def _steps_away(self, count, batch):
        """How far behind an example's own row in the bank its contrasts are, never 0: `[count, size]`."""
        # Drawn anew from the step: `remember` sees what `compare` saw, and no random state is left to be saved.
        seed = ops.stack([ops.cast(self.seed, "int32"), ops.cast(batch.step, "int32")])
        return tf.random.stateless_uniform((count, self.size), seed, 1, self.examples, "int32")

    def _state(self, shape, initializer, name):
        return self.add_weight(
            shape=shape, initializer=initializer, trainable=False, aggregation="only_first_replica", name=name
        )

    def get_config(self):
        names = ("dim", "size", "temperature", "examples", "momentum", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _directions(shape, dtype):
    return unit_vectors(keras.random.normal(shape, dtype=dtype))
