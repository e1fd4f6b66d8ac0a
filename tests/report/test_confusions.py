"""Confusion matrices and the most frequent confusions."""

import numpy as np

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.report import confusions, tables
from tests.report import samples


def model(name, role, confusion, seeds=1, baselines=()):
    return ModelResult(name, role, 1, [Run(seed, 0.9, confusion=confusion) for seed in range(seeds)], None, baselines)


def sample():
    models = [
        model("t", "teacher", [[9, 1], [0, 10]]),
        model("baseline", "baseline", [[5, 5], [2, 8]], 2),
        model("d", "distilled", [[8, 2], [3, 7]], baselines=["baseline"]),
    ]
    return samples.results(models=models, classes=["a", "b"], examples=[])


def test_confusions_are_errors_per_run():
    figures = confusions.matrices(sample())
    images = [figure.canvas.axes[0].images[0] for figure in figures]
    nan = np.nan
    expected = [[[nan, 1], [0, nan]], [[nan, 5], [2, nan]], [[nan, 2], [3, nan]], [[nan, -3], [1, nan]]]
    np.testing.assert_array_equal([image.get_array().filled(nan) for image in images], expected)
    assert [(image.norm.vmin, image.norm.vmax) for image in images] == [(0, 5)] * 3 + [(-3, 3)]
    assert "a predicted as b: -3" in figures[3].alt
    headings, rows = confusions.frequent(sample())
    assert headings == ("true class", "predicted class", "t", "baseline", "d")
    assert rows == [("a", "b", "1", "5", "2"), ("b", "a", "0", "2", "3")]


def test_the_table_joins_the_two_classes():
    table = tables.confusions_table(sample())
    assert table.headings == ("true → predicted class", "t", "baseline", "d")
    assert [[text for text, _ in row] for row in table.rows] == [["a → b", "1", "5", "2"], ["b → a", "0", "2", "3"]]


def test_cells_without_errors_are_transparent():
    for colormap, value in ((confusions.ERRORS, 0.0), (confusions.CHANGE, 0.5)):
        assert colormap(value)[3] < 0.05
        assert colormap(1.0)[3] > 0.7
    # Fewer errors are blue, more are red.
    low, high = confusions.CHANGE(0.0), confusions.CHANGE(1.0)
    assert low[2] > low[0] and high[0] > high[2]
