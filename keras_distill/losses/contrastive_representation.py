"""Contrastive representation distillation (CRD): one example's two embeddings told from those of others."""

import keras
from keras import ops

from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.ops import float32, unit
from keras_distill.schedules import positive, value_at


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
    embeddings of length 1, and two queues of the latest embeddings, which are what an anchor is contrasted with. Their
    size does not depend on the data set. The authors keep an embedding of every example instead, and contrast with a
    random choice of these.

    Under `tf.distribute` the queues hold the embeddings of the first replica.

    Args:
        dim: Width of the embeddings, default 128.
        size: Length of the queues, default 4096; random embeddings at first.
        temperature: A number or a schedule, default 0.07.
    """

    rank = 2

    def __init__(self, dim=128, size=4096, temperature=0.07, **kwargs):
        super().__init__(**kwargs)
        for name, number in (("dim", dim), ("size", size)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"`{name}` must be an integer, 1 or more. Received: {number!r}")
        self.dim = dim
        self.size = size
        self.temperature = positive(temperature, "temperature")

    def build(self, student_shape, teacher_shape):
        self.kernels = [
            self.add_weight(shape=(shape[-1], self.dim), initializer="glorot_uniform", name=f"{side}_kernel")
            for side, shape in (("student", student_shape), ("teacher", teacher_shape))
        ]
        self.biases = [
            self.add_weight(shape=(self.dim,), initializer="zeros", name=f"{side}_bias")
            for side in ("student", "teacher")
        ]
        self.queues = [
            self._state((self.size, self.dim), _directions, f"{side}_queue") for side in ("student", "teacher")
        ]
        self.log_means = self._state((2,), "zeros", "log_means")
        self.started = self._state((), "zeros", "started")

    def comparable(self, student_shape, teacher_shape):
        return True

    def compare(self, student, teacher, batch):
        scores = self._scores(student, teacher, batch)
        first = ops.stack([log_mean_exp(x) for x in scores])
        constants = ops.where(self.started > 0, self.log_means, first)
        return sum(contrastive_representation(x, constants[i]) for i, x in enumerate(scores))

    def remember(self, student, teacher, batch):
        scores = self._scores(student, teacher, batch)
        first = ops.stack([log_mean_exp(x) for x in scores])
        self.log_means.assign(ops.where(self.started > 0, self.log_means, first))
        self.started.assign(ops.ones_like(self.started))
        for queue, latest in zip(self.queues, self._embeddings(student, teacher)):
            latest = ops.concatenate([ops.stop_gradient(latest), ops.convert_to_tensor(queue)])
            queue.assign(ops.reshape(latest[: self.size], (self.size, self.dim)))

    def _embeddings(self, *vectors):
        parts = zip(float32(*vectors), self.kernels, self.biases)
        return [unit(ops.matmul(x, kernel) + bias) for x, kernel, bias in parts]

    def _scores(self, student, teacher, batch):
        student, teacher = self._embeddings(student, teacher)
        own = ops.sum(student * teacher, axis=-1, keepdims=True)
        pairs = (student, self.queues[1]), (teacher, self.queues[0])
        temperature = value_at(self.temperature, batch.step)
        return [
            ops.concatenate([own, ops.matmul(anchor, ops.transpose(queue))], axis=-1) / temperature
            for anchor, queue in pairs
        ]

    def _state(self, shape, initializer, name):
        return self.add_weight(
            shape=shape, initializer=initializer, trainable=False, aggregation="only_first_replica", name=name
        )

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "size": self.size, "temperature": self.temperature}


def _directions(shape, dtype):
    return unit(keras.random.normal(shape, dtype=dtype))
