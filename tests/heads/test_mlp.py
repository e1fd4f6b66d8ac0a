import re

import numpy as np
import pytest

from keras_distill.heads import MLP
from tests.support.helpers import features


def built(student, teacher, **settings):
    head = MLP(**settings)
    head.build(student, teacher)
    return head


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 5, 2, 3), (2, 3, 5, 2, 3)])
def test_is_layers_with_relu_between_them(shape):
    head = built((None, *shape[1:]), (None, *shape[1:-1], 7), hidden=6, depth=3)
    sizes = [(3, 6), (6,), (6, 6), (6,), (6, 7), (7,)]
    weights = [features(*size, seed=seed) for seed, size in enumerate(sizes)]
    head.set_weights(weights)
    student = features(*shape, seed=9)
    first = np.maximum(student @ weights[0] + weights[1], 0)
    second = np.maximum(first @ weights[2] + weights[3], 0)
    np.testing.assert_allclose(head(student), second @ weights[4] + weights[5], rtol=1e-5, atol=1e-5)


def test_videos_are_resized_linearly():
    head = built((None, 2, 3, 1, 3), (None, 4, 3, 1, 7), depth=1, use_bias=False)
    kernel, student = features(3, 7), features(2, 2, 3, 1, 3, seed=1)
    head.set_weights([kernel])
    first, last = (student @ kernel)[:, 0], (student @ kernel)[:, 1]
    # Frames of half the length have their centers at -0.25, 0.25, 0.75 and 1.25 of the old ones.
    frames = [first, 0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last, last]
    np.testing.assert_allclose(head(student), np.stack(frames, axis=1), rtol=1e-5, atol=1e-5)


def test_known_value():
    # tanh(0.5 * 1) in a hidden layer of width 1, times 2 and -1.
    head = built((None, 1), (None, 2), hidden=1, activation="tanh", use_bias=False)
    head.set_weights([np.array([[0.5]]), np.array([[2.0, -1.0]])])
    np.testing.assert_allclose(head(np.ones((1, 1))), [[2 * np.tanh(0.5), -np.tanh(0.5)]], rtol=1e-6)


def test_one_layer_is_linear_and_hidden_ones_are_as_wide_as_the_teacher():
    head = built((None, 3), (None, 7), depth=1, use_bias=False)
    student, other = features(2, 3), features(2, 3, seed=1)
    np.testing.assert_allclose(head(student + other), head(student) + head(other), rtol=1e-4, atol=1e-5)
    assert [tuple(weight.shape) for weight in built((None, 3), (None, 7)).weights] == [(3, 7), (7,), (7, 7), (7,)]


def test_layers_are_initialized_independently():
    first, second = built((None, 5), (None, 5), use_bias=False).weights
    assert np.all(first.numpy() != second.numpy())


@pytest.mark.parametrize(
    ("student", "teacher"), [((None, 3), (None, 5, 7)), ((None, 4, None), (None, 4, 7)), ((None,), (None,))]
)
def test_other_shapes_raise(student, teacher):
    shapes = f"student shape {student}, teacher shape {teacher}"
    with pytest.raises(ValueError, match=f"{re.escape(shapes)}$"):
        MLP().build(student, teacher)


@pytest.mark.parametrize("setting", [{"hidden": 0}, {"hidden": 2.5}, {"depth": 0}, {"depth": True}])
def test_non_integers_raise(setting):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}` must be an integer >= 1"):
        MLP(**setting)
