"""Missing labels: which values mean that an example has none."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller
from keras_distill.data import label_mask


@pytest.mark.parametrize(
    ("labels", "output_shape", "mask"),
    [
        (np.array([2, -1, 0]), (3, 4), [True, False, True]),
        (np.array([[2], [-1], [0]]), (3, 4), [True, False, True]),
        (np.array([2.0, -1.0, np.nan], "float32"), (3, 4), [True, False, False]),
        (np.array([[2, -1], [0, 1]]), (2, 2, 4), [[True, False], [True, True]]),
        # Two regression targets: -1 is a value, and a row is missing if it is NaN throughout.
        (np.array([[-1.0, -1.0], [np.nan, np.nan]], "float32"), (2, 2), [True, False]),
        # A single output is a regression target or a binary label.
        (np.array([-1.0, np.nan], "float32"), (2, 1), [True, False]),
        (np.array([True, False]), (2, 2), [True, True]),
        (np.array([[True], [False]]), (2, 2), [True, True]),
        (np.array([255, 1], "uint8"), (2, 256), [True, True]),
        (np.array([65535, 1], "uint16"), (2, 65536), [True, True]),
    ],
)
def test_which_labels_are_present(labels, output_shape, mask):
    np.testing.assert_array_equal(label_mask(labels, np.zeros(output_shape, "float32")), mask)


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
