"""Cards of soft targets, and the colors of models in all figures."""

import matplotlib.colors
import numpy as np

from keras_distill.experiment.example import Example
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.report import curves, knowledge, score_plots
from keras_distill.utils import drawing, soft_targets
from tests.report import samples


def model(name, role):
    return ModelResult(name, role, 1, [Run(0, 1.0)])


def results(*models, **changed):
    return samples.results(models=list(models), **{"examples": [], **changed})


def hex_color(artist):
    return matplotlib.colors.to_hex(artist.get_facecolor()).upper()


def test_softened_probabilities():
    # softmax([0, 2 ln 3] / 2) = [1, 3] / 4
    np.testing.assert_allclose(soft_targets.softened([0, 2 * np.log(3)], 2), [0.25, 0.75])
    np.testing.assert_allclose(soft_targets.softened([-1e4, 1e4], 1), [0, 1])


def test_bars_of_the_teacher_at_both_temperatures():
    logits = np.zeros(10)
    logits[4] = 2 * np.log(11)
    example = Example(np.zeros((8, 8), "uint8"), 4, {"a": -logits, "t": logits})
    sample = results(model("t", "teacher"), model("a", "baseline"), temperature=2.0, examples=[example])
    (card,) = knowledge.cards(sample)
    panels = card.bars.canvas.axes
    assert [axes.get_title() for axes in panels] == ["t\nT = 1", "t\nT = 2", "a\nT = 2"]
    # Ten classes: 121 / (121 + 9), 11 / (11 + 9), (1/11) / (1/11 + 9).
    np.testing.assert_allclose([axes.patches[4].get_width() for axes in panels], [121 / 130, 11 / 20, 1 / 100])
    assert (
        card.predictions == [("t", "Coat", True), ("a", "T-shirt", False)] and card.label == "Coat" and card.image.small
    )
    labels = panels[0].get_yticklabels()
    assert [tick.get_text() for tick in labels if tick.get_fontweight() == "bold"] == ["Coat"]


def test_with_many_classes_only_the_most_probable_and_the_true_one_are_shown():
    names = [f"class {n}" for n in range(40)]
    example = Example(np.zeros((8, 8), "uint8"), 0, {"t": np.arange(40.0)})
    (card,) = knowledge.cards(results(model("t", "teacher"), classes=names, examples=[example]))
    assert [tick.get_text() for tick in card.bars.canvas.axes[0].get_yticklabels()] == ["class 0", *names[29:]]
    assert card.bars.caption.startswith("12 of 40 classes")


def test_a_model_has_the_same_color_in_all_figures():
    sample = samples.results(seeds=1, shown=1)
    chosen = drawing.colors(sample)
    assert len(set(chosen.values())) == 3
    dots = score_plots.score_dots(sample).canvas.axes[0].lines
    assert [line.get_markerfacecolor() for line in dots if line.get_marker() == "o"] == list(chosen.values())
    (metric,) = curves.metric_curves(sample)
    assert {line.get_color() for line in metric.canvas.axes[0].lines} == {chosen["baseline"], chosen["distilled"]}
    (card,) = knowledge.cards(sample)
    shown = [hex_color(axes.patches[0]) for axes in card.bars.canvas.axes]
    assert shown == [chosen["teacher"], *chosen.values()]


def test_eight_models_have_eight_colors():
    roles = ["teacher", "distilled", "baseline", *["distilled"] * 5]
    models = [model(str(number), role) for number, role in enumerate(roles)]
    assert len(set(drawing.colors(results(*models)).values())) == 8


def test_shortened_names_keep_both_ends():
    assert drawing.shorten("spotted bird, species 39", 24) == "spotted bird, species 39"
    assert drawing.shorten("spotted bird, species 39", 13) == "spotted…s 39"
    assert len(drawing.shorten("a b c d e f g h", 7)) <= 7
