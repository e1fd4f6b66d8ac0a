import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.losses import QueueSimilarity
from keras_distill.losses.queue_similarity import queue_similarity
from tests.support.helpers import central_differences, data, features, fitted, mlp, softmax, value_and_gradient


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def reference(student, teacher, queue, temperature):
    p, q = (softmax(unit(x.astype("float64")) @ queue.T, temperature) for x in (teacher, student))
    return (p * np.log(p / q)).sum(-1).mean()


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_matches_the_formula(temperature):
    student, teacher, queue = features(4, 6), features(4, 6, seed=1), unit(features(10, 6, seed=2))
    value, gradient = value_and_gradient(lambda s: queue_similarity(s, teacher, queue, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, queue, temperature), rtol=1e-4)
    slope = central_differences(lambda s: reference(s, teacher, queue, temperature), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_known_value():
    # Similarities 1 and 0 of the teacher, 0 and 1 of the student: odds of 3 to 1 against 1 to 3.
    loss = queue_similarity(np.array([[0.0, 2.0]]), np.array([[5.0, 0.0]]), np.eye(2), 1 / np.log(3.0))
    np.testing.assert_allclose(loss, [0.75 * np.log(3) - 0.25 * np.log(3)], rtol=1e-5)


def test_queue_holds_the_latest_embeddings_of_the_teacher():
    loss = QueueSimilarity(size=5)
    loss.build((None, 3), (None, 3))
    first, second = features(2, 3), features(4, 3, seed=1)
    initial = loss.queue.numpy()
    np.testing.assert_allclose(np.linalg.norm(initial, axis=1), 1, rtol=1e-5)
    loss.compare(first, first, Batch(None))
    np.testing.assert_array_equal(loss.queue, initial)
    loss.remember(first, first, Batch(None))
    np.testing.assert_allclose(loss.queue, np.concatenate([unit(first), initial[:3]]), rtol=1e-5)
    loss.remember(second, second, Batch(None))
    np.testing.assert_allclose(loss.queue, np.concatenate([unit(second), unit(first)[:1]]), rtol=1e-5)
    loss.remember(features(9, 3), features(9, 3), Batch(None))
    np.testing.assert_allclose(loss.queue, unit(features(9, 3)[:5]), rtol=1e-5)


def test_a_student_without_labels_learns_the_teachers_neighborhoods():
    keras.utils.set_random_seed(0)
    teacher, student = mlp(16, name="teacher"), mlp(8)
    term = Term(QueueSimilarity(size=32), "features", "features", head="auto", name="seed")
    distiller = Distiller(student=student, teacher=teacher, terms=[term])
    distiller.compile(keras.optimizers.Adam(0.01))
    losses = fitted(distiller, data(64)[0], epochs=12, batch_size=16)["seed_loss"]
    assert losses[-1] < 0.5 * losses[1]
