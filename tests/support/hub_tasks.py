"""Losses of the first step of a distiller of KerasHub's models, and NumPy references in float64."""

import keras
import numpy as np

from tests.support.helpers import softmax

# Divides by the weight of the tokens, as `over="tokens"` does.
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def first_step(distiller, loss, *data):
    """Return the losses of the first training step, before its update."""
    distiller.compile("adam", loss, run_eagerly=True)
    return distiller.train_on_batch(*data, return_dict=True)


def run(model, x):
    return keras.tree.map_structure(lambda output: np.array(output, "float64"), model(x, training=False))


def crossentropies(logits, labels):
    return -np.log(np.take_along_axis(softmax(logits), np.maximum(labels, 0)[..., None], -1)[..., 0])


def cosine_distances(first, second):
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return 1 - (first * second).sum(-1) / norms


def weighted_mean(values, weights):
    return (values * weights).sum() / weights.sum()


def assert_losses(logs, **losses):
    for name, value in losses.items():
        np.testing.assert_allclose(logs[f"{name}_loss"], value, rtol=1e-4, err_msg=name)
