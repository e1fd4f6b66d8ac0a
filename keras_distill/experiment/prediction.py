"""Outputs of a model for a split, in memory or, for large vocabularies, in a temporary file."""

import math
import os
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from keras_distill.experiment.examples import Examples

# Outputs of more bytes are kept in a file.
_MOST_BYTES = 2**30


def predict(model: keras.Model, examples: Examples, folder: str | os.PathLike, batch_size: int = 128) -> Any:
    """Return a model's outputs for all examples of a split.

    Args:
        model: The model.
        examples: The examples.
        folder: Folder for a temporary file of outputs of more than 1 GiB, which is created if necessary. The file is
            deleted with the array.
        batch_size: Examples per prediction. Defaults to 128.

    Returns:
        An array of shape `[examples, ...]`, or a structure of several for a model of several outputs.
    """
    batches = examples.batches(batch_size)
    if isinstance(batches.element_spec, tuple):
        # A tuple of one: `predict` would take the second of several inputs for labels.
        batches = batches.map(lambda inputs, *rest: (inputs,))
    shape = _shape(model, batches)
    if shape is None or 4 * len(examples) * math.prod(shape) <= _MOST_BYTES:
        return model.predict(batches, verbose=0)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        outputs = np.memmap(file, "float32", "w+", shape=(len(examples), *shape))
    start = 0
    for batch in batches:
        part = _predict_batch(model, batch)
        outputs[start : start + len(part)] = part
        start += len(part)
    return outputs


def _shape(model, batches):
    """Return the shape of a model's output for one example; None for several outputs and on several devices."""
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or any(isinstance(size, tuple) for size in shape):
        return None
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return None
    if None not in shape[1:]:
        return shape[1:]
    # The lengths of sequences are those of the data.
    return next((_predict_batch(model, batch).shape[1:] for batch in batches.take(1)), None)


def _predict_batch(model, batch):
    (inputs,) = batch if isinstance(batch, tuple) else (batch,)
    return np.asarray(model.predict_on_batch(inputs))
