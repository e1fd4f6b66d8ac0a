import keras
import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import HybridLogitDistillation
from tests.support.helpers import central_differences, features, softmax, value_and_gradient

SHARED = [(0, 4), (3, 1), (2, 2)]


def reference(student, teacher, beta, weight, temperature=1.0):
    """Formula of the docstring, times T, for vocabularies of 5 and 6 words."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    shared_q, shared_p = q[..., [0, 3, 2]], p[..., [4, 1, 2]]
    rest_q, rest_p = np.delete(q, [0, 3, 2], axis=-1), np.delete(p, [4, 1, 2], axis=-1)
    rest_q = np.concatenate([rest_q, np.zeros((*q.shape[:-1], 1))], axis=-1)
    distance = np.abs(np.sort(rest_p) - np.sort(rest_q)).sum(axis=-1)

    def kl(a, b):
        return (a * np.log(a / b) + b - a).sum(axis=-1)

    mixture = beta * shared_p + (1 - beta) * shared_q
    divergence = {0: kl(shared_p, shared_q), 1: kl(shared_q, shared_p)}.get(
        beta, beta * kl(shared_p, mixture) + (1 - beta) * kl(shared_q, mixture)
    )
    weight = 3 / 6 if weight is None else weight
    return temperature * (weight * divergence + (1 - weight) * distance)


def compare(loss, student, teacher):
    loss.build(student.shape, teacher.shape)
    return loss.compare(student, teacher, Batch(None))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("beta", "weight"), [(0, None), (0.3, 0.8), (0.5, None), (1, 0.2)])
def test_matches_the_formula(beta, weight, temperature):
    student, teacher = features(4, 5, scale=2), features(4, 6, seed=1, scale=2)
    loss = HybridLogitDistillation(SHARED, beta, weight, temperature)
    value, gradient = value_and_gradient(lambda s: compare(loss, s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher, beta, weight, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, beta, weight, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_lowest_at_the_teacher(beta):
    # All words of the teacher are shared; the student has one more, which it must not use.
    teacher, loss = features(4, 5), HybridLogitDistillation([(c, c) for c in range(5)], beta)
    equal = np.concatenate([teacher, np.full((4, 1), -1e9, "float32")], axis=-1)
    np.testing.assert_allclose(compare(loss, equal, teacher), 0, atol=1e-6)
    for seed in range(5):
        assert np.all(compare(loss, equal + features(4, 6, seed=seed, scale=0.1), teacher) > 1e-6)


def test_survives_saving():
    loss = HybridLogitDistillation(np.array(SHARED), 0.2, 0.7, 2.0, name="mine")
    revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert revived.get_config() == loss.get_config()
    student, teacher = features(4, 5), features(4, 6, seed=1)
    np.testing.assert_array_equal(compare(revived, student, teacher), compare(loss, student, teacher))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared": [(0, 1), (2, 1)]}, "`shared` has the teacher index 1 in 2 pairs"),
        ({"shared": [(0, 1, 2)]}, r"`shared` must be pairs \(student index, teacher index\)"),
        ({"shared": [(0, -1)]}, "`shared` must be an integer >= 0"),
        ({"beta": 1.5}, "`beta` must be a finite number >= 0 and <= 1"),
        ({"shared_weight": -0.1}, "`shared_weight` must be a finite number >= 0 and <= 1"),
    ],
)
def test_rejects_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HybridLogitDistillation(**arguments)


def test_rejects_words_that_a_vocabulary_lacks():
    with pytest.raises(ValueError, match="`shared` has the student index 4, but the student's logits have 4 words"):
        HybridLogitDistillation([(4, 0)]).build((None, 4), (None, 6))
    with pytest.raises(ValueError, match="HybridLogitDistillation compares two classes or more"):
        HybridLogitDistillation().build((None, 4), (None, 1))
