"""Learning curves show the histories."""

import numpy as np

from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.report import curves
from tests.report import samples


def results(*models):
    return samples.results(models=list(models), examples=[])


def test_curves_are_means_over_the_seeds():
    runs = [
        Run(0, 0.9, {"accuracy": [0.2, 0.4, 0.6], "val_accuracy": [0.1, 0.3]}),
        Run(1, 0.9, {"accuracy": [0.4, 0.6, 0.8, 0.9], "val_accuracy": [0.3, 0.5]}),
    ]
    (figure,) = curves.metric_curves(results(ModelResult("a", "baseline", 1, runs)))
    lines = figure.canvas.axes[0].lines
    solid = [line.get_ydata() for line in lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(solid[-1], [0.2, 0.4])
    # The second seed trained one epoch longer, which its thin line shows and the mean does not.
    np.testing.assert_allclose(lines[-1].get_ydata(), [0.3, 0.5, 0.7])
    assert [len(line.get_ydata()) for line in lines] == [2, 2, 2, 3, 4, 3]
    assert "Solid: validation. Dashed: training." in figure.caption and "Thick" in figure.caption
    assert "from 0.2 to 0.4 in 2 epochs" in figure.alt


def test_every_loss_term_has_a_panel():
    history = {"hint_loss": [1, 2], "accuracy": [0, 1], "loss": [3, 4], "supervised_loss": [5, 6], "val_loss": [7, 8]}
    distilled = ModelResult("d", "distilled", 1, [Run(0, 0.9, history)])
    (figure,) = curves.loss_curves(results(distilled, ModelResult("t", "teacher", 1, [Run(0, 0.9)])))
    panels = figure.canvas.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["loss", "hint loss", "supervised loss"]
    np.testing.assert_allclose([line.get_ydata() for line in panels[0].lines], [[7, 8], [3, 4]])
    np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [1, 2])
