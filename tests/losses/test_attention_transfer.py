import numpy as np
import pytest

from keras_distill.losses import AttentionTransfer
from keras_distill.losses.attention_transfer import attention_transfer
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher, power):
    """Maps of section 3.1 (mean instead of sum, which the norm cancels); mean of squares as in the authors' code."""
    maps = [(np.abs(f) ** power).mean(axis=-1).reshape(len(f), -1) for f in (student, teacher)]
    student, teacher = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
    return ((student - teacher) ** 2).mean()


def pooled(features, height, width):
    """Adaptive average pooling by its definition, one output at a time."""
    _, rows, columns, _ = features.shape
    result = np.zeros((len(features), height, width, features.shape[-1]))
    for i in range(height):
        for j in range(width):
            top, bottom = int(np.floor(i * rows / height)), int(np.ceil((i + 1) * rows / height))
            left, right = int(np.floor(j * columns / width)), int(np.ceil((j + 1) * columns / width))
            result[:, i, j] = features[:, top:bottom, left:right].mean(axis=(1, 2))
    return result


@pytest.mark.parametrize("power", [1, 2, 2.5, 3])
@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 4, 5)])
def test_matches_the_formula(shape, power):
    student, teacher = features(*shape), features(*shape[:-1], 7, seed=1)
    value, gradient = value_and_gradient(lambda s: attention_transfer(s, teacher, power), student)
    np.testing.assert_allclose(value, reference(student, teacher, power), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, power), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize("sizes", [((4, 4), (7, 7)), ((9, 5), (4, 2)), ((6, 3), (4, 8)), ((5, 1), (2, 1))])
def test_pools_each_axis_to_the_smaller(sizes):
    (h, w), (height, width) = sizes
    student, teacher = features(2, h, w, 3), features(2, height, width, 4, seed=1)
    size = min(h, height), min(w, width)
    expected = reference(pooled(student, *size), pooled(teacher, *size), 2)
    loss = attention_transfer(student, teacher)
    assert loss.shape == (2, *size)
    np.testing.assert_allclose(np.mean(loss), expected, rtol=1e-5)


def test_known_value():
    # One active position against two equally active ones: (1, 0) and (1, 1) / sqrt 2.
    student = np.array([[[3.0], [0.0]]])
    teacher = np.array([[[1.0, -1.0], [-1.0, 1.0]]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(attention_transfer(student, teacher), [[(1 - half) ** 2, half**2]], rtol=1e-6)


def test_ignores_scale_sign_and_order_of_the_channels():
    student, teacher = features(2, 3, 3, 4), features(2, 3, 3, 4, seed=1)
    np.testing.assert_allclose(
        attention_transfer(-5 * student[..., ::-1], teacher), attention_transfer(student, teacher), rtol=1e-5
    )


@pytest.mark.parametrize("scale", [1e-12, 1e15])
def test_features_whose_fourth_power_overflows_or_vanishes(scale):
    student, teacher = features(2, 3, 3, 4), features(2, 3, 3, 4, seed=1)
    np.testing.assert_allclose(
        attention_transfer(scale * student, teacher), attention_transfer(student, teacher), rtol=1e-4
    )


def test_a_dead_map_has_a_finite_gradient():
    teacher = features(2, 3, 3, 4)
    for power in (1, 2, 3):
        value, gradient = value_and_gradient(lambda s, p=power: attention_transfer(s, teacher, p), 0 * teacher)
        np.testing.assert_allclose(value, 1 / 9, rtol=1e-5)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("power", [0.5, 0, -2, float("nan"), float("inf"), "2"])
def test_invalid_powers_raise(power):
    with pytest.raises(ValueError, match="`power` must be a finite number >= 1"):
        AttentionTransfer(power)


def test_maps_may_differ_in_size_but_sequences_must_have_the_same_length():
    loss = AttentionTransfer()
    assert loss.comparable((None, 8, 8, 3), (None, 4, 4, 5))
    assert loss.comparable((None, 8, 3), (None, 8, 5))
    assert loss.comparable((None, None, 3), (None, 8, 5))
    assert not loss.comparable((None, 8, 3), (None, 9, 3))
    assert not loss.comparable((None, 8, 8, 3), (None, 64, 3))


def test_vectors_raise():
    with pytest.raises(ValueError, match=r"rank 3 or more.*\(None, 5\), teacher shape \(None, 6\)"):
        AttentionTransfer().build((None, 5), (None, 6))
