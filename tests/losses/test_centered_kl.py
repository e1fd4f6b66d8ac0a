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


def pairs_reference(student, teacher, center):
    values = [
        reference(student[:, j], teacher[:, i], center, 0.5, 0.25)
        for i in range(teacher.shape[1])
        for j in range(student.shape[1])
        if i != j
    ]
    return np.mean(values)


def test_pairs_of_crops_match_the_paper():
    student, teacher, center = features(3, 4, 5), features(3, 2, 5, seed=1), features(5, seed=2)
    loss = CenteredKL(0.5, 0.25, momentum=0.75, pairs="crops")
    loss.build((None, 4, 5), (None, 2, 5))
    loss.center.assign(center)
    value, gradient = value_and_gradient(lambda s: loss.compare(s, teacher, Batch(None)), student)
    np.testing.assert_allclose(value, pairs_reference(student, teacher, center), rtol=1e-5)
    slope = central_differences(lambda s: pairs_reference(s, teacher, center), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())
    loss.remember(student, teacher, Batch(None))
    np.testing.assert_allclose(loss.center, 0.75 * center + 0.25 * teacher.mean((0, 1)), rtol=1e-5)


def test_crops_of_weight_0_are_left_out():
    student, teacher = features(2, 4, 5), features(2, 2, 5, seed=1)
    loss = CenteredKL(0.5, 0.25, momentum=0.0, pairs="crops")
    loss.build((None, 4, 5), (None, 2, 5))
    weighted = Batch(None, position_weight=np.array([[1, 0, 1, 0], [1, 1, 1, 1]], "float32"))
    values = loss.compare(student, teacher, weighted)
    kept = [(0, 2), (1, 0), (1, 2)]
    expected = np.mean([reference(student[:1, j], teacher[:1, i], 0.0, 0.5, 0.25) for i, j in kept])
    np.testing.assert_allclose(values, [expected, pairs_reference(student[1:], teacher[1:], 0.0)], rtol=1e-5)
    loss.remember(student, teacher, weighted)
    np.testing.assert_allclose(loss.center, np.mean([teacher[0, 0], *teacher[1]], axis=0), rtol=1e-5, atol=1e-7)


def test_other_pairs_raise():
    with pytest.raises(ValueError, match="`pairs` must be 'positions' or 'crops'. Received: 'views'"):
        CenteredKL(pairs="views")
