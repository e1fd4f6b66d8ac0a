"""Figures show the numbers of the results."""

import numpy as np
import pytest

from keras_distill.report import Example, ModelResult, Run, confusions, knowledge, plots
from keras_distill.utils import drawing, soft_targets
from tests.report import samples


@pytest.fixture
def figures(monkeypatch):
    """Record every figure that is drawn, in order."""
    drawn, render = [], drawing.render_figure

    def recorded(figure, *texts):
        drawn.append(figure)
        return render(figure, *texts)

    for module in (plots, soft_targets, confusions):
        monkeypatch.setattr(module, "render_figure", recorded)
    return drawn


def model(name, role, accuracies, history=None, confusion=None):
    runs = [Run(seed, value, 1, history or {}, confusion) for seed, value in enumerate(accuracies)]
    return ModelResult(name, role, 1, runs)


def results(*models, **changed):
    return samples.results(models=list(models), **{"examples": [], **changed})


def test_bars_end_at_the_mean_and_dots_are_the_seeds(figures):
    rendered = plots.accuracy_bars(results(model("a", "baseline", [0.90, 0.94]), model("t", "teacher", [0.96])))
    (axes,) = figures[0].axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(ends, [92, 96])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [90, 94])
    start, end = axes.get_xlim()
    assert 80 < start < 90 and 96 < end <= 100
    assert f"starts at {start:g}" in axes.get_xlabel() and f"starts at {start:g} %" in rendered.caption
    assert "92.00 ± 2.83 %" in rendered.alt


def test_accuracies_far_apart_are_drawn_from_zero(figures):
    rendered = plots.accuracy_bars(results(model("a", "baseline", [0.2]), model("t", "teacher", [0.9])))
    assert figures[0].axes[0].get_xlim() == (0, 100)
    assert "starts" not in figures[0].axes[0].get_xlabel() + rendered.caption


