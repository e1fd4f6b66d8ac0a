"""Canvases that tests of several recipes share."""

import numpy as np
import pytest

from recipes import canvases


@pytest.fixture(scope="module")
def rectangles():
    """Return 30 images, filled rectangles of different sizes, and their labels."""
    images, labels = np.zeros((30, 28, 28, 1), "float32"), np.arange(30) % 10
    for number, image in enumerate(images):
        image[4 : 12 + labels[number], 6 : 11 + number // 3] = 1.0
    return images, labels


@pytest.fixture(scope="module")
def drawn(rectangles):
    """Return 40 canvases with these images as digits."""
    return canvases.draw(*rectangles, 40, seed=3)
