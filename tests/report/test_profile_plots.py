"""Accuracy against cost: what is drawn is what was weighed."""

import numpy as np
import pytest

from keras_distill.report import Results, footprint_plots
from keras_distill.report.footprint_plots import footprint_pictures, pareto
from keras_distill.report.page import render
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
def test_the_front(points, front):
    assert pareto(points) == front


def test_points_stand_where_they_were_weighed(monkeypatch):
    drawn, real = [], drawing.render_figure
    monkeypatch.setattr(footprint_plots, "picture", lambda figure, *said: drawn.append(figure) or real(figure, *said))
    weighed = samples.footprints()
    pictures = footprint_pictures(samples.results(footprints=weighed))
    # The one in Keras' format has no accuracy.
    shown = [0, 1, 3, 4]
    for figure, cost in zip(drawn, ("bytes", "median"), strict=True):
        (axes,) = figure.axes
        points = [line for line in axes.lines if line.get_marker() == "o"]
        for line, place in zip(points, shown, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [getattr(weighed[place], cost)])
            np.testing.assert_allclose(line.get_ydata(), [100 * np.mean(weighed[place].accuracies)])
        assert [text.get_text() for text in axes.texts] == ["1", "2", "4", "5"]
        # The student alone is beaten by the distilled one; all others are on the front.
        hollow = [line.get_markerfacecolor() == "white" for line in points]
        assert hollow == [False, True, False, False]
    assert "2: student alone, litert_float32, 130 kB, 95.60 ± 0.14 %" in pictures[0].alt
    assert "5: student distilled, litert_int8, 0.04, 96.95 ± 0.21 %" in pictures[1].alt


def test_the_page_has_the_table_and_results_come_back(tmp_path):
    results = samples.results(footprints=samples.footprints())
    page = render(results)
    assert "On a device" in page and "3. student distilled" in page
    for cell in ("4.8 MB", "117.1x", "96.95 ± 0.21 %", "1,200,000", "30 M", "1.25 / 1.5"):
        assert f"<td>{cell}</td>" in page
    assert "On a device" not in render(samples.results())
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").footprints == samples.footprints()


def test_footprints_of_other_models_are_refused():
    with pytest.raises(ValueError, match="footprints of the models \\['student alone'\\]. There: \\['teacher'\\]"):
        samples.results(models=samples.results().models[:1], examples=[], footprints=samples.footprints()[:2])
