"""What metrics of single positions share."""

from keras import ops

from keras_distill.metrics.base import DistillationMetric
from keras_distill.models.masking import expand_to_rank


class MeanMetric(DistillationMetric):
    """The weighted mean of a number for each position. Abstract.

    A leaf implements `compare`. All positions of all batches count alike, as for Keras' metrics of tokens.
    """

    logits = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def compare(self, student, teacher):
        """The number of each position.

        Args:
            student: float32, shape `[batch, positions..., classes]`.
            teacher: Likewise.

        Returns:
            float32, shape `[batch, positions...]`.
        """
        raise NotImplementedError

    def update_state(self, student, teacher, sample_weight=None):
        """Adds a batch.

        Args:
            student: Logits, shape `[batch, positions..., classes]`.
            teacher: Logits, the same shape.
            sample_weight: Shape `[batch]` or `[batch, positions...]`; None counts all alike.

        Raises:
            ValueError: For shapes that differ.
        """
        student, teacher = (ops.cast(ops.convert_to_tensor(x), "float32") for x in (student, teacher))
        self._check_classes(student.shape, teacher.shape)
        values = self.compare(student, teacher)
        weight = ops.ones_like(values)
        if sample_weight is not None:
            weight *= expand_to_rank(ops.cast(sample_weight, "float32"), len(values.shape))
        # What is left out may be NaN.
        self.total.assign_add(ops.sum(ops.where(weight != 0, weight * values, 0.0)))
        self.count.assign_add(ops.sum(weight))

    def result(self):
        return ops.divide_no_nan(self.total, self.count)
