"""MUNGE: new rows of a table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from keras_distill.data.augmentation import Augmentation, like
from keras_distill.utils.arguments import check_number


@dataclasses.dataclass(frozen=True)
class Munge(Augmentation):
    """Rows of a table in which random columns are moved towards the nearest other row.

    In each column, with probability `probability`, the value `a` of a row is replaced by a draw from a normal
    distribution around the value `b` of the nearest row, with the standard deviation `|a - b| / closeness`. Columns of
    categories take `b` itself. Neighbors are nearest in columns scaled to unit variance; two categories that differ are
    at the distance 1.

    Args:
        probability: Probability of a change in each column, in (0, 1]. 0.2 to 0.75 is typical. Defaults to 0.5.
        closeness: Ratio of the difference to the standard deviation, > 0. Larger values stay closer to the data.
            Defaults to 1.0.
        categories: Indices of the columns with categories. Defaults to none.

    Raises:
        ValueError: If a number is out of its range; when called, if inputs are not a table of finite numbers, shape
            `[examples, columns]`, with at least 2 rows.

    Reference:
        Bucila, Caruana and Niculescu-Mizil, KDD 2006, https://doi.org/10.1145/1150402.1150464

    Example:

    >>> from keras_distill.data import Munge, augment
    >>> rows = np.random.default_rng(0).random((20, 4))
    >>> new_rows, _ = augment(Munge(), rows, size=2)
    """

    probability: float = 0.5
    closeness: float = 1.0
    categories: Sequence[int] = ()

    def __post_init__(self):
        check_number(self.probability, "probability", above=0, at_most=1)
        check_number(self.closeness, "closeness", above=0)

    def __call__(self, inputs: Any, labels: Any, generator: np.random.Generator) -> tuple[Any, Any]:
        if not isinstance(inputs, np.ndarray) or inputs.ndim != 2 or inputs.dtype.kind not in "fiub":
            received = f"{inputs.dtype}, shape {inputs.shape}" if isinstance(inputs, np.ndarray) else type(inputs)
            raise ValueError(f"Munge takes a table of numbers, shape [examples, columns]. Received: {received}")
        rows = inputs.astype("float64")
        if len(rows) < 2 or not np.isfinite(rows).all():
            raise ValueError("Munge needs at least 2 rows, and no NaN or infinity.")
        nearest = rows[_nearest(rows, list(self.categories))]
        deviation = np.abs(rows - nearest) / self.closeness
        deviation[:, list(self.categories)] = 0
        changed = generator.random(rows.shape) < self.probability
        return like(np.where(changed, generator.normal(nearest, deviation), rows), inputs), labels


def _nearest(rows, categories):
    """Return the index of the nearest other row of each row."""
    real = np.delete(rows, categories, axis=1)
    spread = real.std(axis=0)
    scaled = [real / np.where(spread > 0, spread, 1)]
    scaled += [(rows[:, column, None] == np.unique(rows[:, column])) / np.sqrt(2) for column in categories]
    points = np.hstack(scaled)
    _, found = cKDTree(points).query(points, k=2, workers=-1)
    # A row comes first, unless equal rows come before it.
    return np.where(found[:, 0] == np.arange(len(rows)), found[:, 1], found[:, 0])
