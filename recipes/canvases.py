"""Canvases of 64x64 pixels with one to three MNIST digits, their masks and their boxes."""

from typing import NamedTuple

import numpy as np

from . import common, data

SIZE = 64
# Class index of pixels that count neither in a loss nor in a score.
IGNORED = 255
# Most digits on a canvas; absent ones have the class -1.
MOST_DIGITS = 3
CLASSES = ("background", *data.DIGITS)
# Standard deviation of the noise. The ink of the faintest digit is 0.6.
_NOISE = 0.1
_FAINTEST = 0.6
# Distances in pixels: width of the ignored band, and of the gap between two digits.
_BAND, _GAP = 2, 3
# The first training digits are drawn on the canvases for training, the other 10,000 on those for validation.
_TRAINING_DIGITS = 50_000


class Canvases(NamedTuple):
    """Canvases as arrays.

    Attributes:
        images: float32 from 0 to 1, shape `[canvases, 64, 64, 1]`.
        masks: Classes of the pixels, uint8 of shape `[canvases, 64, 64]`: 0 is the background, 1 + d the digit d, 255
            the band around a digit.
        boxes: Boxes of the digits, `[left, top, right, bottom]` as fractions of the canvas, float32 of shape
            `[canvases, 3, 4]`; -1 for absent digits.
        digits: Digits in the order of the boxes, int32 of shape `[canvases, 3]`; -1 for absent ones.
    """

    images: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    digits: np.ndarray


def splits(train: int, evaluation: int) -> tuple[Canvases, Canvases]:
    """Return canvases for training, and those of the split of `--evaluate_on`; no digit is on canvases of both.

    Args:
        train: Number of canvases for training.
        evaluation: Number of canvases for the evaluation.
    """
    arrays = data.mnist()
    images, labels = data.rows(arrays.train, slice(_TRAINING_DIGITS))
    if common.SMOKE.value:
        train, evaluation = min(train, 96), min(evaluation, 32)
    return draw(images, labels, train, seed=0), draw(*arrays.test, evaluation, seed=1)


def draw(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> Canvases:
    """Draw canvases. Each depends on its number and on the seed alone.

    Args:
        images: Images of digits, float32 from 0 to 1, shape `[digits, 28, 28, 1]`.
        labels: Their labels, shape `[digits]`.
        count: Number of canvases.
        seed: Seed, >= 0.
    """
    drawn = [_canvas(images, labels, np.random.default_rng([seed, number])) for number in range(count)]
    return Canvases(*(np.stack(arrays) for arrays in zip(*drawn)))


def _canvas(images, labels, generator):
    ink, mask = np.zeros((SIZE, SIZE), "float32"), np.zeros((SIZE, SIZE), "uint8")
    boxes, digits = np.full((MOST_DIGITS, 4), -1, "float32"), np.full(MOST_DIGITS, -1, "int32")
    taken = np.zeros((SIZE, SIZE), bool)
    for number in range(generator.integers(1, MOST_DIGITS + 1)):
        index = generator.integers(len(images))
        digit = _without_margins(images[index, ..., 0])
        place = _free_place(taken, digit.shape, generator)
        if place is None:
            break
        ink[place] = digit * generator.uniform(_FAINTEST, 1)
        taken[place] = True
        stroke = np.zeros((SIZE, SIZE), bool)
        stroke[place] = digit > 0.5
        mask[_widened(stroke, _BAND) & ~stroke] = IGNORED
        mask[stroke] = 1 + labels[index]
        rows, columns = place
        boxes[number] = np.array([columns.start, rows.start, columns.stop, rows.stop]) / SIZE
        digits[number] = labels[index]
    noisy = ink + generator.normal(0, _NOISE, ink.shape)
    return np.clip(noisy, 0, 1).astype("float32")[..., None], mask, boxes, digits


def _without_margins(image):
    rows, columns = (np.flatnonzero((image > 0.1).any(axis=axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(taken, shape, generator):
    """Return the slices of a random place that keeps a gap to all taken pixels; None if 50 tries find none."""
    for _ in range(50):
        top, left = (int(generator.integers(_GAP, SIZE - _GAP - length + 1)) for length in shape)
        bottom, right = top + shape[0], left + shape[1]
        if not taken[top - _GAP : bottom + _GAP, left - _GAP : right + _GAP].any():
            return slice(top, bottom), slice(left, right)
    return None


def _widened(pixels, width):
    """Return pixels and those within a distance of them along both axes. The border of the canvas must be free."""
    for axis in (0, 1):
        pixels = np.logical_or.reduce([np.roll(pixels, shift, axis) for shift in range(-width, width + 1)])
    return pixels
