import keras
import pytest

from keras_distill import Distiller, Term, load_distiller
from keras_distill.losses import KLDivergence
from keras_distill.schedules import Linear
from keras_distill.teachers import EMATeacher
from tests.support.helpers import assert_same_weights, compiled, data, fitted, mlp, weights_of


def student(name="student"):
    """Return a model with batch normalization, whose statistics are averaged, and dropout, whose seed is copied."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, name="features"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ],
        name=name,
    )


def ema_distiller(model, **settings):
    return compiled(Distiller(student=model, teacher=EMATeacher(model, **settings), terms=[Term(KLDivergence(2.0))]))


class Recorder(keras.callbacks.Callback):
    def __init__(self, model):
        super().__init__()
        self.recorded, self.student = [], model

    def on_train_batch_end(self, batch, logs=None):
        self.recorded.append(weights_of(self.student))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_weights_are_the_moving_average_of_the_students(decay):
    model = student()
    average = weights_of(model)
    distiller, recorder = ema_distiller(model, decay=decay), Recorder(model)
    fitted(distiller, *data(), callbacks=[recorder])
    for weights in recorder.recorded:
        average = [decay * mean + (1 - decay) * latest for mean, latest in zip(average, weights)]
    assert len(recorder.recorded) == 3
    assert_same_weights(weights_of(distiller.teacher.model), average)


def test_the_decay_may_be_a_schedule():
    model = student()
    average = weights_of(model)
    distiller, recorder = ema_distiller(model, decay=Linear(0.0, 1.0, 2)), Recorder(model)
    fitted(distiller, *data(), callbacks=[recorder])
    for decay, weights in zip((0.0, 0.5, 1.0), recorder.recorded):
        average = [decay * mean + (1 - decay) * latest for mean, latest in zip(average, weights)]
    assert_same_weights(weights_of(distiller.teacher.model), average)


def test_evaluation_does_not_update_it():
    distiller = ema_distiller(student(), decay=0.5)
    fitted(distiller, *data())
    before = weights_of(distiller.teacher.model)
    distiller.evaluate(*data(), verbose=0)
    assert_same_weights(weights_of(distiller.teacher.model), before, rtol=0, atol=0)


def test_it_is_not_trained_and_not_saved_with_the_student(tmp_path):
    model = student()
    distiller = ema_distiller(model)
    assert {id(weight) for weight in distiller.trainable_variables} == {
        id(weight) for weight in model.trainable_variables
    }
    model.save(tmp_path / "student.keras")
    assert keras.saving.load_model(tmp_path / "student.keras").count_params() == model.count_params()


@pytest.mark.parametrize("saved", ["d.keras", "d.weights.h5"])
def test_it_resumes_after_loading(tmp_path, saved):
    first = ema_distiller(student(), decay=0.9)
    fitted(first, *data(), epochs=2)
    if saved.endswith(".keras"):
        first.save(tmp_path / saved)
        second = load_distiller(tmp_path / saved, EMATeacher(student("another"), decay=0.9))
    else:
        first.save_weights(tmp_path / saved)
        second = ema_distiller(student("another"), decay=0.9)
        second.load_weights(tmp_path / saved)
    assert_same_weights(weights_of(second.teacher.model), weights_of(first.teacher.model), rtol=0, atol=0)
    for distiller in (first, second):
        fitted(distiller, *data())
    assert_same_weights(weights_of(second.teacher.model), weights_of(first.teacher.model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMATeacher(keras.Sequential([keras.layers.Dense(2)])), "copies a built keras.Model"),
        (lambda: EMATeacher(lambda x: x), "copies a built keras.Model"),
        (
            lambda: EMATeacher(mlp(), decay=1.5),
            "`decay` must be a finite number >= 0 and <= 1 or a schedule. Received: 1.5",
        ),
        (lambda: EMATeacher(mlp(), decay=-0.1), "`decay` must be a finite number >= 0"),
        (
            lambda: fitted(
                compiled(Distiller(student=mlp(), teacher=EMATeacher(mlp(5)), terms=[Term(KLDivergence())])), *data()
            ),
            r"weights of the shapes \[\(8, 5\).*'student' has \[\(8, 8\)",
        ),
    ],
)
def test_invalid_students_and_decays_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
