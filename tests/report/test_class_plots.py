"""Figures of the score of each class."""

import math

import numpy as np

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.report.class_plots import class_figures
from tests.report import samples


def model(name, role, *per_class, baselines=()):
    runs = [Run(seed, 0.5, per_class=values) for seed, values in enumerate(per_class)]
    return ModelResult(name, role, 1, runs, baselines=baselines)


def results(*models, classes=("a", "b", "c")):
    return samples.results(list(classes), models=list(models), examples=[], comparisons=[])


def drawn(figure):
    """Return names of the classes, values of each model and the texts on the right."""
    (axes,) = figure.canvas.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    values = {line.get_label(): np.asarray(line.get_xdata()).tolist() for line in axes.lines}
    return names, values, [text.get_text() for text in axes.texts]


def test_the_class_that_changed_most_comes_first():
    figure = class_figures(
        results(
            model("t", "teacher", [0.9, 0.9, 0.9]),
            model("base", "baseline", [0.5, 0.8, 0.6], [0.5, 0.6, 0.6]),
            model("other", "distilled", [0.6, 0.4, 0.625], baselines=["base"]),
            model("ignored", "distilled", [0, 0, 0], baselines=["base"]),
        )
    )[0]
    names, values, texts = drawn(figure)
    assert names == ["b", "a", "c"]
    np.testing.assert_allclose(values["base"], [70, 50, 60])
    np.testing.assert_allclose(values["other"], [40, 60, 62.5])
    np.testing.assert_allclose(values["t"], [90, 90, 90])
    assert set(values) == {"base", "other", "t"} and texts == ["−30.0", "+10.0", "+2.5"]
    assert "b: base 70.00 %, other 40.00 %, t 90.00 %" in figure.alt


def test_undefined_classes_come_last():
    figure = class_figures(
        results(
            model("base", "baseline", [math.nan, 0.8, 0.6]),
            model("d", "distilled", [0.5, 0.8, 0.7], baselines=["base"]),
        )
    )[0]
    names, _, texts = drawn(figure)
    assert names == ["c", "b", "a"] and texts == ["+10.0", "+0.0", ""]


def test_a_baseline_without_a_teacher_has_its_worst_class_first():
    (figure,) = class_figures(results(model("base", "baseline", [0.7, 0.8, 0.6])))
    names, values, texts = drawn(figure)
    assert names == ["c", "a", "b"] and texts == [] and list(values) == ["base"]


def test_a_hundred_classes_are_split_without_loss():
    classes = [f"class {n}" for n in range(100)]
    random = np.random.default_rng(0)
    before, after = random.uniform(size=(2, 100))
    figures = class_figures(
        results(
            model("base", "baseline", before.tolist()),
            model("d", "distilled", after.tolist(), baselines=["base"]),
            classes=classes,
        )
    )
    assert [len(drawn(figure)[0]) for figure in figures] == [12, 46, 42]
    names = [name for figure in figures for name in drawn(figure)[0]]
    assert names == [classes[index] for index in np.argsort(-np.abs(after - before), kind="stable")]
    limits = {figure.canvas.axes[0].get_xlim() for figure in figures}
    assert len(limits) == 1


def test_no_figure_without_scores_per_class():
    assert class_figures(samples.regression()) == []
    only_teacher = results(model("t", "teacher", [0.5, 0.5, 0.5]), ModelResult("d", "distilled", 1, [Run(0, 0.5)]))
    assert class_figures(only_teacher) == []
    undefined = [math.nan] * 3
    assert class_figures(results(model("b", "baseline", undefined), model("t", "teacher", undefined))) == []
