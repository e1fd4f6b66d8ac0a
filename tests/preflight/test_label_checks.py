"""Labels that do not fit the student's output."""

import keras
import numpy as np
import pytest

from keras_distill import Term
from keras_distill.losses import Hint
from keras_distill.preflight import check
from keras_distill.preflight.probe import class_indices
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


@pytest.mark.case("A16")
def test_ignored_classes_are_not_invalid(teacher):
    x, y = clusters()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    assert check(healthy_distiller(teacher, loss=loss), x, np.where(np.arange(len(y)) % 4, y, 255)) == []
    only_finding(
        check(healthy_distiller(teacher, loss=loss), x, np.where(np.arange(len(y)) % 4, y, 254)), "labels out of range"
    )


def test_advice_fits_the_loss(teacher):
    x, y = clusters()
    one_hot, findings = np.eye(4, dtype="float32")[y], {}
    for loss in (
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.BinaryCrossentropy(from_logits=True),
    ):
        findings[type(loss).__name__] = check(healthy_distiller(teacher, loss=loss), x, 2 * one_hot - 1)[0].advice
    assert set(findings.values()) == {"Convert the labels to values from 0 to 1."}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    (finding,) = check(healthy_distiller(teacher, loss=loss), x, 0.5 * one_hot)
    assert "256 of 256 are invalid, e.g. [0.5]" in finding.seen and finding.advice.startswith("Pass one-hot rows")


def test_labels_out_of_range_have_no_class():
    indices = class_indices(np.array([0, 3, 4, 255, -1]), np.zeros((5, 4), "float32"))
    np.testing.assert_array_equal(indices, [0, 3, -1, -1, -1])


@pytest.mark.case("E15")
@pytest.mark.parametrize("labels", ["no y", "all -1"])
def test_a_supervised_loss_without_any_label(labels, teacher):
    x, y = clusters()
    y = None if labels == "no y" else np.full(len(y), -1)
    finding = only_finding(check(healthy_distiller(teacher), x, y), "no labels", "the student's output")
    assert finding.seen == ("No `y` in the batches." if y is None else "8 batches, all labels missing (-1 or NaN).")


@pytest.mark.case("E15")
def test_training_without_a_supervised_loss_needs_no_labels(teacher):
    distiller = healthy_distiller(teacher)
    distiller.compile(keras.optimizers.Adam(1e-3))
    assert check(distiller, clusters()[0]) == []


@pytest.mark.case("E15")
def test_a_single_label_is_enough(teacher):
    x, y = clusters()
    found = check(healthy_distiller(teacher), x, np.where(np.arange(len(y)) < 8, y, -1))
    assert "no labels" not in [finding.name for finding in found]
