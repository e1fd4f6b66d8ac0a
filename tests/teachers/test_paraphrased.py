import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.heads import Translator
from keras_distill.losses import FactorTransfer, KLDivergence
from keras_distill.teachers import ParaphrasedTeacher, Paraphraser
from tests.support.helpers import assert_same_weights, compiled, data, features, fitted, weights_of


def network(width, name):
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="block"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, name="logits"),
        ],
        name=name,
    )


@pytest.fixture(scope="module")
def trained():
    """Return images, a teacher, its feature maps, and a paraphraser trained on them."""
    keras.utils.set_random_seed(0)
    images, teacher = features(64, 6, 6, 1), network(8, "teacher")
    maps = keras.Model(teacher.inputs, teacher.get_layer("block").output).predict(images, verbose=0)
    paraphraser = Paraphraser(rate=0.5)
    paraphraser.compile(keras.optimizers.Adam(0.01), "mae")
    paraphraser.fit(maps, maps, epochs=60, batch_size=16, verbose=0)
    return images, teacher, maps, paraphraser


def test_the_paraphraser_learns_to_reconstruct_the_maps(trained):
    _, _, maps, paraphraser = trained
    error = np.abs(paraphraser.predict(maps, verbose=0) - maps).mean()
    # The best constant reconstruction is the median.
    assert error < 0.3 * np.abs(maps - np.median(maps, axis=(0, 1, 2))).mean()


def test_the_students_factors_approach_the_teachers(trained):
    images, model, maps, paraphraser = trained
    teacher = ParaphrasedTeacher(model, "block", paraphraser)
    terms = [Term(KLDivergence()), Term(FactorTransfer(), "block", "factors", Translator())]
    before = weights_of(model), weights_of(paraphraser)
    distiller = compiled(
        Distiller(student=network(2, "student"), teacher=teacher, terms=terms), keras.optimizers.Adam(0.01)
    )
    losses = fitted(distiller, images, data(64)[1], epochs=20, batch_size=16)["factor_transfer_loss"]
    assert losses[-1] < 0.7 * losses[0]
    for weights, part in zip(before, (model, paraphraser), strict=True):
        assert_same_weights(weights, weights_of(part), rtol=0, atol=0)


def test_returns_the_factors_next_to_the_models_outputs(trained):
    images, model, maps, paraphraser = trained
    teacher = ParaphrasedTeacher(model, "block", paraphraser)
    teacher.connect(["output", "factors"])
    activations = teacher.activations(Batch(images))
    np.testing.assert_allclose(activations["output"], model(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(activations["factors"], paraphraser.encoder(maps), rtol=1e-4, atol=1e-5)
    assert activations["factors"].shape == (64, 6, 6, 4)


def test_an_untrained_paraphraser_raises():
    with pytest.raises(ValueError, match="The paraphraser of tap 'block' has no weights.*maps of 'teacher'"):
        ParaphrasedTeacher(network(4, "teacher"), "block", Paraphraser())
