"""Base class of metrics that average a value over examples and positions."""

from typing import Any

from keras import ops

from keras_distill.data.sample_weights import multiply_weights
from keras_distill.metrics.base import DistillationMetric
from keras_distill.types import Tensor


class MeanMetric(DistillationMetric):
    """Weighted mean of a value per position. Abstract.

    A subclass implements `compare`. All positions of all batches have the same weight, as in Keras' token metrics.

    Args:
        *args: Positional arguments of `DistillationMetric`: `student`, `teacher`, `mask`, `name`, `dtype`.
        **kwargs: The same arguments by keyword.

    Example:

    >>> class MaxDifference(MeanMetric):
    ...     def compare(self, student, teacher):
    ...         return ops.max(ops.abs(student - teacher), axis=-1)
    >>> metric = MaxDifference(name="max_difference")
    >>> metric.update_state([[0.0, 1.0]], [[0.0, 3.0]])
    >>> float(metric.result())
    2.0
    """

    logits = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the value of each position.

        Args:
            student: float32 logits, shape `[batch, positions..., classes]`.
            teacher: float32 logits, same shape as `student`.

        Returns:
            float32, shape `[batch, positions...]`.
        """
        raise NotImplementedError

    def combine(self, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values that are averaged, and their weights. The default returns both unchanged.

        Args:
            values: Result of `compare`.
            weight: Weight of each position, float32, shape of `values`.
        """
        return values, weight

    def update_state(self, student: Tensor, teacher: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch to the mean.

        Args:
            student: Logits, shape `[batch, positions..., classes]`.
            teacher: Logits, same shape as `student`.
            sample_weight: Weights, shape `[batch]`, `[batch, 1]` or `[batch, positions...]`; None weights all equally.

        Raises:
            ValueError: If rank or number of classes differ.
        """
        student = ops.cast(ops.convert_to_tensor(student), "float32")
        teacher = ops.cast(ops.convert_to_tensor(teacher), "float32")
        self._check_classes(student.shape, teacher.shape)
        values = self.compare(student, teacher)
        weight = ops.ones_like(values)
        if sample_weight is not None:
            weight = multiply_weights(ops.convert_to_tensor(sample_weight), weight)
        values, weight = self.combine(values, weight)
        # Values with weight 0 may be NaN, and NaN * 0 is NaN.
        self.total.assign_add(ops.sum(ops.where(weight != 0, weight * values, 0.0)))
        self.count.assign_add(ops.sum(weight))

    def result(self) -> Tensor:
        return ops.divide_no_nan(self.total, self.count)
