"""Prediction latency of several models, measured side by side."""

import dataclasses
import re
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.types import Structure

_REPEATS = 30


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
    models: dict[str, keras.Model], inputs: Structure, batch_size: int = 128, repeats: int = _REPEATS
) -> dict[str, Latency]:
    """Measure the prediction latency of several models.

    The models run in turn, so that other load on the machine slows all of them alike. Models of one architecture are
    measured once, since a difference between them would be noise.

    Args:
        models: `{name: keras.Model}`.
        inputs: Structure of arrays, at least one example. They are repeated to fill a batch.
        batch_size: Examples per prediction. Defaults to 128.
        repeats: Predictions per model. Defaults to 30.

    Returns:
        `{name: Latency}`.
    """
    index = np.resize(np.arange(len(keras.tree.flatten(inputs)[0])), batch_size)
    inputs = keras.tree.map_structure(lambda array: tf.constant(array[index]), inputs)
    architectures = {name: architecture(model) for name, model in models.items()}
    functions = {
        key: tf.function(lambda x, model=model: model(x, training=False))
        for key, model in {architectures[name]: model for name, model in models.items()}.items()
    }
    times: dict[Any, list[float]] = {key: [] for key in functions}
    for repeat in range(repeats + 1):
        for key, function in functions.items():
            start = time.perf_counter()
            tf.nest.map_structure(lambda tensor: tensor.numpy(), function(inputs))
            # The first call traces the graph.
            if repeat:
                times[key].append(1000 * (time.perf_counter() - start) / batch_size)
    return {name: _summary(times[key], batch_size) for name, key in architectures.items()}


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
