"""Prediction latency of several models, measured side by side."""

import dataclasses
import re
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.types import Structure

_REPEATS, _MIN_REPEATS = 30, 3


@dataclasses.dataclass(frozen=True)
class Latency:
    """Prediction latency of a model in milliseconds per example.

    Attributes:
        median: Median over the repetitions.
        low: First quartile.
        high: Third quartile.
        batch_size: Examples per prediction.

    Example:

    >>> from keras_distill.experiment import Latency
    >>> Latency(0.12, 0.11, 0.14, 128).text()
    '0.12'
    """

    median: float
    low: float
    high: float
    batch_size: int

    def text(self) -> str:
        """Return the median with three digits."""
        return f"{self.median:.3g}"


def measure_latencies(
    models: dict[str, keras.Model],
    inputs: Structure,
    batch_size: int = 128,
    repeats: int = _REPEATS,
    seconds: float = 30.0,
) -> dict[str, Latency]:
    """Measure the prediction latency of several models.

    The models run in turn, so that other load on the machine slows all of them alike. Models of one architecture are
    measured once, since a difference between them would be noise. Large models get smaller batches and fewer
    repetitions, as the time allows.

    Args:
        models: `{name: keras.Model}`.
        inputs: Structure of arrays, at least one example. They are repeated to fill a batch.
        batch_size: Examples per prediction, at most. Defaults to 128.
        repeats: Predictions per model. If the time is over, fewer, but at least 3. Defaults to 30.
        seconds: Approximate time for all predictions together. Defaults to 30.

    Returns:
        `{name: Latency}`.
    """
    signature = keras.tree.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), inputs)
    architectures = {name: architecture(model) for name, model in models.items()}
    functions = {
        key: tf.function(lambda x, model=model: model(x, training=False), input_signature=[signature])
        for key, model in {architectures[name]: model for name, model in models.items()}.items()
    }
    single = _batch(inputs, 1)
    for function in functions.values():
        # The first call traces the graph.
        _seconds(function, single)
    if functions:
        pass_of_all = sum(_seconds(function, single) for function in functions.values())
        batch_size = min(batch_size, max(1, int(seconds / (_MIN_REPEATS * pass_of_all))))
    batch = _batch(inputs, batch_size)
    for function in functions.values():
        # The first call with another batch size allocates memory.
        _seconds(function, batch)
    times: dict[Any, list[float]] = {key: [] for key in functions}
    start = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= _MIN_REPEATS and time.perf_counter() - start > seconds:
            break
        for key, function in functions.items():
            times[key].append(1000 * _seconds(function, batch) / batch_size)
    return {name: _summary(times[key], batch_size) for name, key in architectures.items()}


def _batch(inputs, size):
    index = np.resize(np.arange(len(keras.tree.flatten(inputs)[0])), size)
    return keras.tree.map_structure(lambda array: tf.constant(array[index]), inputs)


def _seconds(function, inputs):
    start = time.perf_counter()
    tf.nest.map_structure(lambda tensor: tensor.numpy(), function(inputs))
    return time.perf_counter() - start


def _summary(milliseconds, batch_size):
    low, median, high = np.percentile(milliseconds, [25, 50, 75])
    return Latency(float(median), float(low), float(high), batch_size)


def architecture(model: keras.Model) -> str:
    """Return a key that models of the same architecture share.

    Args:
        model: A `keras.Model`.
    """
    try:
        # Without the names of the model and its layers, which do not change the computation.
        return re.sub(r'"name": "[^"]*"', "", model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        # A subclassed model without a configuration.
        return str(id(model))
