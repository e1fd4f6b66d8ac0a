"""Supervised loss of a student that overrides `compute_loss`."""

import contextlib
import inspect
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_distill.distribution import replicas
from keras_distill.models.specs import own_inputs
from keras_distill.types import Structure, Tensor

_ABSENT = object()
_METHODS = ("compute_loss", "compute_metrics")


def has_own_loss(model: keras.Model) -> bool:
    """Return whether a model overrides `compute_loss` or `compute_metrics`."""
    return any(getattr(type(model), name) is not getattr(keras.Model, name) or name in vars(model) for name in _METHODS)


class TaskLoss:
    """Loss and metrics that a student computes by its own `compute_loss` and `compute_metrics`.

    They run as after `student.compile` with the loss and metrics given to the distiller, or else as the student was
    compiled; the student's own compiled state is put back after each call. Labels, sample weights and missing labels
    are whatever the student takes. Its regularizers are part of what `compute_loss` returns.

    Args:
        student: The student.
        loss: Loss given to `compile`, or None for that of the student.
        loss_weights: Loss weights given to `compile`, or None.
        metrics: Metrics given to `compile`, or None.
        weighted_metrics: Weighted metrics given to `compile`, or None.

    Raises:
        ValueError: For metrics without a loss if the student is compiled, and for arguments
            that `student.compile` does not take.
    """

    supervised = True
    counts_regularizers = True
    # Names of the trackers are those of the student's own compiled state.
    output_loss_names = ()

    def __init__(self, student, loss=None, loss_weights=None, metrics=None, weighted_metrics=None):
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        # Keras would look for the labels of each output even for an empty list of metrics.
        given = {name: value for name, value in given.items() if value is not None and value != []}
        self._student = student
        if student.compiled and given and loss is None:
            raise ValueError(
                f"The student '{student.name}' computes its loss itself and is compiled, but `compile` got "
                f"{list(given)} without a loss. Pass them to the student's `compile`, or pass a loss, too."
            )
        self._state = {} if student.compiled and not given else _compiled_state(student, given)

    def without_metrics(self) -> "TaskLoss":
        """Return the same loss; its metrics belong to the student."""
        return self

    @property
    def metrics(self) -> list:
        """Metrics of the student that have seen data, but for its total loss."""
        with self._as_compiled():
            return [metric for metric in self._student.metrics if metric.name != "loss" and metric.variables]

    def results(self) -> dict[str, Tensor]:
        """Return `{name: value}` of the metrics, with the names that Keras gives them."""
        return named_results(self.metrics)

    def loss(
        self, x: Structure, y: Structure, y_pred: Structure, sample_weight: Structure = None, training: bool = True
    ) -> Tensor | None:
        """Return what the student's `compute_loss` returns; see `CompiledLosses.loss`.

        Raises:
            ValueError: If it fails without labels.
        """
        if replicas.num_replicas() > 1:
            warnings.warn(
                f"The student '{self._student.name}' computes its loss itself: on several replicas it is not known "
                "whether it is a sum or a mean over examples. It is taken for a mean, as Keras scales it.",
                stacklevel=2,
            )
        # As in Keras: older overrides do not have this argument.
        has_training = "training" in inspect.signature(self._student.compute_loss).parameters
        options = {"training": training} if has_training else {}
        try:
            with self._as_compiled():
                return self._student.compute_loss(own_inputs(self._student, x), y, y_pred, sample_weight, **options)
        except Exception as error:
            if y is not None:
                raise
            raise ValueError(
                f"`compute_loss` of '{self._student.name}' failed without labels: {error}. Pass labels, or "
                "`supervised_weight=0` to train on the terms alone."
            ) from error

    def update_metrics(
        self, x: Structure, y: Structure, y_pred: Structure, sample_weight: Structure = None
    ) -> dict[str, Any]:
        """Update the metrics and return what `compute_metrics` returned besides them; see `CompiledLosses`."""
        if y is None:
            return {}
        with self._as_compiled():
            logs = self._student.compute_metrics(own_inputs(self._student, x), y, y_pred, sample_weight)
        known = self.results()
        return {name: value for name, value in logs.items() if name != "loss" and name not in known}

    @contextlib.contextmanager
    def _as_compiled(self) -> Iterator[None]:
        attributes = vars(self._student)
        own = {name: attributes.get(name, _ABSENT) for name in self._state}
        attributes.update(self._state)
        try:
            yield
        finally:
            _restore(attributes, own)


def named_results(metrics: Iterable[keras.metrics.Metric]) -> dict[str, Tensor]:
    """Return `{name: value}` of metrics, of which some hold several values."""
    results = {}
    for metric in metrics:
        result = metric.result()
        results.update(result if isinstance(result, dict) else {metric.name: result})
    return results


def _compiled_state(student, arguments):
    """Return the attributes that `student.compile` sets, without leaving them set."""
    attributes = vars(student)
    before = dict(attributes)
    try:
        student.compile(optimizer="sgd", **arguments)
    except TypeError as error:
        raise ValueError(
            f"'{student.name}.compile' does not take {list(arguments)}: {error}. Compile the student itself, with its "
            "own arguments, and pass neither loss nor metrics to the distiller."
        ) from error
    finally:
        state = {name: value for name, value in attributes.items() if before.get(name, _ABSENT) is not value}
        _restore(attributes, {name: before.get(name, _ABSENT) for name in state})
    return state


def _restore(attributes, values):
    for name, value in values.items():
        if value is _ABSENT:
            attributes.pop(name, None)
        else:
            attributes[name] = value