def test_curves_are_means_over_the_seeds(figures):
    runs = [
        Run(0, 0.9, 1, {"accuracy": [0.2, 0.4, 0.6], "val_accuracy": [0.1, 0.3]}),
        Run(1, 0.9, 1, {"accuracy": [0.4, 0.6, 0.8, 0.9], "val_accuracy": [0.3, 0.5]}),
    ]
    (rendered,) = plots.metric_curves(results(ModelResult("a", "baseline", 1, runs)))
    lines = figures[0].axes[0].lines
    solid = [line.get_ydata() for line in lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(solid[-1], [0.2, 0.4])
    # The second seed trained one epoch longer, which its thin line shows and the mean does not.
    np.testing.assert_allclose(lines[-1].get_ydata(), [0.3, 0.5, 0.7])
    assert [len(line.get_ydata()) for line in lines] == [2, 2, 2, 3, 4, 3]
    assert "Solid: validation. Dashed: training." in rendered.caption and "Thick" in rendered.caption
    assert "from 0.2 to 0.4 in 2 epochs" in rendered.alt


def test_every_loss_term_has_a_panel(figures):
    history = {"hint_loss": [1, 2], "accuracy": [0, 1], "loss": [3, 4], "supervised_loss": [5, 6], "val_loss": [7, 8]}
    distilled = model("d", "distilled", [0.9], history)
    rendered = plots.loss_curves(results(distilled, model("t", "teacher", [0.9])))
    assert len(rendered) == 1
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == ["loss", "hint loss", "supervised loss"]
    np.testing.assert_allclose([line.get_ydata() for line in figures[0].axes[0].lines], [[7, 8], [3, 4]])
    np.testing.assert_allclose(figures[0].axes[1].lines[0].get_ydata(), [1, 2])


def test_a_model_has_the_same_color_in_all_figures(figures):
    sample = samples.results(seeds=1, shown=1)
    chosen = drawing.colors(sample)
    assert len(set(chosen.values())) == 3
    plots.accuracy_bars(sample)
    plots.metric_curves(sample)
    knowledge.cards(sample)
    bars, curves, probabilities = figures
    used = [drawing.matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars.axes[0].patches]
    assert used == list(chosen.values())
    assert {line.get_color() for line in curves.axes[0].lines} == {chosen["baseline"], chosen["distilled"]}
    shown = [drawing.matplotlib.colors.to_hex(axes.patches[0].get_facecolor()).upper() for axes in probabilities.axes]
    assert shown == [chosen["teacher"], *chosen.values()]


def test_softened_probabilities():
    # softmax([0, 2 ln 3] / 2) = [1, 3] / 4
    np.testing.assert_allclose(soft_targets.softened([0, 2 * np.log(3)], 2), [0.25, 0.75])
    np.testing.assert_allclose(soft_targets.softened([-1e4, 1e4], 1), [0, 1])


def test_bars_of_the_teacher_at_both_temperatures(figures):
    logits = np.zeros(10)
    logits[4] = 2 * np.log(11)
    example = Example(np.zeros((8, 8), "uint8"), 4, {"a": -logits, "t": logits})
    sample = results(model("t", "teacher", [1.0]), model("a", "baseline", [1.0]), temperature=2.0, examples=[example])
    (card,) = knowledge.cards(sample)
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["t\nT = 1", "t\nT = 2", "a\nT = 2"]
    widths = [axes.patches[4].get_width() for axes in figures[0].axes]
    # Ten classes: 121 / (121 + 9), 11 / (11 + 9), (1/11) / (1/11 + 9).
    np.testing.assert_allclose(widths, [121 / 130, 11 / 20, 1 / 100])
    assert card.predictions == [("t", "Coat", True), ("a", "T-shirt", False)] and card.label == "Coat" and card.small
    assert [tick.get_text() for tick in figures[0].axes[0].get_yticklabels() if tick.get_fontweight() == "bold"] == [
        "Coat"
    ]


def test_with_many_classes_only_the_most_probable_and_the_true_one_are_shown(figures):
    names = [f"class {n}" for n in range(40)]
    logits = np.arange(40.0)
    sample = results(
        model("t", "teacher", [1.0]), classes=names, examples=[Example(np.zeros((8, 8), "uint8"), 0, {"t": logits})]
    )
    (card,) = knowledge.cards(sample)
    shown = [tick.get_text() for tick in figures[0].axes[0].get_yticklabels()]
    assert shown == ["class 0", *names[29:]]
    assert card.bars.caption.startswith("12 of 40 classes")


def test_confusions_are_errors_per_run(figures):
    classes = ["a", "b"]
    sample = results(
        model("t", "teacher", [0.9], confusion=[[9, 1], [0, 10]]),
        model("baseline", "baseline", [0.8, 0.8], confusion=[[5, 5], [2, 8]]),
        model("d", "distilled", [0.8], confusion=[[8, 2], [3, 7]]),
        classes=classes,
    )
    rendered = confusions.matrices(sample)
    drawn = [figure.axes[0].images[0].get_array().filled(np.nan) for figure in figures]
    nan = np.nan
    expected = [[[nan, 1], [0, nan]], [[nan, 5], [2, nan]], [[nan, 2], [3, nan]], [[nan, -3], [1, nan]]]
    np.testing.assert_array_equal(drawn, expected)
    limits = [(figure.axes[0].images[0].norm.vmin, figure.axes[0].images[0].norm.vmax) for figure in figures]
    assert limits == [(0, 5)] * 3 + [(-3, 3)]
    assert "a predicted as b: -3" in rendered[3].alt
    headings, rows = confusions.frequent(sample)
    assert headings == ("true class", "predicted class", "t", "baseline", "d")
    assert rows == [("a", "b", "1", "5", "2"), ("b", "a", "0", "2", "3")]


def test_seven_models_have_seven_colors():
    roles = ["teacher", "distilled", "baseline", "distilled", "distilled", "distilled", "distilled"]
    models = [model(str(number), role, [0.5]) for number, role in enumerate(roles)]
    assert len(set(drawing.colors(results(*models)).values())) == 7
