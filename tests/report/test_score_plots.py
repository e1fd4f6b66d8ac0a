"""Dot plots of scores and of paired differences."""

import math

import numpy as np
import pytest

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.statistics import Comparison
from keras_distill.report.score_plots import difference_dots, mean_interval, score_dots
from keras_distill.utils import drawing
from tests.report import samples


def model(name, role, scores, baselines=()):
    return ModelResult(name, role, 1, [Run(seed, score) for seed, score in enumerate(scores)], baselines=baselines)


def results(*models, **changed):
    return samples.results(models=list(models), **{"examples": [], **changed})


def lines(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_every_seed_has_a_dot_and_every_model_a_mean_with_its_interval():
    sample = results(model("a", "baseline", [0.90, 0.94]), model("t", "teacher", [0.96]))
    figure = score_dots(sample)
    (axes,) = figure.canvas.axes
    seeds, single = lines(axes, "o")
    np.testing.assert_allclose(seeds.get_xdata(), [90, 94])
    np.testing.assert_allclose(single.get_xdata(), [96])
    (mean,) = lines(axes, "D")
    np.testing.assert_allclose(mean.get_xdata(), [92])
    # Quantile of the t distribution with one degree of freedom, tan(pi * 0.475), times 2.828 / sqrt(2).
    half = math.tan(math.pi * 0.475) * 2
    (bar,) = [line for line in axes.lines if line.get_linewidth() == 2]
    np.testing.assert_allclose(bar.get_xdata(), [92 - half, 92 + half])
    # No bar starts at a cut axis, and the teacher's score is a line.
    assert not axes.patches
    (reference,) = [line for line in axes.lines if line.get_color() == drawing.SOFT]
    np.testing.assert_allclose(reference.get_xdata(), [96, 96])
    assert "92.00 ± 2.83 %" in figure.alt and axes.get_xlabel() == "accuracy, %"
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["a", "92.00 ± 2.83 %", "t", "96.00 %"]


def test_regression_has_its_unit_and_direction():
    figure = score_dots(samples.regression())
    assert figure.canvas.axes[0].get_xlabel() == "RMSE, °C"
    assert figure.caption.endswith("Lower is better.")


def test_runs_that_diverged_are_left_out():
    sample = results(model("a", "baseline", [math.nan, 0.94, 0.93]), model("b", "distilled", [math.nan]))
    (axes,) = score_dots(sample).canvas.axes
    low, high = axes.get_xlim()
    assert 92 < low < 93 and 94 < high < 95
    assert not lines(axes, "D")
    (axes,) = score_dots(results(model("b", "distilled", [math.nan]))).canvas.axes
    assert np.isfinite(axes.get_xlim()).all()


def test_interval_of_the_mean():
    assert mean_interval([0.5]) is None and mean_interval([0.5, math.nan]) is None
    # Standard deviation 1, t quantile 4.302653 with two degrees of freedom.
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_differences_have_their_interval_and_p():
    comparisons = [
        Comparison("d", "a", 0.02, 3, (0.01, 0.03), 0.01),
        Comparison("d", "b", -0.01, 3, (-0.03, 0.01), 0.3),
        Comparison("d", "c", 0.5, 1),
    ]
    models = [model(name, "baseline", [0.9, 0.9, 0.9]) for name in "abc"]
    models.append(model("d", "distilled", [0.91, 0.92, 0.93], ["a", "b", "c"]))
    (figure,) = difference_dots(results(*models, comparisons=comparisons))
    (axes,) = figure.canvas.axes
    np.testing.assert_allclose([line.get_xdata()[0] for line in lines(axes, "D")], [2, -1])
    np.testing.assert_allclose(
        [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2], [[1, 3], [-3, 1]]
    )
    # Filled where the difference is clear.
    assert [line.get_markerfacecolor() == drawing.PAPER for line in lines(axes, "D")] == [False, True]
    assert [text.get_text() for text in axes.texts] == ["d − a", "p = 0.01", "d − b", "p = 0.3"]
    assert "percentage points" in axes.get_xlabel() and "to the right" in figure.caption


def test_no_figure_of_differences_without_several_seeds():
    assert difference_dots(samples.results(seeds=1)) == []
    assert difference_dots(samples.results(comparisons=[])) == []
    (figure,) = difference_dots(samples.regression())
    assert "to the left" in figure.caption
