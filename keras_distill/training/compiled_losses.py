"""Supervised losses and metrics given to `compile`, on the labeled part of a batch."""

from typing import Any

import keras
from keras import ops

from keras_distill import _compat
from keras_distill.data.labels import label_mask
from keras_distill.data.sample_weights import multiply_weights
from keras_distill.distribution import replicas
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.models.masking import expand_to_rank
from keras_distill.models.specs import Spec
from keras_distill.types import Structure, Tensor


def connect_loss(loss: Any, student: keras.Model, output: Structure) -> Any:
    """Return the losses, those that read a layer of the student with this layer looked up.

    Args:
        loss: Loss given to `compile`, or a structure of several.
        student: A `keras.Model`.
        output: `Spec` of the student's output, or a structure of several.

    Returns:
        The structure of `loss`.

    Raises:
        ValueError: If the layer does not exist, or does not take the student's output.
    """

    def connected(part):
        if not isinstance(part, ChunkedCrossentropy):
            return part
        if not isinstance(output, Spec):
            raise ValueError(f"ChunkedCrossentropy needs a student with one output. Received: '{student.name}'.")
        return part.connected(student, output.shape)

    return keras.tree.map_structure(connected, loss)


class CompiledLosses:
    """Losses and metrics given to `compile(loss=, metrics=)`.

    Missing labels (see `label_mask`) are left out: the loss is the mean over the labeled examples, and metrics see only
    these.

    Args:
        loss: Loss in any form that `keras.Model.compile` takes, or None.
        loss_weights: Weights of the losses of several outputs, or None.
        metrics: Metrics that sample weights do not apply to, or None.
        weighted_metrics: Metrics that sample weights apply to, or None.
        output_names: Names of the student's outputs, or None.
    """

    def __init__(self, loss=None, loss_weights=None, metrics=None, weighted_metrics=None, output_names=None):
        self.supervised = loss is not None
        self._loss_arguments = {"loss": loss, "loss_weights": loss_weights, "output_names": output_names}
        # Two models, since Keras passes no weights to `metrics`, which here must leave out missing labels.
        self._plain = _Compiled(output_names, loss=loss, loss_weights=loss_weights, weighted_metrics=metrics)
        self._weighted = _Compiled(output_names, weighted_metrics=weighted_metrics)

    @classmethod
    def per_model(
        cls, output_names: dict, loss: Any = None, loss_weights: Any = None, metrics: Any = None, weighted: Any = None
    ) -> dict[str, "CompiledLosses"]:
        """Return `{name: CompiledLosses}` for several models with the same loss, each with its own metrics.

        Args:
            output_names: `{model name: names of its outputs, or None}`.
            loss: See `CompiledLosses`.
            loss_weights: See `CompiledLosses`.
            metrics: See `CompiledLosses`.
            weighted: See `weighted_metrics` of `CompiledLosses`.
        """
        return {
            name: cls(
                loss,
                loss_weights,
                keras.tree.map_structure(_copy_of_metric, metrics),
                keras.tree.map_structure(_copy_of_metric, weighted),
                outputs,
            )
            for name, outputs in output_names.items()
        }

    def without_metrics(self) -> "CompiledLosses":
        """Return the same loss without metrics, with its own trackers for the parts of the loss."""
        return CompiledLosses(**self._loss_arguments)

    @property
    def output_loss_names(self) -> list[str]:
        """Names under which Keras logs the loss of each output, if there are several."""
        loss, names = self._loss_arguments["loss"], self._plain.output_names or ()
        if loss is None or len(names) < 2:
            return []
        return [f"{name}_loss" for name in names if not isinstance(loss, dict) or name in loss]

    @property
    def metrics(self) -> list:
        """Keras metrics that have seen data."""
        return [*self._plain.own_metrics, *self._weighted.own_metrics]

    def results(self) -> dict[str, Tensor]:
        """Return `{name: value}` of the metrics, with the names that Keras gives them."""
        plain, weighted = self._plain.own_results(), self._weighted.own_results()
        return plain | {self._weighted_name(name) if name in plain else name: value for name, value in weighted.items()}

    def loss(self, labels: Structure, outputs: Structure, sample_weight: Structure = None) -> Tensor | None:
        """Return the supervised loss without regularizers; None without labels or without a loss.

        Args:
            labels: Labels given to `fit`, a structure of tensors or None.
            outputs: Outputs of the student.
            sample_weight: Sample weights given to `fit`, or None.

        Returns:
            Scalar. As in Keras, the mean over a replica's examples divided by the number of replicas.
        """
        if labels is None or not self.supervised:
            return None
        present = self._map(_present, labels, outputs)
        balance = self._map(_balance, present, outputs)
        labels = keras.tree.map_structure(_filled, labels, present)
        return self._plain.compute_loss(None, labels, outputs, _times(sample_weight, balance))

    def update_metrics(self, labels: Structure, outputs: Structure, sample_weight: Structure = None) -> None:
        """Update the metrics; does nothing without labels.

        Args:
            labels: Labels given to `fit`, a structure of tensors or None.
            outputs: Outputs of the student.
            sample_weight: Sample weights given to `fit`, or None.
        """
        if labels is None:
            return
        present = self._map(_present, labels, outputs)
        labels = keras.tree.map_structure(_filled, labels, present)
        present = keras.tree.map_structure(lambda p: ops.cast(p, "float32"), present)
        self._plain.compute_metrics(None, labels, outputs, present)
        self._weighted.compute_metrics(None, labels, outputs, _times(sample_weight, present))

    def _weighted_name(self, name):
        for output in self._plain.output_names or ():
            if name.startswith(f"{output}_"):
                return f"{output}_weighted_{name.removeprefix(f'{output}_')}"
        return f"weighted_{name}"

    def _map(self, function, labels, outputs):
        """Return `function(label, output)` in the structure of the labels."""
        if isinstance(labels, dict):
            outputs = outputs if isinstance(outputs, dict) else dict(zip(self._plain.output_names, outputs))
            return {key: self._map(function, labels[key], outputs[key]) for key in labels}
        if isinstance(labels, (list, tuple)):
            outputs = [outputs[key] for key in self._plain.output_names] if isinstance(outputs, dict) else outputs
            return type(labels)(self._map(function, *pair) for pair in zip(labels, outputs))
        return function(labels, keras.tree.flatten(outputs)[0])


