"""Hooks that subclasses of distillers override."""

import inspect

import keras
import numpy as np
import pytest

from keras_distill import Distiller, MutualDistiller, Term, load_distiller
from keras_distill.losses import KLDivergence
from keras_distill.training import BaseDistiller, LossWeight
from tests.support.helpers import compiled, crossentropy, data, fitted, mlp, weights_of

pytestmark = pytest.mark.everyday


@keras.saving.register_keras_serializable("tests")
class Shifted(Distiller):
    """Distiller that adds a constant to the inputs."""

    def __init__(self, shift=0.0, **kwargs):
        super().__init__(**kwargs)
        self.shift = shift

    def prepare_batch(self, batch):
        return batch._replace(inputs=batch.inputs + self.shift)

    def get_config(self):
        return {**super().get_config(), "shift": self.shift}


def test_distillers_inherit_train_step_and_test_step():
    for cls in (Distiller, MutualDistiller):
        assert "train_step" not in vars(cls) and "test_step" not in vars(cls)
    assert {"train_step", "test_step"} <= set(vars(BaseDistiller))


def test_prepare_batch_changes_the_inputs_of_both_models():
    (x, y), teacher = data(), mlp(name="teacher")
    student = mlp()
    shifted = compiled(Shifted(1.5, student=student, teacher=teacher), keras.optimizers.SGD(0.0))
    plain = compiled(Distiller(student=student, teacher=teacher), keras.optimizers.SGD(0.0))
    np.testing.assert_allclose(fitted(shifted, x, y)["loss"], fitted(plain, x + 1.5, y)["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        shifted.evaluate(x, y, verbose=0, return_dict=True)["loss"],
        plain.evaluate(x + 1.5, y, verbose=0, return_dict=True)["loss"],
        rtol=1e-6,
    )


def test_save_and_load_a_subclass(tmp_path):
    (x, y), teacher = data(), mlp(name="teacher")
    first = compiled(Shifted(0.5, student=mlp(), teacher=teacher))
    fitted(first, x, y)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    assert type(second) is Shifted and second.shift == 0.5
    assert fitted(first, x, y) == fitted(second, x, y)


def test_load_distiller_uses_the_custom_object_scope(tmp_path):
    class Halved(keras.layers.Layer):
        def call(self, inputs):
            return inputs / 2

    teacher = mlp(name="teacher")
    student = keras.Sequential([keras.Input((8,)), Halved(), keras.layers.Dense(3)])
    compiled(Distiller(student=student, teacher=teacher)).save(tmp_path / "d.keras")
    with keras.saving.custom_object_scope({"Halved": Halved}):
        loaded = load_distiller(tmp_path / "d.keras", teacher)
    np.testing.assert_array_equal(loaded.student.get_weights()[0], student.get_weights()[0])


def test_loading_a_subclass_without_its_teacher_raises(tmp_path):
    compiled(Shifted(student=mlp(), teacher=mlp(name="teacher"))).save(tmp_path / "d.keras")
    with pytest.raises(ValueError, match=r"A saved Shifted does not hold its teacher. Load it with keras_distill.load"):
        keras.saving.load_model(tmp_path / "d.keras")


def test_losses_of_changes_the_loss():
    class Penalized(Distiller):
        def losses_of(self, batch, student, teacher, training):
            losses = super().losses_of(batch, student, teacher, training)
            return losses | {"kl_divergence_loss": losses["kl_divergence_loss"] + 7.0}

    (x, y), student, teacher = data(), mlp(), mlp(name="teacher")
    terms = [Term(KLDivergence(1.0), weight=0.5)]
    plain, penalized = (
        fitted(compiled(cls(student=student, teacher=teacher, terms=terms), keras.optimizers.SGD(0.0)), x, y)
        for cls in (Distiller, Penalized)
    )
    np.testing.assert_allclose(penalized["loss"][0], plain["loss"][0] + 3.5, rtol=1e-5)


@pytest.mark.case("C1")
def test_positional_arguments_raise():
    with pytest.raises(TypeError, match=r"Distiller\(student=..., teacher=..., terms=...\).*\(teacher, student, ...\)"):
        Distiller(mlp(name="teacher"), mlp(), [Term(KLDivergence())])
    parameters = inspect.signature(Distiller.__init__).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p.name != "self")


