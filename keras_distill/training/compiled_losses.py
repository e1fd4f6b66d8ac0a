"""Supervised losses and metrics given to `compile`."""

import warnings
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.metrics import Perplexity
from keras_distill.models.lm_head import logits_layer
from keras_distill.models.specs import Spec
from keras_distill.training.labeled_losses import LabeledLoss, reads_class_indices
from keras_distill.training.labeled_metrics import LabeledMetric
from keras_distill.training.task_loss import TaskLoss, has_own_loss, named_results
from keras_distill.types import Structure, Tensor


def connect_layers(parts: Any, student: keras.Model, output: Structure) -> Any:
    """Return losses or metrics, those that read a layer of the student with this layer looked up.

    Args:
        parts: Loss or metric given to `compile`, or a structure of several.
        student: A `keras.Model`.
        output: `Spec` of the student's output, or a structure of several.

    Returns:
        The structure of `parts`.

    Raises:
        ValueError: If the layer does not exist, or does not take the student's output; and for crossentropies and
            accuracies of Keras if the student returns hidden states.
    """

    def connected(part):
        if not isinstance(part, (ChunkedCrossentropy, Perplexity)):
            _check_reads_logits(part, student)
            return part
        if isinstance(output, Spec):
            return part.connected(student, output.shape)
        if isinstance(part, Perplexity) and part.get_config()["layer"] is None:
            return part
        raise ValueError(f"{type(part).__name__} needs a student with one output. Received: '{student.name}'.")

    return keras.tree.map_structure(connected, parts)


def _check_reads_logits(part, student):
    """Raise ValueError for a loss or metric of Keras that would take hidden states for logits."""
    name = part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)
    is_of_keras = isinstance(part, str) or (getattr(part, "__module__", None) or "").startswith("keras.")
    reads_logits = name == "acc" or any(word in name.lower() for word in ("crossentropy", "accuracy"))
    if is_of_keras and reads_logits and logits_layer(student) is not None:
        raise ValueError(
            f"{name} reads logits, but '{student.name}' is a HiddenStates model. Use `ChunkedCrossentropy()` as the "
            "loss and `Perplexity()` as a metric, or pass the model itself."
        )


