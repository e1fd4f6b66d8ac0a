import keras
import numpy as np
import pytest

from keras_distill.metrics import CKA
from tests.support.helpers import features


def hsic(first, second):
    """Equation 3 of Nguyen et al. 2021, in float64 and with the kernels' diagonals set to 0."""
    n = len(first)
    k, l_ = (kernel - np.diag(np.diag(kernel)) for kernel in (first, second))
    one = np.ones(n)
    whole = (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l_) + whole - 2 / (n - 2) * (one @ k @ l_ @ one)) / (n * (n - 3))


def reference(batches):
    """Equation 2, each batch weighted by its number of examples."""
    sums = np.zeros(3)
    for batch in batches:
        rows = [np.asarray(f, "float64").reshape(len(f), -1) for f in batch]
        k, l_ = (f @ f.T for f in rows)
        sums += len(k) * np.array([hsic(k, l_), hsic(k, k), hsic(l_, l_)])
    return sums[0] / np.sqrt(sums[1] * sums[2])


def value(batches, **options):
    metric = CKA("a", "b", **options)
    for batch in batches:
        metric.update_state(*batch)
    return float(metric.result())


def related(examples, seed=0):
    """Two activations; the second is partly a linear map of the first."""
    student = features(examples, 6, seed=seed)
    return student, student @ features(6, 4, seed=90) + features(examples, 4, seed=seed + 50)


@pytest.mark.parametrize("sizes", [(16,), (16, 16, 16), (16, 16, 5), (4, 9)])
def test_matches_the_paper(sizes):
    batches = [related(size, seed) for seed, size in enumerate(sizes)]
    np.testing.assert_allclose(value(batches), reference(batches), rtol=1e-4)


@pytest.mark.parametrize("shape", [(12, 5, 3), (12, 4, 4, 2)])
def test_shapes_may_differ(shape):
    batch = features(*shape), features(12, 2, 2, 2, seed=1)
    np.testing.assert_allclose(value([batch]), reference([batch]), rtol=1e-4)


def test_does_not_depend_on_the_batch_size_unlike_the_biased_estimate():
    student, teacher = related(4000)

    def batched(size):
        return [(student[i : i + size], teacher[i : i + size]) for i in range(0, 4000, size)]

    def biased(batches):
        centered = [[f - f.mean(0) for f in batch] for batch in batches]
        x, y = ([b[i] @ b[i].T for b in centered] for i in (0, 1))
        a, b, c = (sum(np.sum(p * q) for p, q in zip(*pair)) for pair in ((x, y), (x, x), (y, y)))
        return a / np.sqrt(b * c)

    whole = biased(batched(4000))
    assert value(batched(8)) == pytest.approx(whole, abs=0.02)
    assert biased(batched(8)) > whole + 0.1


def test_ignores_rotation_scale_and_shift():
    student, _ = related(20)
    rotation = np.linalg.qr(features(6, 6, seed=2))[0]
    assert value([(student, 1000 * student @ rotation + 7)]) == pytest.approx(1, abs=1e-5)


def test_unrelated_layers_are_near_zero():
    batches = [(features(16, 6, seed=seed), features(16, 6, seed=seed + 500)) for seed in range(60)]
    assert abs(value(batches)) < 0.05


def test_a_large_mean_keeps_precision():
    student, teacher = related(24)
    expected = reference([(student, teacher)])
    assert value([(student + 1000, teacher - 1000)]) == pytest.approx(expected, rel=1e-2)


def test_examples_and_positions_of_weight_zero_are_excluded():
    student, teacher = features(10, 3, 4), features(10, 3, 5, seed=1)
    expected = reference([(student[:7], teacher[:7])])
    weight = np.float32([2] * 7 + [0] * 3)
    student[7:] = np.nan
    assert value([(student, teacher, weight)]) == pytest.approx(expected, rel=1e-4)
    student, mask = features(10, 3, 4), np.ones((10, 3), "float32")
    mask[:, 2] = 0
    expected = reference([(student[:, :2], teacher[:, :2])])
    assert value([(student, teacher, mask)]) == pytest.approx(expected, rel=1e-4)


def test_is_zero_without_an_estimate():
    assert value([]) == 0
    assert value([(features(3, 4), features(3, 4))]) == 0
    assert value([(np.ones((8, 4), "float32"), features(8, 4))]) == 0
    few, enough = related(3), related(8)
    assert value([few, enough]) == value([enough])


def test_config_round_trip():
    metric = CKA("block_1", "block_2", mask="padding", name="first")
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (restored.student, restored.teacher, restored.mask, restored.name) == (
        "block_1",
        "block_2",
        "padding",
        "first",
    )