class _Compiled(keras.Model):
    """Model without layers that holds a compiled state: the loss, weight and metrics of each output."""

    def __init__(self, output_names, **compiled):
        super().__init__()
        # A tuple: Keras would wrap a list, and its own structure checks do not accept the wrapper.
        self.output_names = None if output_names is None else tuple(output_names)
        self.compile(optimizer=None, jit_compile=False, **compiled)

    @property
    def own_metrics(self):
        # The distiller tracks the loss; a metric without variables has not seen data yet.
        return [metric for metric in self.metrics if metric.name != "loss" and metric.variables]

    def own_results(self):
        results = {}
        for metric in self.own_metrics:
            result = metric.result()
            results.update(result if isinstance(result, dict) else {metric.name: result})
        return results


def _copy_of_metric(metric):
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def _present(labels, outputs):
    return label_mask(ops.convert_to_tensor(labels), outputs)


def _balance(present, outputs):
    """Return weights that make the loss a mean over the labeled examples of all replicas.

    Keras takes the mean over a replica's examples, which is then multiplied by the replica's fraction of the step.
    """
    present = ops.cast(present, "float32")
    mask = _compat.keras_mask(outputs)
    counted = ops.ones_like(present) if mask is None or mask.shape != present.shape else ops.cast(mask, "float32")
    examples = ops.cast(ops.shape(present)[0], "float32")
    labeled, total = replicas.all_reduce_sum([ops.sum(counted * present), examples])
    return present * ops.divide_no_nan(ops.sum(counted) * total, examples * labeled)


def _filled(labels, present):
    """Return the labels with 0, which every loss accepts, in place of missing ones."""
    labels = ops.convert_to_tensor(labels)
    return ops.where(expand_to_rank(present, len(labels.shape)), labels, ops.zeros_like(labels))


def _times(sample_weight, weights):
    if sample_weight is None:
        return weights
    if keras.tree.is_nested(weights) and not keras.tree.is_nested(sample_weight):
        return keras.tree.map_structure(lambda w: multiply_weights(sample_weight, w), weights)
    return keras.tree.map_structure(multiply_weights, sample_weight, weights)
