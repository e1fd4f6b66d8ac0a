"""Peers of deep mutual learning, and reference values of their losses."""

import numpy as np

from tests.support.helpers import mlp, softened_kl, softmax


def peers(count=2, **options):
    return {name: mlp(width, name=name, **options) for name, width in zip("abc", (4, 6, 8)[:count])}


def predictions(models, x):
    return {name: model.predict(x, verbose=0) for name, model in models.items()}


def crossentropies(logits, y):
    return -np.log(softmax(logits))[np.arange(len(y)), y]


def mutual_loss(logits, name, temperature=1.0):
    """Return the mean divergence from the other peers: equation 4 of the paper, or 7 for more than two peers."""
    return np.mean([softened_kl(logits[name], z, temperature) for other, z in logits.items() if other != name], axis=0)
