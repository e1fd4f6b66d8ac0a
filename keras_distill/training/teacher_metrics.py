"""Metrics of `compile` that compare the student with its teacher."""

from keras import ops

from keras_distill.data.sample_weights import multiply_weights, weights_of_tap
from keras_distill.distribution import replicas
from keras_distill.metrics.base import DistillationMetric
from keras_distill.models.masking import joint_masks, zero_padding
from keras_distill.models.taps import select_activations


class TeacherMetrics:
    """The `DistillationMetric`s among the metrics of `compile`.

    Args:
        metrics: List of those that no sample weight concerns.
        weighted_metrics: List of the others.
        taken: Names that the logs have already.

    Raises:
        ValueError: For a name that comes twice.
    """

    def __init__(self, metrics=(), weighted_metrics=(), taken=()):
        self.metrics = [*metrics, *weighted_metrics]
        self._weighted = {id(metric) for metric in weighted_metrics}
        names = [metric.name for metric in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1 or name in taken})
        if twice:
            raise ValueError(f"The logs have the names {twice} more than once. Give each metric one, by `name=`.")

    def update(self, batch, student, teacher):
        """Shows them a step.

        Args:
            batch: The `Batch`.
            student: `{tap: activation}`.
            teacher: `{tap: activation}`.
        """
        for metric in self.metrics:
            pair = select_activations(student, metric.student), select_activations(teacher, metric.teacher)
            given = None if metric.mask is None else batch.inputs[metric.mask]
            masks = joint_masks(*pair, given)
            seen = [zero_padding(ops.cast(x, "float32"), mask) for x, mask in zip(pair, masks)]
            weight = weights_of_tap(batch.sample_weight, metric.student) if id(metric) in self._weighted else None
            if masks[0] is not None:
                counted = ops.cast(masks[0], "float32")
                weight = counted if weight is None else multiply_weights(weight, counted)
            if metric.relational:
                *seen, weight = replicas.all_gather([*seen, weight])
            metric.update_state(*seen, sample_weight=weight)

    def results(self):
        """`{name: value}`."""
        return {metric.name: metric.result() for metric in self.metrics}


def split_metrics(metrics):
    """What `compile` takes as metrics, without the `DistillationMetric`s, and a list of these.

    Args:
        metrics: As given to `compile`, or None.
    """
    if isinstance(metrics, DistillationMetric):
        return None, [metrics]
    if isinstance(metrics, dict):
        parts = {key: split_metrics(value) for key, value in metrics.items()}
        return {key: rest for key, (rest, _) in parts.items()}, [m for _, found in parts.values() for m in found]
    if not isinstance(metrics, (list, tuple)):
        return metrics, []
    parts = [split_metrics(value) for value in metrics]
    # An entry that is gone must not be taken for an output without metrics.
    rest = [part for part, found in parts if not (part is None and found)]
    return rest, [metric for _, found in parts for metric in found]
