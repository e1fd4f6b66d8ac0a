import math

import numpy as np
import pytest

from keras_distill.pipelines.reporting import _Tally

pytestmark = pytest.mark.tfx


def test_a_tally_worked_by_hand():
    # Probabilities 1/2 and 1/2 beside 1/4 and 3/4; then twice the same.
    taught = np.float32([[0, 0], [1, 0], [0, 2]])
    student = np.float32([[0, math.log(3)], [1, 0], [0, 2]])
    tally = _Tally(2, 1.0)
    # In two batches, one example without a label.
    tally.add(np.array([1, 1]), taught[:2], student[:2])
    tally.add(np.array([-1]), taught[2:], student[2:])
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert tally.metrics() == pytest.approx({"accuracy": 0.5, "agreement": 2 / 3, "divergence": divergence / 3})
    run = tally.run()
    assert (run.errors, run.confusion) == (1, [[0, 0], [1, 1]])


def test_the_divergence_is_that_of_softened_logits():
    # At T = 2 these are the probabilities 1/2, 1/2 and 1/4, 3/4.
    tally = _Tally(2, 2.0)
    tally.add(np.array([0]), np.float32([[0, 0]]), np.float32([[0, 2 * math.log(3)]]))
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert tally.metrics()["divergence"] == pytest.approx(divergence)
