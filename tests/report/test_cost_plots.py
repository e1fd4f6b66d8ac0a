"""Figures of accuracy against cost."""

import numpy as np
import pytest

from keras_distill.report import Results, profile_plots
from keras_distill.report.page import render
from keras_distill.report.profile_plots import pareto, profile_figures
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


def test_points_are_at_the_profiles(monkeypatch):
    drawn, real = [], drawing.render_figure
    monkeypatch.setattr(
        profile_plots, "render_figure", lambda figure, *texts: drawn.append(figure) or real(figure, *texts)
    )
    profiles = samples.profiles()
    figures = profile_figures(samples.results(profiles=profiles))
    # The file in Keras' format has no accuracy.
    shown = [0, 1, 3, 4]
    for figure, cost in zip(drawn, ("bytes", "median"), strict=True):
        (axes,) = figure.axes
        points = [line for line in axes.lines if line.get_marker() == "o"]
        for line, index in zip(points, shown, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [getattr(profiles[index], cost)])
            np.testing.assert_allclose(line.get_ydata(), [100 * np.mean(profiles[index].accuracies)])
        assert [text.get_text() for text in axes.texts] == ["1", "2", "4", "5"]
        # The distilled model dominates the baseline; all others are on the front.
        hollow = [line.get_markerfacecolor() == "white" for line in points]
        assert hollow == [False, True, False, False]
    assert "2: baseline, litert_float32, 130 kB, 95.60 ± 0.14 %" in figures[0].alt
    assert "5: distilled, litert_int8, 0.04, 96.95 ± 0.21 %" in figures[1].alt


def test_page_has_the_table_and_results_load(tmp_path):
    results = samples.results(profiles=samples.profiles())
    page = render(results)
    assert "Size, latency and memory" in page and "3. distilled" in page
    for cell in ("4.8 MB", "117.1x", "96.95 ± 0.21 %", "1,200,000", "30 M", "1.25 / 1.5"):
        assert f"<td>{cell}</td>" in page
    assert "Size, latency and memory" not in render(samples.results())
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").profiles == samples.profiles()


def test_profiles_of_unknown_models_raise():
    with pytest.raises(
        ValueError, match="`profiles` refers to unknown models \\['baseline'\\]. `models` contains: \\['teacher'\\]"
    ):
        samples.results(models=samples.results().models[:1], examples=[], profiles=samples.profiles()[:2])
