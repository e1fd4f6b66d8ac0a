"""Additions to `fit`: class weights of datasets, and validation without the terms."""

import inspect
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _compat
from keras_distill.data.batch import Batch
from keras_distill.data.class_weights import class_weighted
from keras_distill.data.labels import check_indices
from keras_distill.losses.chunked_crossentropy import ChunkedCrossentropy
from keras_distill.training.labeled_losses import reads_class_indices


def fit_arguments(model: keras.Model, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of `keras.Model.fit` by name.

    Args:
        model: The distiller.
        *args: Positional arguments of `fit`.
        **kwargs: Arguments of `fit` by name.

    Raises:
        TypeError: For arguments that `fit` does not have.
        ValueError: For class indices in a NumPy array that are no classes of the student, and for sample weights of
            arrays without labels.
    """
    given = inspect.signature(keras.Model.fit).bind(model, *args, **kwargs).arguments
    _check_sample_weight(given.get("y"), given.get("sample_weight"))
    validation = given.get("validation_data")
    if isinstance(validation, (list, tuple)) and len(validation) == 3:
        _check_sample_weight(*validation[1:])
    _check_class_indices(model, given.get("y"))
    if isinstance(given.get("x"), tf.data.Dataset) and given.get("class_weight"):
        given |= {"x": class_weighted(given["x"], given["class_weight"]), "class_weight": None}
    callbacks = given.get("callbacks")
    if isinstance(callbacks, (list, tuple)):
        given["callbacks"] = [_Monitors(callbacks), *callbacks]
    return given


def evaluates_terms(distiller: keras.Model, batch: Batch) -> bool:
    """Return whether the terms can and should be computed for a batch of validation data.

    Args:
        distiller: The distiller.
        batch: The `Batch`; a `CachedTeacher` needs activations that came with it.
    """
    needs_activations = distiller.teacher is not None and distiller.teacher.stored
    if not distiller.evaluate_terms or not needs_activations or batch.cached is not None:
        return distiller.evaluate_terms
    warnings.warn(
        "Validation leaves out the terms: the validation data hold no activations of the teacher. Pass "
        "`with_activations(x, activations)`, or compile with `evaluate_terms=False`.",
        stacklevel=2,
    )
    return False


def check_evaluation(*args: Any, **kwargs: Any) -> None:
    """Raise ValueError for sample weights of arrays without labels among the arguments of `keras.Model.evaluate`."""
    given = inspect.signature(keras.Model.evaluate).bind(*args, **kwargs).arguments
    _check_sample_weight(given.get("y"), given.get("sample_weight"))


def _check_sample_weight(labels, sample_weight):
    if sample_weight is not None and labels is None:
        raise ValueError(
            "Keras drops `sample_weight` where it gets no `y`. Pass a dataset instead: "
            "tf.data.Dataset.from_tensor_slices((x, sample_weight)).map(lambda x, w: (x, None, w)).batch(32)"
        )


def _check_class_indices(distiller, labels):
    """In a training step, TensorFlow's error would name neither the model nor the cure."""
    loss = getattr(distiller, "loss", None)
    single = isinstance(loss, str | keras.losses.Loss) or callable(loss)
    if not single or not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return
    if not reads_class_indices(loss) or isinstance(loss, ChunkedCrossentropy):
        return
    for model in distiller.outputs.values():
        shape = getattr(model, "output_shape", None)
        # Labels of another rank are left to Keras' own errors.
        if isinstance(shape, tuple) and (shape[-1] or 0) > 1 and labels.ndim in (len(shape) - 1, len(shape)):
            check_indices(labels, shape[-1], model.name, getattr(loss, "ignore_class", None))


class _Monitors(keras.callbacks.Callback):
    """Prepares callbacks that monitor a value, such as `EarlyStopping`. The first callback of all.

    Tells them whether larger values are better, which Keras finds out only for its own container of metrics. Raises
    where validation leaves the value out; Keras would only warn.
    """

    def __init__(self, callbacks):
        super().__init__()
        self._callbacks = [callback for callback in callbacks if isinstance(getattr(callback, "monitor", None), str)]

    def on_epoch_end(self, epoch, logs=None):
        left_out = {f"val_{name}" for name in self.model.left_out}
        for callback in self._callbacks:
            monitor = callback.monitor
            if monitor in left_out and monitor not in (logs or {}):
                raise ValueError(
                    f"{type(callback).__name__} monitors '{monitor}', which validation leaves out. Monitor "
                    "'val_supervised_loss' or a metric, or pass validation data with the teacher's activations."
                )
            if getattr(callback, "mode", None) == "auto":
                callback.mode = self._mode(monitor.removeprefix("val_")) or "auto"

    def _mode(self, name):
        modes = _compat.metric_modes(self.model.metrics)
        if modes.get(name) is None and name.endswith("loss"):
            return "min"
        if name in modes:
            return modes[name]
        # Names of several outputs and of peers come first: "topic_accuracy".
        return next((mode for metric, mode in modes.items() if name.endswith(f"_{metric}")), None)
