"""Statistics of paired runs, compared with SciPy and simulated under null hypotheses."""

import itertools

import numpy as np
import pytest
from scipy import stats

from keras_distill.experiment import bootstrap, compare
from keras_distill.experiment.statistics import SIGN_FLIP_SEEDS

OWN, OTHER = [0.95, 0.96, 0.97, 0.955, 0.962, 0.97], [0.94, 0.94, 0.965, 0.95, 0.963, 0.96]


def test_paired_t_test_is_that_of_scipy():
    result = compare("a", OWN, "b", OTHER)
    expected = stats.ttest_rel(OWN, OTHER)
    interval = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert result.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert result.difference == pytest.approx(np.mean(np.subtract(OWN, OTHER)))
    assert (result.model, result.baseline, result.seeds) == ("a", "b", 6)


def test_sign_flip_test_enumerates_all_signs():
    differences = np.subtract(OWN, OTHER)
    means = [np.mean(differences * signs) for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert compare("a", OWN, "b", OTHER).sign_flip_p == pytest.approx(expected)
    assert compare("a", OWN[:5], "b", OTHER[:5]).sign_flip_p is None
    # The smallest p-value of fewer seeds is not below 0.05.
    assert 2 / 2**SIGN_FLIP_SEEDS < 0.05 < 2 / 2 ** (SIGN_FLIP_SEEDS - 1)


def test_one_seed_has_no_test():
    result = compare("a", [0.9], "b", [0.8])
    assert result.difference == pytest.approx(0.1)
    assert (result.p, result.interval, result.sign_flip_p, result.clear) == (None, None, None, False)


def test_equal_scores_are_no_difference():
    result = compare("a", [0.9, 0.91, 0.92], "b", [0.9, 0.91, 0.92])
    assert result.p == 1 and not result.clear and result.interval == (0, 0)
    # Equal up to rounding.
    scores = np.array([0.1, 0.2, 0.3])
    assert compare("a", scores + 0.1 - 0.1, "b", scores).p == 1


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1.0, 1e9])
def test_the_unit_of_the_score_does_not_matter(scale):
    expected, result = (
        compare("a", OWN, "b", OTHER),
        compare("a", np.multiply(OWN, scale), "b", np.multiply(OTHER, scale)),
    )
    assert result.p == pytest.approx(expected.p, rel=1e-6)
    assert result.interval == pytest.approx(np.multiply(expected.interval, scale), rel=1e-6)


def test_a_constant_difference_is_clear_only_where_scores_are_continuous():
    own, other = [0.91, 0.92, 0.93], [0.90, 0.91, 0.92]
    assert compare("a", own, "b", other).clear
    # One test example of 100: three equal differences happen by chance.
    assert not compare("a", own, "b", other, resolution=0.01).clear
    # Five examples of 100 in each of three seeds do not.
    assert compare("a", np.add(other, 0.05), "b", other, resolution=0.01).clear


@pytest.mark.parametrize(("own", "other"), [([], []), ([0.9], [0.8, 0.9])])
def test_numbers_of_scores_that_differ_raise(own, other):
    with pytest.raises(ValueError, match="must have a score for each seed"):
        compare("a", own, "b", other)


NULLS = {
    "normal": lambda random, size: random.normal(0.9, 0.01, size),
    "skewed": lambda random, size: 0.95 - random.exponential(0.01, size),
    "heavy tails": lambda random, size: 0.9 + 0.01 * random.standard_t(2, size),
    "discrete, 30 examples": lambda random, size: random.binomial(30, 0.97, size) / 30,
    "discrete, 100 examples": lambda random, size: random.binomial(100, 0.99, size) / 100,
    "discrete, 500 examples": lambda random, size: random.binomial(500, 0.9, size) / 500,
    "two values": lambda random, size: random.integers(0, 2, size) / 30,
    "three values": lambda random, size: random.integers(0, 3, size) / 30,
}
RESOLUTIONS = {"discrete, 30 examples": 1 / 30, "discrete, 100 examples": 0.01, "discrete, 500 examples": 0.002}
RESOLUTIONS |= {"two values": 1 / 30, "three values": 1 / 30}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("null", NULLS)
def test_at_most_5_percent_false_alarms(null, seeds):
    random = np.random.default_rng(seeds)
    scores = NULLS[null](random, (2000, 2, seeds))
    clear = [compare("a", own, "b", other, RESOLUTIONS.get(null, 0)).clear for own, other in scores]
    # Three standard errors of a simulation of this size above 5 %.
    assert np.mean(clear) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(clear))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_power(seeds):
    """A difference of three standard deviations of the paired differences is found, more often with more seeds."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(200):
        other = random.normal(0.9, 0.02, seeds)
        found.append(compare("a", other + random.normal(0.03, 0.01, seeds), "b", other, 0.002).clear)
    assert np.mean(found) > {3: 0.5, 5: 0.95, 10: 0.99}[seeds]


def test_bootstrap_covers_the_difference_over_examples():
    """The interval of a mean of differences is near that of the normal distribution."""
    random = np.random.default_rng(0)
    own, other = random.random((2, 400)) < [[0.9], [0.8]]
    low, high = bootstrap(np.mean, [own.astype(float)], [other.astype(float)])
    differences = own.astype(float) - other
    error = differences.std(ddof=1) / 20
    assert (low, high) == pytest.approx(
        (differences.mean() - 1.96 * error, differences.mean() + 1.96 * error), abs=0.3 * error
    )
    assert bootstrap(np.mean, [own], [other]) == (low, high)


def test_bootstrap_pairs_examples_and_averages_seeds():
    random = np.random.default_rng(0)
    own = [(random.random(50) < 0.9).astype(float) for _ in range(3)]
    # The same predictions: no interval, although each model alone varies with the examples.
    assert bootstrap(np.mean, own, own) == (0, 0)
    shifted = [each - 0.25 for each in own]
    np.testing.assert_allclose(bootstrap(np.mean, own, shifted), (0.25, 0.25))
    records = [(each, np.ones(50)) for each in own]
    assert bootstrap(lambda pair: pair[0].sum() / pair[1].sum(), records, records) == (0, 0)