class CompiledLosses:
    """Losses and metrics given to `compile(loss=, metrics=)`.

    Keras' own compiled state computes them, so that labels and sample weights may have every structure that it takes.
    Missing labels are left out, see `LabeledLoss` and `LabeledMetric`.

    Args:
        model: The student or peer.
        loss: Loss in any form that `keras.Model.compile` takes, or None.
        loss_weights: Weights of the losses of several outputs, or None.
        metrics: Metrics that sample weights do not apply to, or None.
        weighted_metrics: Metrics that sample weights apply to, or None.
    """

    # The regularizers of the student are added to the loss.
    counts_regularizers = False

    def __init__(self, model, loss=None, loss_weights=None, metrics=None, weighted_metrics=None):
        self.supervised = loss is not None
        self._model = model
        self._loss_arguments = {"loss": loss, "loss_weights": loss_weights}
        output_names = getattr(model, "output_names", None)
        self._compiled = _Compiled(
            output_names,
            loss=on_labeled(loss),
            loss_weights=loss_weights,
            metrics=metrics_on_labeled(metrics, loss, output_names),
            weighted_metrics=metrics_on_labeled(weighted_metrics, loss, output_names),
        )

    def without_metrics(self) -> "CompiledLosses":
        """Return the same loss without metrics, with its own trackers for the parts of the loss."""
        return CompiledLosses(self._model, **self._loss_arguments)

    @property
    def output_loss_names(self) -> list[str]:
        """Names under which Keras logs the loss of each output, if there are several."""
        loss, names = self._loss_arguments["loss"], self._compiled.output_names or ()
        if isinstance(loss, dict):
            # Keras takes the keys, which may differ from the names that it gives to the outputs.
            names = [name for name, part in loss.items() if part is not None]
        elif _compat.has_graph(self._model) and isinstance(outputs := _compat.graph_outputs(self._model), dict):
            names = list(outputs)
        return [] if loss is None or len(names) < 2 else [f"{name}_loss" for name in names]

    @property
    def metrics(self) -> list:
        """Metrics that have seen data, followed by those that layers of the model own."""
        return [*self._compiled.own_metrics, *_compat.layer_metrics(self._model)]

    def results(self) -> dict[str, Tensor]:
        """Return `{name: value}` of the metrics, with the names that Keras gives them."""
        return named_results(self.metrics)

    def loss(
        self, x: Structure, y: Structure, y_pred: Structure, sample_weight: Structure = None, training: bool = True
    ) -> Tensor | None:
        """Return the supervised loss without regularizers; None without labels or without a loss.

        Args:
            x: Inputs of the student.
            y: Labels given to `fit`, a structure of tensors or None.
            y_pred: Outputs of the student.
            sample_weight: Sample weights given to `fit`, or None.
            training: Whether the student runs in training mode.

        Returns:
            Scalar, or one value per example for a loss with `reduction=None`. As in Keras, the mean over a replica's
            examples divided by the number of replicas.
        """
        if self.supervised and y is None:
            warnings.warn(
                "`compile` got a loss, but the data hold no labels: the supervised loss is 0. Pass labels, or compile "
                "without a loss. A loss without labels belongs in the student's `add_loss` or `compute_loss`.",
                stacklevel=2,
            )
        if y is not None and not self.supervised and getattr(self._model, "loss", None) is not None:
            warnings.warn(
                f"The labels are not used: '{self._model.name}' is compiled with a loss, but the distiller is compiled "
                "without one. Pass `loss=` to the distiller's `compile`, or train without labels.",
                stacklevel=2,
            )
        if y is None or not self.supervised:
            return None
        return self._compiled.compute_loss(x, y, y_pred, sample_weight, training)

    def update_metrics(
        self, x: Structure, y: Structure, y_pred: Structure, sample_weight: Structure = None
    ) -> dict[str, Any]:
        """Update the metrics; do nothing without labels.

        Args:
            x: Inputs of the student.
            y: Labels given to `fit`, a structure of tensors or None.
            y_pred: Outputs of the student.
            sample_weight: Sample weights given to `fit`, or None.

        Returns:
            `{name: value}` of what is logged besides `results`: nothing.
        """
        if y is not None:
            self._compiled.compute_metrics(x, y, y_pred, sample_weight)
        return {}


def supervised_losses(model: keras.Model, **compiled: Any) -> CompiledLosses | TaskLoss:
    """Return the supervised loss and metrics of a student or peer.

    Args:
        model: The student or peer.
        **compiled: `loss`, `loss_weights`, `metrics` and `weighted_metrics` given to `compile`.
    """
    return (TaskLoss if has_own_loss(model) else CompiledLosses)(model, **compiled)


def copied_metrics(metrics: Any) -> Any:
    """Return the metrics given to `compile` as new objects, so that each peer has its own."""
    return keras.tree.map_structure(_copy_of_metric, metrics)


def on_labeled(loss: Any) -> Any:
    """Return the losses given to `compile`, each as a `LabeledLoss`."""
    return keras.tree.map_structure(lambda part: None if part is None else LabeledLoss(part), loss)


def metrics_on_labeled(metrics: Any, loss: Any, output_names: Any) -> Any:
    """Return the metrics given to `compile`, each as a `LabeledMetric`.

    Args:
        metrics: Metrics in any form that `compile` takes.
        loss: Losses in any form that `compile` takes: metrics of an output whose loss reads class indices leave out -1.
        output_names: Names of the outputs, or None.
    """

    def wrapped(part, losses):
        reads = any(reads_class_indices(each) for each in keras.tree.flatten(losses) if each is not None)
        return keras.tree.map_structure(lambda metric: None if metric is None else LabeledMetric(metric, reads), part)

    names = list(output_names or ())
    if isinstance(loss, (list, tuple)) and len(loss) == len(names):
        loss = dict(zip(names, loss))
    if isinstance(metrics, dict):
        return {
            name: wrapped(part, loss.get(name) if isinstance(loss, dict) else loss) for name, part in metrics.items()
        }
    if isinstance(loss, dict) and isinstance(metrics, (list, tuple)) and len(metrics) == len(names):
        return [wrapped(part, loss.get(name)) for name, part in zip(names, metrics)]
    return wrapped(metrics, loss)


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


def _copy_of_metric(metric):
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric
