"""Training ends at the first loss or weight that is not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Backup, Distiller, MutualDistiller, Term
from keras_distill.callbacks import NonFiniteError, TerminateOnNonFinite
from keras_distill.losses import Hint, KLDivergence
from keras_distill.saving import checkpoints
from tests.support.helpers import compiled, crossentropy, data, fitted, mlp

pytestmark = pytest.mark.case("E2")


def with_nan(row):
    x, y = data()
    x[row] = np.nan
    return x, y


def fit_until_it_ends(model, x, y, match, **options):
    with pytest.raises(NonFiniteError, match=match):
        fitted(model, x, y, callbacks=[TerminateOnNonFinite()], **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_step_and_the_parts_of_the_loss_are_named(value):
    bad = np.float32(value)
    terms = [
        Term(KLDivergence(), name="soft"),
        Term(lambda student, teacher: tf.where(student[:, 0] > 100.0, bad, 0.0) * student[:, 0], name="third"),
    ]
    distiller = compiled(Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=terms))
    x, y = data()
    x[20] = 1e3 * np.abs(x[20])
    distiller.student.layers[0].kernel.assign(np.eye(8))
    distiller.student.layers[1].kernel.assign(np.eye(8, 3))
    fit_until_it_ends(distiller, x, y, rf"^The loss is (nan|inf) in step 3 of epoch 1. Term 'third' is {value}. Lower")


def test_all_parts_that_are_not_finite_are_named():
    distiller = compiled(Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())]))
    fit_until_it_ends(
        distiller, *with_nan(9), "in step 2 of epoch 1. (Term 'kl_divergence' is nan, the|The) supervised loss is nan"
    )


def test_several_steps_per_execution():
    distiller = Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])
    compiled(distiller, steps_per_execution=3)
    fit_until_it_ends(distiller, *with_nan(20), "in one of the steps 4 to 6 of epoch 1", batch_size=4)


def test_peers_and_plain_models():
    peers = compiled(MutualDistiller([mlp(name="a"), mlp(name="b")]))
    fit_until_it_ends(
        peers, *with_nan(0), "in step 1 of epoch 1. The supervised loss of 'peer_0' is nan, the mutual loss"
    )
    model = mlp()
    model.compile("sgd", crossentropy())
    fit_until_it_ends(model, *with_nan(0), "^The loss is nan in step 1 of epoch 1. Lower")


def test_regularization_is_told_from_terms():
    student = mlp(kernel_regularizer=keras.regularizers.L2(1.0))
    student.layers[0].kernel.assign(np.full((8, 8), 1e30))
    x, y = np.zeros_like(data()[0]), data()[1]
    distiller = compiled(Distiller(student=student, teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())]))
    fit_until_it_ends(distiller, x, y, "^The loss is inf in step 1 of epoch 1. All its parts are finite: a regular")


def breaking(at_step):
    """Return a callback that sets a weight to NaN which the loss does not depend on."""

    class Breaking(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == at_step:
                self.model.student.get_layer("unused").bias.assign([np.nan])

    return Breaking()


def with_unused_layer():
    inputs = keras.Input((8,))
    unused = keras.layers.Dense(1, name="unused")(inputs)
    outputs = keras.layers.Lambda(lambda x: x[0])([keras.layers.Dense(3, name="logits")(inputs), unused])
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(("every", "place"), [(None, "at the end of epoch 1"), (2, "in step 2 of epoch 1")])
def test_weights_are_checked(every, place):
    distiller = Distiller(student=with_unused_layer(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])
    with pytest.raises(NonFiniteError, match=rf"The weights \['unused/bias'\] contain NaN or infinity {place}"):
        fitted(compiled(distiller), *data(), callbacks=[breaking(2), TerminateOnNonFinite(every)])


def test_masks_of_infinity_among_the_weights_are_no_fault():
    student = with_unused_layer()
    student.get_layer("unused").bias.assign([-np.inf])
    distiller = Distiller(student=student, teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])
    assert len(fitted(compiled(distiller), *data(), callbacks=[TerminateOnNonFinite(1)])["loss"]) == 1


def test_no_checkpoint_holds_weights_that_are_not_finite(tmp_path):
    distiller = Distiller(student=with_unused_layer(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])
    backup = Backup(tmp_path, every=1)
    with pytest.raises(NonFiniteError):
        fitted(compiled(distiller), *data(), callbacks=[breaking(3), TerminateOnNonFinite(1), backup])
    metadata, number = checkpoints.latest(tmp_path)
    assert metadata["step"] == 2
    assert all(np.isfinite(array).all() for array in checkpoints.read(tmp_path, number).values())


def test_a_finite_training_is_unchanged():
    histories = []
    for callbacks in ([], [TerminateOnNonFinite(1)]):
        keras.utils.set_random_seed(0)
        terms = [Term(KLDivergence()), Term(Hint(), "features", "features", head="auto")]
        distiller = compiled(Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=terms))
        histories.append(fitted(distiller, *data(), epochs=2, callbacks=callbacks))
    assert histories[0] == histories[1]


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_the_number_of_steps_is_checked(every):
    with pytest.raises(ValueError, match=f"`every` must be an integer >= 1 or None. Received: {every}"):
        TerminateOnNonFinite(every)
