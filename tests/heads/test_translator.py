import numpy as np
import pytest

from keras_distill.heads import Translator
from tests.support.helpers import features


def built(student, teacher, **settings):
    head = Translator(**settings)
    head.build(student, teacher)
    return head


def leaky(maps):
    return np.where(maps > 0, maps, 0.1 * maps)


def convolved(maps, kernel):
    """Convolve with a 3x3 kernel and zero padding, as nine matrix products."""
    height, width = maps.shape[1:3]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(3, 3))


def test_matches_the_authors_code():
    head = built((None, 4, 5, 3), (None, 4, 5, 7))
    sizes = [(3, 3, 3, 3), (3,), (3, 3, 3, 7), (7,), (3, 3, 7, 7), (7,)]
    weights = [features(*size, seed=seed) for seed, size in enumerate(sizes)]
    head.set_weights(weights)
    maps = student = features(2, 4, 5, 3, seed=9)
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        maps = leaky(convolved(maps, kernel) + bias)
    np.testing.assert_allclose(head(student), maps, rtol=1e-4, atol=1e-4)


def test_with_normalization():
    head = built((None, 4, 5, 3), (None, 4, 5, 7), normalization=True)
    for seed, weight in enumerate(head.weights):
        values = features(*weight.shape, seed=seed)
        weight.assign(np.abs(values) if "variance" in weight.path else values)
    maps = student = features(2, 4, 5, 3, seed=9)
    for convolution, normalization in zip(head.convolutions, head.normalizations, strict=True):
        assert not convolution.use_bias
        gamma, beta, mean, variance = normalization.get_weights()
        maps = leaky((convolved(maps, convolution.kernel.numpy()) - mean) / np.sqrt(variance + 1e-3) * gamma + beta)
    np.testing.assert_allclose(head(student), maps, rtol=1e-3, atol=1e-3)


def test_resizes_to_the_teachers_size():
    assert built((None, 4, 5, 3), (None, 2, 7, 6))(features(2, 4, 5, 3)).shape == (2, 2, 7, 6)


def test_other_shapes_raise():
    with pytest.raises(
        ValueError, match=r"Translator takes feature maps.*student shape \(None, 3\), teacher shape \(None, 7\)"
    ):
        Translator().build((None, 3), (None, 7))
