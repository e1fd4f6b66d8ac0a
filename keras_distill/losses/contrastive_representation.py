"""Contrastive representation distillation (CRD)."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.maths import enqueue, float32, random_directions, unit_vectors
from keras_distill.schedules import check_fraction, check_positive, value_at
from keras_distill.types import ScheduleLike, Tensor
from keras_distill.utils.arguments import check_integer


def contrastive_representation(scores: Tensor, log_mean: float | Tensor, prior: float | None = None) -> Tensor:
    """Compute the noise-contrastive loss of an anchor, its positive and K negatives.

    ```
    loss = -log(r_0 / (r_0 + K)) - sum_k log(K / (r_k + K))
    r_k = exp(<anchor, embedding_k> / T) / mean of such exponentials
    ```

    The paper's `P_k` is `r_k / N` and its prior is `K / N`: the number of examples, `N`, cancels.

    Args:
        scores: `<anchor, embedding_k> / T`, the positive first, shape `[batch, 1 + K]`.
        log_mean: Logarithm of the mean of the exponentials of the scores, a constant of the first batch.
        prior: Replaces `K` in the denominators, > 0. Defaults to None, which uses `K`.

    Returns:
        Nats, shape `[batch]`.

    Reference:
        Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699, equations 9 to 11
    """
    scores, log_mean = float32(scores, log_mean)
    ratio = scores - log_mean - ops.log(float(prior or scores.shape[-1] - 1))
    return ops.softplus(-ratio[:, 0]) + ops.sum(ops.softplus(ratio[:, 1:]), axis=-1)


def log_mean_exp(scores: Tensor) -> Tensor:
    """Return the logarithm of the mean of the exponentials of all scores, a scalar without gradient.

    Args:
        scores: Any shape.
    """
    count = ops.cast(ops.size(scores), "float32")
    return ops.stop_gradient(ops.logsumexp(scores) - ops.log(count))


@keras.saving.register_keras_serializable("keras_distill")
class ContrastiveRepresentation(DistillationLoss):
    """Contrastive representation distillation loss (CRD). No head is needed.

    Trains its own weights with the student: a linear map from each network's vectors to embeddings of unit length. Each
    embedding of one network is an anchor; its positive is the other network's embedding of the same example, its
    negatives come from a memory of the other network's embeddings. The memory is one of

    - a queue of the latest embeddings (default), whose size does not depend on the dataset;
    - a memory bank with one embedding per example (`examples=`), as in the authors' code. Each new embedding updates
      the bank with `momentum`; negatives and the positive are read from the bank. Each batch must contain the index of
      its examples: `fit(with_index(x, np.arange(len(x))), y)`. Without an index, as in `evaluate`, the positive is the
      current embedding.

    Unlike in the authors' code, negatives from the bank never include the example itself. A queue may hold it: keep
    `size` below the number of examples. The authors use a weight of 0.8. Compares all
    examples of the global batch under `tf.distribute`; see `Term(across_replicas=)`.

    Args:
        dim: Width of the embeddings, an integer >= 1. 128 in the paper. Defaults to 128.
        size: Length of the queues, or number of negatives drawn from the bank, an integer >= 1. 4096 to 16384 is
            typical. Defaults to 4096.
        temperature: Temperature of the scores, > 0, a number or a schedule. 0.05 to 0.2 is typical. Defaults to 0.07.
        examples: Number of examples in the dataset, an integer >= 2, for a memory bank. Indices start at 0; the loss of
            an example whose index is out of range is NaN. Defaults to None, which uses queues.
        momentum: Weight of the old embedding in an update of the bank, 0 to 1, a number or a schedule. Defaults to 0.5.
        seed: Seed of the negatives drawn from the bank; they also depend on the step. Defaults to 0.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If an argument is out of its range, or in training with `examples`, if a batch has no index.

    Reference:
        Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699

    Example:
    >>> loss = ContrastiveRepresentation(dim=8, size=16, examples=len(x))
    >>> terms = [Term(loss, student="features", teacher="features", weight=0.8)]
    >>> distiller = Distiller(student=student, teacher=teacher, terms=terms)
    >>> inputs = with_index(x, np.arange(len(x)))  # for distiller.fit(inputs, y)
    """

    relational = True
    rank = 2

    def __init__(
        self,
        dim: int = 128,
        size: int = 4096,
        temperature: ScheduleLike = 0.07,
        examples: int | None = None,
        momentum: ScheduleLike = 0.5,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim = check_integer(dim, "dim")
        self.size = check_integer(size, "size")
        self.temperature = check_positive(temperature, "temperature")
        self.examples = check_integer(examples, "examples", at_least=2, optional=True)
        self.momentum = check_fraction(momentum, "momentum")
        self.seed = seed

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
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
            self._add_state((length, self.dim), random_directions, f"{side}_memory") for side in ("student", "teacher")
        ]
        self.log_means = self._add_state((2,), "zeros", "log_means")
        self.started = self._add_state((), "zeros", "started")

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        return True

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        scores = self._scores(student, teacher, batch)
        log_means = self._log_means(scores)
        values = sum(contrastive_representation(x, log_means[i]) for i, x in enumerate(scores))
        if self.examples is None or batch.index is None:
            return values
        # XLA clips an index out of bounds, which would compare with another example.
        in_bank = ops.logical_and(batch.index >= 0, batch.index < self.examples)
        return ops.where(in_bank, values, float("nan"))

    def remember(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        self.log_means.assign(self._log_means(self._scores(student, teacher, batch)))
        self.started.assign(ops.ones_like(self.started))
        for memory, latest in zip(self.memories, self._embeddings(student, teacher)):
            latest, current = ops.stop_gradient(latest), ops.convert_to_tensor(memory)
            if self.examples is None:
                memory.assign(enqueue(current, latest))
            else:
                memory.assign(self._updated_bank(current, latest, batch))

    def _log_means(self, scores):
        """Return the constants of the first batch, or those of these scores if this is the first batch."""
        first = ops.stack([log_mean_exp(x) for x in scores])
        return ops.where(self.started > 0, self.log_means, first)

    def _updated_bank(self, bank, latest, batch):
        if batch.index is None:
            raise ValueError(
                f"'{self.name}' has a memory bank of {self.examples} examples and needs the index of each example. "
                "Pass `with_index(x, np.arange(len(x)))` as x, or omit `examples` to use queues."
            )
        momentum = value_at(self.momentum, batch.step)
        updated = momentum * ops.take(bank, batch.index, axis=0) + (1.0 - momentum) * latest
        return ops.scatter_update(bank, ops.expand_dims(batch.index, -1), unit_vectors(updated))

    def _embeddings(self, student, teacher):
        layers = zip(float32(student, teacher), self.kernels, self.biases)
        return [unit_vectors(ops.matmul(x, kernel) + bias) for x, kernel, bias in layers]

    def _scores(self, student, teacher, batch):
        """Return the scores of the student's and of the teacher's embeddings as anchors."""
        student, teacher = self._embeddings(student, teacher)
        student_memory, teacher_memory = self.memories
        temperature = value_at(self.temperature, batch.step)
        return [
            self._products(student, teacher, teacher_memory, batch) / temperature,
            self._products(teacher, student, student_memory, batch) / temperature,
        ]

    def _products(self, anchor, positive, memory, batch):
        """Return the dot products of anchors with their positive and their negatives, shape `[batch, 1 + size]`."""
        memory = ops.convert_to_tensor(memory)
        if self.examples is None:
            negatives = ops.matmul(anchor, ops.transpose(memory))
        else:
            own_row = 0 if batch.index is None else ops.expand_dims(ops.cast(batch.index, "int32"), -1)
            rows = ops.mod(own_row + self._row_offsets(ops.shape(anchor)[0], batch), self.examples)
            negatives = ops.einsum("bd,bkd->bk", anchor, ops.take(memory, rows, axis=0))
            positive = positive if batch.index is None else ops.take(memory, batch.index, axis=0)
        return ops.concatenate([ops.sum(anchor * positive, axis=-1, keepdims=True), negatives], axis=-1)

    def _row_offsets(self, count, batch):
        """Return offsets from an example's own row in the bank to its negatives, never 0, shape `[count, size]`."""
        # Drawn from the step: `compare` and `remember` draw the same negatives, and there is no random state to save.
        seed = ops.stack([ops.cast(self.seed, "int32"), ops.cast(batch.step, "int32")])
        return tf.random.stateless_uniform((count, self.size), seed, 1, self.examples, "int32")

    def _add_state(self, shape, initializer, name):
        return self.add_weight(
            shape=shape, initializer=initializer, trainable=False, aggregation="only_first_replica", name=name
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dim": self.dim,
            "size": self.size,
            "temperature": self.temperature,
            "examples": self.examples,
            "momentum": self.momentum,
            "seed": self.seed,
        }
