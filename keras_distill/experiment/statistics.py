"""Statistics of paired training runs."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from scipy import stats

# A difference with a smaller p-value counts as clear.
SIGNIFICANCE = 0.05
# With fewer seeds the smallest p-value of a sign-flip test, 2 / 2^seeds, is not below `SIGNIFICANCE`.
SIGN_FLIP_SEEDS = 6
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference in score between two models that were trained with the same seeds.

    Attributes:
        model: Name of the model.
        baseline: Name of the model that it is compared with.
        difference: Mean over the seeds of score(model) - score(baseline).
        seeds: Number of seeds.
        interval: 95 % interval of the mean difference over seeds, `(low, high)`, from the paired t distribution; None
            for one seed.
        p: p-value of the two-sided paired t-test; None for one seed.
        sign_flip_p: p-value of the two-sided sign-flip test; None for fewer than 6 seeds, which cannot reach 0.05.
        example_interval: 95 % interval of the same difference over the evaluation examples, `(low, high)`: percentile
            bootstrap of the examples for the given trained models. None if it was not computed.

    Example:

    >>> from keras_distill.experiment import compare
    >>> comparison = compare("distilled", [0.95, 0.96, 0.97], "baseline", [0.94, 0.94, 0.96])
    >>> round(comparison.difference, 4), round(comparison.p, 3), comparison.clear
    (0.0133, 0.057, False)
    """

    model: str
    baseline: str
    difference: float
    seeds: int
    interval: tuple[float, float] | None = None
    p: float | None = None
    sign_flip_p: float | None = None
    example_interval: tuple[float, float] | None = None

    @property
    def clear(self) -> bool:
        """True if the p-value of the paired t-test is below 0.05."""
        return self.p is not None and self.p < SIGNIFICANCE


def compare(
    model: str,
    scores: Sequence[float],
    baseline: str,
    baseline_scores: Sequence[float],
    resolution: float = 0.0,
    example_interval: tuple[float, float] | None = None,
) -> Comparison:
    """Compare two models over seeds by a two-sided paired t-test.

    Scores that are counts, such as an accuracy, are multiples of a resolution. A few seeds may then have equal
    differences by chance, whose standard deviation of 0 would make any of them significant. The variance of the
    rounding of a difference, resolution^2 / 6 (Sheppard's correction of two rounded numbers), is therefore added.

    Args:
        model: Name of the model.
        scores: Its score for each seed.
        baseline: Name of the model that it is compared with.
        baseline_scores: Its score for each seed, in the same order.
        resolution: Smallest difference between two scores, such as 1 / (number of examples) for an accuracy. Defaults
            to 0.0, continuous scores.
        example_interval: Interval over examples, from `bootstrap`. Defaults to None.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If the numbers of scores differ or are 0.

    Reference:
        Student, 1908, https://doi.org/10.2307/2331554; Sheppard, 1897, https://doi.org/10.1112/plms/s1-29.1.353
    """
    differences = np.asarray(scores, float) - np.asarray(baseline_scores, float) if len(scores) else np.array([])
    if len(scores) != len(baseline_scores) or not len(scores):
        raise ValueError(
            f"'{model}' and '{baseline}' must have a score for each seed. Received: {len(scores)} and "
            f"{len(baseline_scores)} scores"
        )
    mean, count = float(differences.mean()), len(differences)
    # Differences of equal scores differ by rounding errors of float64, which count as zero.
    rounding = 1e-12 * max(np.abs(scores).max(), np.abs(baseline_scores).max())
    if count == 1:
        return Comparison(model, baseline, mean, 1, example_interval=example_interval)
    variance = float(differences.var(ddof=1))
    variance = (variance if variance > rounding**2 else 0.0) + resolution**2 / 6
    error = math.sqrt(variance / count)
    half = float(stats.t.ppf(1 - SIGNIFICANCE / 2, count - 1)) * error
    # Continuous scores may differ by a constant: without variance, every mean but 0 is significant.
    statistic = abs(mean) / error if error else np.inf
    p = 1.0 if abs(mean) <= rounding else float(2 * stats.t.sf(statistic, count - 1))
    sign_flip_p = _sign_flip(differences) if count >= SIGN_FLIP_SEEDS else None
    return Comparison(model, baseline, mean, count, (mean - half, mean + half), p, sign_flip_p, example_interval)


def _sign_flip(differences: np.ndarray) -> float:
    """Return the p-value of the two-sided sign-flip test of a mean of 0."""
    result = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    return float(result.pvalue)


def bootstrap(
    score: Callable[[Any], float], records: Sequence[Any], baseline_records: Sequence[Any], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % interval over examples of the difference in score between two models, averaged over seeds.

    Both models are evaluated on the same resampled examples (paired percentile bootstrap).

    Args:
        score: Function of records that returns the score, such as `Task.score_of`.
        records: For each seed, a structure of arrays with one row per example.
        baseline_records: The same for the other model.
        resamples: Number of resamples, >= 100. Defaults to 1000.

    Returns:
        `(low, high)`.

    Reference:
        Efron, 1979, https://doi.org/10.1214/aos/1176344552
    """
    count = len(keras.tree.flatten(records[0])[0])
    random = np.random.default_rng(0)
    differences = np.empty(resamples)
    for number in range(resamples):
        rows = random.integers(count, size=count)
        own, other = (
            np.mean([score(keras.tree.map_structure(lambda array, rows=rows: array[rows], each)) for each in listed])
            for listed in (records, baseline_records)
        )
        differences[number] = own - other
    low, high = np.percentile(differences, [100 * SIGNIFICANCE / 2, 100 * (1 - SIGNIFICANCE / 2)])
    return float(low), float(high)
