import keras
import numpy as np
import pytest

from keras_distill.teachers import Paraphraser
from tests.support.helpers import features


def leaky(maps):
    return np.where(maps > 0, maps, 0.1 * maps)


def convolved(maps, kernel):
    height, width = maps.shape[1:3]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(3, 3))


def test_matches_the_authors_code():
    paraphraser, maps = Paraphraser(rate=0.5), features(2, 4, 5, 6)
    paraphraser.build((None, 4, 5, 6))
    weights = [features(*weight.shape, seed=seed, scale=0.3) for seed, weight in enumerate(paraphraser.weights)]
    assert [kernel.shape[2:] for kernel in weights[::2]] == [(6, 6), (6, 3), (3, 3), (3, 3), (6, 3), (6, 6)]
    paraphraser.set_weights(weights)
    outputs = maps
    for layer, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        # A transposed convolution of stride 1 is a convolution with the flipped kernel and swapped channel axes.
        kernel = kernel if layer < 3 else kernel[::-1, ::-1].swapaxes(2, 3)
        outputs = leaky(convolved(outputs, kernel) + bias)
        if layer == 2:
            np.testing.assert_allclose(paraphraser.encode(maps), outputs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(paraphraser(maps), outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rate", "channels"), [(0.5, 3), (0.75, 4), (2.0, 12), (0.01, 1)])
def test_the_rate_sets_the_channels_of_the_factors(rate, channels):
    paraphraser = Paraphraser(rate)
    assert paraphraser(features(2, 4, 5, 6)).shape == (2, 4, 5, 6)
    assert paraphraser.encode(features(2, 4, 5, 6)).shape == (2, 4, 5, channels)


@pytest.mark.parametrize("normalization", [False, True])
def test_survives_saving(tmp_path, normalization):
    paraphraser, maps = Paraphraser(0.25, normalization), features(2, 4, 5, 6)
    paraphraser.compile("sgd", "mae")
    paraphraser.fit(maps, maps, verbose=0)
    paraphraser.save(tmp_path / "p.keras")
    loaded = keras.saving.load_model(tmp_path / "p.keras")
    np.testing.assert_array_equal(loaded.encode(maps), paraphraser.encode(maps))
    np.testing.assert_array_equal(loaded(maps), paraphraser(maps))


def test_encoding_does_not_update_statistics():
    paraphraser, maps = Paraphraser(normalization=True), features(2, 4, 5, 6)
    paraphraser.build((None, 4, 5, 6))
    before = paraphraser.get_weights()
    paraphraser.encode(maps)
    assert all(np.array_equal(*pair) for pair in zip(before, paraphraser.get_weights(), strict=True))
    paraphraser(maps, training=True)
    assert not all(np.array_equal(*pair) for pair in zip(before, paraphraser.get_weights(), strict=True))


@pytest.mark.parametrize("rate", [0, -1, float("inf"), "half", True])
def test_invalid_rates_raise(rate):
    with pytest.raises(ValueError, match="`rate` must be a finite number > 0"):
        Paraphraser(rate)


def test_other_shapes_raise():
    with pytest.raises(ValueError, match=r"Paraphraser takes feature maps.*Received: shape \(None, 8\)"):
        Paraphraser().build((None, 8))
