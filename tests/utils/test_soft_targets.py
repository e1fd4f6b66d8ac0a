"""Bar charts of soft targets."""

import numpy as np

from keras_distill.utils.soft_targets import bars, softened


def test_softened():
    np.testing.assert_allclose(softened([0, 2 * np.log(3)], 2), [0.25, 0.75])
    assert softened(np.zeros((2, 4), "float32"), 1).dtype == "float64"


def test_alternative_text():
    figure = bars(["cat", "dog"], 0, [("teacher", 1.0, np.array([0.9, 0.1]))], {"teacher": "#000000"})
    assert figure.alt == "Class probabilities for an image of cat. teacher at T = 1: cat 0.90, dog 0.10."
    assert figure.caption == ""
    assert figure.png().startswith(b"\x89PNG")


def test_many_classes_are_reduced_to_the_most_probable_and_the_true_one():
    classes = [f"class {index}" for index in range(20)]
    probabilities = np.linspace(0, 0.1, 20)
    figure = bars(classes, 0, [("teacher", 1.0, probabilities)], {"teacher": "#000000"})
    assert figure.caption.startswith("12 of 20 classes")