def test_default_terms_are_one_kl_divergence():
    (x, y), student, teacher = data(), mlp(), mlp(name="teacher")
    default = compiled(Distiller(student=student, teacher=teacher), keras.optimizers.SGD(0.0))
    explicit = compiled(
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())]), keras.optimizers.SGD(0.0)
    )
    assert fitted(default, x, y) == fitted(explicit, x, y)
    assert Distiller(student=student, teacher=None).terms == ()


@pytest.mark.case("F5")
def test_zero_weight_matches_training_without_a_teacher():
    (x, y), first, second = data(), mlp(), mlp()
    second.set_weights(first.get_weights())
    fitted(
        compiled(Distiller(student=first, teacher=mlp(name="teacher"), terms=[Term(KLDivergence(), weight=0)])), x, y
    )
    fitted(compiled(Distiller(student=second, teacher=None)), x, y)
    for one, other in zip(weights_of(first), weights_of(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


class Alternating(LossWeight):
    """Weight of 1 in even steps and 0 in odd steps."""

    def value(self, step):
        return 1.0 - keras.ops.cast(step % 2, "float32")


@keras.saving.register_keras_serializable("tests")
class Counted(keras.layers.Layer, LossWeight):
    """Weight with state: the number of training steps so far."""

    def build(self):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.built = True

    @property
    def state(self):
        return (self.count,)

    def value(self, step):
        return keras.ops.convert_to_tensor(self.count)

    def update(self, loss, supervised, batch):
        self.count.assign_add(1.0)


class BatchLogs(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        # Keras logs means over the epoch so far.
        self.logs.append(dict(logs))


def test_custom_weight_without_state():
    (x, y), recorder = data(), BatchLogs()
    terms = [Term(KLDivergence(1.0), weight=Alternating())]
    distiller = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=terms, supervised_weight=0.0)
    fitted(compiled(distiller, keras.optimizers.SGD(0.0)), x, y, callbacks=[recorder])
    losses = [logs["loss"] * (number + 1) for number, logs in enumerate(recorder.logs)]
    terms = [logs["kl_divergence_loss"] * (number + 1) for number, logs in enumerate(recorder.logs)]
    np.testing.assert_allclose(np.diff(losses, prepend=0), np.diff(terms, prepend=0) * [1, 0, 1], atol=1e-6)
    assert "kl_divergence_weight" not in recorder.logs[0]


def test_custom_weight_with_state_is_logged_and_saved(tmp_path):
    (x, y), teacher = data(), mlp(name="teacher")
    distiller = compiled(
        Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence(), weight=Counted())]),
        keras.optimizers.SGD(0.0),
    )
    logged = fitted(distiller, x, y, epochs=2)
    np.testing.assert_allclose(logged["kl_divergence_weight"], [2.0, 5.0])
    assert distiller.evaluate(x, y, verbose=0, return_dict=True)["kl_divergence_weight"] == 6.0
    distiller.save(tmp_path / "d.keras")
    loaded = load_distiller(tmp_path / "d.keras", teacher)
    assert loaded.evaluate(x, y, verbose=0, return_dict=True)["kl_divergence_weight"] == 6.0


@pytest.mark.parametrize("weight", [-1, np.nan, np.inf, "x", True])
def test_invalid_weights_raise(weight):
    with pytest.raises(ValueError, match="`weight of KLDivergence` must be a finite number"):
        Term(KLDivergence(), weight=weight)
    with pytest.raises(ValueError, match="`supervised_weight` must be a finite number"):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), supervised_weight=weight)


def test_crossentropy_matches_keras_evaluate():
    (x, y), student = data(), mlp()
    baseline = compiled(Distiller(student=student, teacher=None), keras.optimizers.SGD(0.0))
    student.compile(loss=crossentropy())
    np.testing.assert_allclose(fitted(baseline, x, y)["loss"][0], student.evaluate(x, y, verbose=0), rtol=1e-6)
