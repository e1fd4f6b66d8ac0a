import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.losses import CenteredKL
from keras_distill.losses.centered_kl import centered_kl
from keras_distill.teachers import EMATeacher
from tests.support.helpers import (
    central_differences,
    compiled,
    data,
    features,
    fitted,
    mlp,
    softmax,
    value_and_gradient,
)


def reference(student, teacher, center, temperature, teacher_temperature):
    """The loss of algorithm 1 of the paper, less the teacher's entropy."""
    p, q = softmax(teacher - center, teacher_temperature), softmax(student, temperature)
    return (p * np.log(p / q)).sum(-1).mean()


@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (1.0, 0.5)])
def test_matches_the_paper(temperatures):
    student, teacher, center = features(4, 6), features(4, 6, seed=1), features(6, seed=2)
    teacher = 0.1 * teacher
    value, gradient = value_and_gradient(lambda s: centered_kl(s, teacher, 0.1 * center, *temperatures), student)
    np.testing.assert_allclose(value, reference(student, teacher, 0.1 * center, *temperatures), rtol=1e-4)
    slope = central_differences(lambda s: reference(s, teacher, 0.1 * center, *temperatures), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_known_value():
    # The center cancels the teacher's preference: equal probabilities against odds of 3 to 1.
    loss = centered_kl(np.array([[np.log(3.0), 0.0]]), np.array([[5.0, 2.0]]), np.array([5.0, 2.0]), 1.0, 0.04)
    np.testing.assert_allclose(loss, [0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)], rtol=1e-5)


def test_center_is_a_running_mean_of_the_teachers_logits():
    loss = CenteredKL(momentum=0.75)
    loss.build((None, 3), (None, 3))
    batches, center = [features(5, 3), features(2, 3, seed=1)], np.zeros(3)
    for teacher in batches:
        loss.remember(teacher, teacher, Batch(None))
        center = 0.75 * center + 0.25 * teacher.mean(0)
        np.testing.assert_allclose(loss.center, center, rtol=1e-5)


def test_center_leaves_out_padding_and_masked_prototypes():
    loss = CenteredKL(momentum=0.5)
    loss.build((None, 2, 3), (None, 2, 3))
    loss.center.assign([1.0, 1.0, 1.0])
    teacher = np.array([[[1.0, 2.0, -np.inf], [9.0, 9.0, 9.0]], [[3.0, 4.0, -np.inf], [5.0, 6.0, -np.inf]]], "float32")
    loss.remember(teacher, teacher, Batch(None, position_weight=np.array([[1.0, 0.0], [1.0, 1.0]], "float32")))
    np.testing.assert_allclose(loss.center, [2.0, 2.5, 1.0], rtol=1e-6)
    loss.remember(teacher, teacher, Batch(None, position_weight=np.zeros((2, 2), "float32")))
    np.testing.assert_allclose(loss.center, [2.0, 2.5, 1.0], rtol=1e-6)


def test_center_is_trained_with_a_mean_teacher_and_saved(tmp_path):
    student = mlp()
    distiller = Distiller(student=student, teacher=EMATeacher(student), terms=[Term(CenteredKL(), name="dino")])
    distiller.compile(keras.optimizers.SGD(0.1))
    x, _ = data()
    fitted(distiller, x)
    center = distiller.term_losses[0].center.numpy()
    assert np.any(center)
    evaluated = distiller.evaluate(x, verbose=0, return_dict=True)["dino_loss"]
    np.testing.assert_array_equal(distiller.term_losses[0].center, center)
    distiller.save(tmp_path / "distiller.keras")
    loaded = compiled(load_distiller(tmp_path / "distiller.keras", EMATeacher(student)))
    np.testing.assert_array_equal(loaded.term_losses[0].center, center)
    assert np.isfinite(evaluated)
