import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.heads import Standardization
from keras_distill.losses import ChannelWiseKD
from tests.support.helpers import central_differences, features, fitted, softened_kl, value_and_gradient, zero_rate_sgd


def standardized(maps):
    maps = maps.astype("float64")
    axes = tuple(range(maps.ndim - 1))
    return (maps - maps.mean(axes)) / np.sqrt(maps.var(axes) + 1e-5)


@pytest.mark.parametrize("shape", [(6, 3), (3, 5, 4), (2, 3, 4, 5)])
def test_each_channel_has_mean_0_and_variance_1(shape):
    maps = 3 + 2 * features(*shape)
    weights = features(*shape, seed=1)
    np.testing.assert_allclose(Standardization()(maps), standardized(maps), rtol=1e-4, atol=1e-5)
    _, gradient = value_and_gradient(lambda x: weights * Standardization()(x), maps)
    slope = central_differences(lambda x: (weights * standardized(x)).mean(), maps)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_a_constant_channel_is_0():
    np.testing.assert_array_equal(Standardization()(np.full((2, 3, 4), 5.0, "float32")), np.zeros((2, 3, 4)))


def backbone(channels, name):
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(channels, 3, 2, "same", name="map")]
    return keras.Sequential(layers, name=name)


def normalized_term():
    head = keras.Sequential([keras.layers.Conv2D(6, 1, use_bias=False), Standardization()])
    return Term(ChannelWiseKD(1.0), "map", "map", head=head, teacher_head=Standardization(), name="cwd")


def test_both_sides_of_a_term():
    keras.utils.set_random_seed(0)
    student, teacher = backbone(4, "student"), backbone(6, "teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[normalized_term()])
    distiller.compile(zero_rate_sgd())
    x = 5 * features(4, 8, 8, 3)
    mapped = np.asarray(student(x)) @ distiller.heads[0].layers[0].get_weights()[0][0, 0]
    maps = [standardized(m).reshape(4, 16, 6).swapaxes(1, 2) for m in (mapped, teacher(x).numpy())]
    expected = softened_kl(*maps, 1.0).mean()
    np.testing.assert_allclose(fitted(distiller, x)["cwd_loss"], [expected], rtol=1e-4)
    np.testing.assert_allclose(distiller.evaluate(x, verbose=0, return_dict=True)["cwd_loss"], expected, rtol=1e-4)


@pytest.mark.replicas
def test_statistics_are_those_of_all_replicas():
    from tests.support.replica_comparison import EXAMPLES, assert_same_on_replicas

    def make():
        return Distiller(student=backbone(4, "student"), teacher=backbone(6, "teacher"), terms=[normalized_term()])

    assert_same_on_replicas(make, (features(EXAMPLES, 8, 8, 3),), loss=None)


def test_epsilon_is_saved():
    layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Standardization(0.5)))
    assert layer.epsilon == 0.5
    with pytest.raises(ValueError, match="`epsilon` must be a finite number > 0"):
        Standardization(0)
