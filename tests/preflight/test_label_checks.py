"""Labels that do not fit the student's output."""

import keras
import numpy as np
import pytest

from keras_distill import Term
from keras_distill.losses import Hint
from keras_distill.preflight import check
from tests.support.checked_models import clusters, healthy_distiller, only_finding


@pytest.mark.parametrize("invalid", [4, -2, 1.5])
def test_class_indices_out_of_range(invalid, teacher):
    x, y = clusters()
    y = y.astype("float32")
    y[5] = invalid
    finding = only_finding(
        check(healthy_distiller(teacher), x, y), "labels out of range", "4 classes", "integers from 0 to 3"
    )
    assert f"1 of 256 are invalid, e.g. [{float(invalid)}]" in finding.seen


def test_invalid_one_hot_labels(teacher):
    x, y = clusters()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    only_finding(check(healthy_distiller(teacher, loss=loss), x, 100 * one_hot), "labels out of range", "from 0 to 1")
    only_finding(
        check(healthy_distiller(teacher, loss=loss), x, 0.5 * one_hot), "labels out of range", "rows with a sum of 1"
    )
    assert check(healthy_distiller(teacher, loss=loss), x, 0.9 * one_hot + 0.025) == []
    # A regression loss accepts any number as label.
    regression = [Term(Hint(), "features", "features", head="auto")]
    assert check(healthy_distiller(teacher, terms=regression, loss="mse"), x, 3 * one_hot) == []
