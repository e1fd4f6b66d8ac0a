import numpy as np
import pytest

from keras_distill.losses import NeuronSelectivityTransfer
from keras_distill.losses.neuron_selectivity_transfer import neuron_selectivity_transfer
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """The paper's squared MMD with the polynomial kernel, a loop over pairs of channels."""

    def kernel(x, y):
        return (x @ y / (np.linalg.norm(x) * np.linalg.norm(y))) ** 2

    values = []
    for s, t in zip(student, teacher, strict=True):
        s, t = (list(f.reshape(-1, f.shape[-1]).T) for f in (s, t))
        pairs = ((t, t, 1), (s, s, 1), (s, t, -2))
        values.append(sum(factor * np.mean([kernel(x, y) for x in a for y in b]) for a, b, factor in pairs))
    return np.mean(values)


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 4, 5)])
def test_matches_the_paper(shape):
    student, teacher = features(*shape), features(*shape[:-1], 7, seed=1)
    value, gradient = value_and_gradient(lambda s: neuron_selectivity_transfer(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Two positions. Each of the student's channels is active at one of them, the teacher's both at the first.
    student, teacher = np.eye(2)[None], np.array([[[1.0, 2.0], [0.0, 0.0]]])
    np.testing.assert_allclose(neuron_selectivity_transfer(student, teacher), [1 + 0.5 - 2 * 0.5], rtol=1e-6)


def test_ignores_scale_sign_and_order_of_the_channels():
    student = features(2, 3, 3, 4)
    np.testing.assert_allclose(neuron_selectivity_transfer(-5 * student[..., ::-1], student), np.zeros(2), atol=1e-6)


def test_average_pools_maps_to_the_smaller_size():
    student, teacher = features(2, 2, 2, 3), features(2, 4, 4, 5, seed=1)
    smaller = teacher.reshape(2, 2, 2, 2, 2, 5).mean(axis=(2, 4))
    np.testing.assert_allclose(
        neuron_selectivity_transfer(student, teacher), neuron_selectivity_transfer(student, smaller), rtol=1e-4
    )
    assert NeuronSelectivityTransfer().comparable((None, 2, 2, 3), (None, 4, 4, 5))
    assert not NeuronSelectivityTransfer().comparable((None, 2, 3), (None, 4, 5))


def test_vectors_raise():
    with pytest.raises(
        ValueError, match=r"NeuronSelectivityTransfer compares activations of rank 3 or more.*\(None, 5\)"
    ):
        NeuronSelectivityTransfer().build((None, 5), (None, 5))
