"""Figures of accuracy against cost."""

import numpy as np
import pytest

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.score import Score
from keras_distill.report.cost_plots import model_figures, pareto, profile_figures, short_count, spread_out
from keras_distill.utils import drawing
from tests.report import samples


@pytest.mark.parametrize(
    ("points", "front"),
    [
        # Worked by hand: (cost, accuracy).
        ([(1, 0.5)], [0]),
        ([(1, 0.5), (2, 0.4)], [0]),
        ([(2, 0.9), (1, 0.5), (3, 0.9), (4, 0.95)], [1, 0, 3]),
        ([(1, 0.5), (1, 0.6)], [1]),
        ([(1, 0.6), (1, 0.6), (2, 0.6)], [0, 1]),
    ],
)
def test_pareto_front(points, front):
    assert pareto(points) == front


def points(figure):
    return [line for line in figure.canvas.axes[0].lines if line.get_marker() == "o"]


def names(figure):
    return [text.get_text() for text in figure.canvas.axes[0].texts]


def hollow(figure):
    return [line.get_markerfacecolor() == drawing.PAPER for line in points(figure)]


def test_points_are_at_the_profiles():
    profiles = samples.profiles()
    figures = profile_figures(samples.results(profiles=profiles))
    # The file in Keras' format has no accuracy.
    shown = [0, 1, 3, 4]
    for figure, cost in zip(figures, ("bytes", "median"), strict=True):
        for line, index in zip(points(figure), shown, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [getattr(profiles[index], cost)])
            np.testing.assert_allclose(line.get_ydata(), [100 * np.mean(profiles[index].scores)])
        assert names(figure) == [
            "1. teacher, float32",
            "2. baseline, float32",
            "4. distilled, float32",
            "5. distilled, int8",
        ]
        # The distilled model dominates the baseline; all others are on the front.
        assert hollow(figure) == [False, True, False, False]
    assert "2. baseline, float32: 130 kB, 95.60 ± 0.14 %" in figures[0].alt
    assert "5. distilled, int8: 0.04, 96.95 ± 0.21 %" in figures[1].alt


def test_what_all_files_have_in_common_is_left_out_of_their_names():
    profiles = samples.profiles()
    one_format, one_model = profiles[:2], profiles[3:]
    for chosen, expected in (
        (one_format, ["1. teacher", "2. baseline"]),
        (one_model, ["1. litert_float32", "2. litert_int8"]),
    ):
        assert names(profile_figures(samples.results(profiles=chosen))[0]) == expected


def test_points_are_at_the_models():
    sample = samples.results()
    sizes, latencies = model_figures(sample)
    for figure, cost in ((sizes, lambda model: model.parameters), (latencies, lambda model: model.latency.median)):
        for line, model in zip(points(figure), sample.models, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [cost(model)])
            np.testing.assert_allclose(line.get_ydata(), [100 * np.mean([run.score for run in model.runs])])
        assert names(figure) == ["teacher", "baseline", "distilled"]
        assert hollow(figure) == [False, True, False]
        assert figure.canvas.axes[0].get_xscale() == "log"
    assert sizes.canvas.axes[0].get_xlabel() == "parameters"


def models(*listed, **changed):
    built = [ModelResult(name, "baseline", size, [Run(0, score)], **more) for name, size, score, more in listed]
    return samples.results(models=built, examples=[], **changed)


def test_a_lower_error_is_on_the_front():
    score = Score("RMSE", higher_is_better=False, percent=False)
    (figure,) = model_figures(models(("a", 10, 0.5, {}), ("b", 100, 0.3, {}), ("c", 50, 0.6, {}), score=score))
    assert hollow(figure) == [False, False, True]
    assert "down and to the left" in figure.caption


def test_bytes_stand_in_for_unknown_parameters():
    (figure,) = model_figures(models(("a", None, 0.5, {"bytes": 1000}), ("b", None, 0.6, {"bytes": 2000})))
    assert figure.canvas.axes[0].get_xlabel() == "size of the saved model"
    assert "a: 1 kB, 50.00 %; b: 2 kB, 60.00 %." in figure.alt


@pytest.mark.parametrize(
    "listed",
    [
        [("a", None, 0.5, {}), ("b", None, 0.6, {})],
        [("a", 10, 0.5, {}), ("b", 10, 0.6, {})],
        [("a", 10, 0.5, {}), ("b", 20, np.nan, {})],
        [("a", 0, 0.5, {}), ("b", 20, 0.6, {})],
    ],
)
def test_no_figure_without_two_costs(listed):
    assert model_figures(models(*listed)) == []


@pytest.mark.parametrize("ratio", [1.001, 1.5, 4, 30, 1e3, 1e7])
def test_every_axis_has_two_to_five_ticks(ratio):
    (figure,) = model_figures(models(("a", 100_000, 0.5, {}), ("b", round(100_000 * ratio), 0.6, {})))
    axes = figure.canvas.axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 5


def test_names_do_not_overlap():
    places = spread_out([0.5, 0.5, 0.51, 0.0, 0.99, 1.0], 0.1)
    assert all(after - before >= 0.1 - 1e-9 for before, after in zip(sorted(places), sorted(places)[1:]))
    assert places[3] == 0 and max(places) <= 1
    # The order of the points stays.
    assert np.argsort(places, kind="stable").tolist() == [3, 0, 1, 2, 4, 5]
    assert spread_out([0.2, 0.7], 0.1) == [0.2, 0.7]


def test_short_counts():
    assert [short_count(value) for value in (812, 31_415, 1_200_000, 7e9)] == ["812", "31.4 k", "1.2 M", "7 G"]
