"""Missing labels: which values mean that an example has none."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller
from keras_distill.data import label_mask


@pytest.mark.parametrize(
    ("labels", "class_indices", "mask"),
    [
        (np.array([2, -1, 0]), True, [True, False, True]),
        (np.array([[2], [-1], [0]]), True, [[True], [False], [True]]),
        (np.array([[2, -1], [0, 1]], "int8"), True, [[True, False], [True, True]]),
        # Labels of a hinge loss, or integer targets.
        (np.array([2, -1, 0]), False, [True, True, True]),
        (np.array([2.0, -1.0, np.nan], "float32"), True, [True, True, False]),
        (np.array([[-1.0, np.nan], [np.nan, np.nan]], "float16"), False, [[True, False], [False, False]]),
        (np.array([True, False]), True, [True, True]),
        (np.array([255, 1], "uint8"), True, [True, True]),
        (np.array([65535, 1], "uint16"), True, [True, True]),
    ],
)
@pytest.mark.case("A4")
def test_which_labels_are_present(labels, class_indices, mask):
    np.testing.assert_array_equal(label_mask(labels, class_indices), mask)


@pytest.mark.case("E1")
@pytest.mark.parametrize(("dtype", "labels"), [("uint8", [255, 255, 255, 255, 1, 2, 3, 4]), ("bool", [1, 0] * 4)])
def test_labels_without_a_sign_train_as_in_keras(dtype, labels):
    def student():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((5,)), keras.layers.Dense(256)])

    x, y = np.random.default_rng(0).normal(size=(8, 5)).astype("float32"), np.array(labels, dtype)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    models = {"keras": student(), "distiller": Distiller(student=student(), teacher=None)}
    results = {}
    for name, model in models.items():
        model.compile("sgd", loss, metrics=["accuracy"])
        results[name] = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    np.testing.assert_allclose(results["distiller"]["loss"], results["keras"]["loss"], rtol=1e-6)
    assert results["distiller"]["accuracy"] == results["keras"]["accuracy"]
