import numpy as np

from keras_distill.data.batch import Batch
from keras_distill.losses import AttentionScores
from keras_distill.losses.attention_scores import attention_scores
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(query, key, teacher_query, teacher_key):
    """Equation 7 of the paper, a loop over the heads of `[batch, tokens, heads, dim]`."""

    def scores(query, key, head):
        return query[:, head] @ key[:, head].T / np.sqrt(query.shape[-1])

    values = []
    for q, k, tq, tk in zip(query, key, teacher_query, teacher_key):
        values += [((scores(q, k, h) - scores(tq, tk, h)) ** 2).mean() for h in range(q.shape[1])]
    return np.mean(values)


def layers(tokens=4, dim=5, seed=0):
    return features(2, tokens, 3, dim, seed=seed), features(2, tokens, 3, dim, seed=seed + 1)


def compare(student, teacher, weight=None):
    return AttentionScores().compare(student, teacher, Batch(None, position_weight=weight))


def test_matches_the_paper():
    (query, key), teacher = layers(), layers(dim=7, seed=2)
    value, gradient = value_and_gradient(lambda q: compare((q, key), teacher), query)
    np.testing.assert_allclose(value, reference(query, key, *teacher), rtol=1e-5)
    slope = central_differences(lambda q: reference(q, key, *teacher), query)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # Queries 1 and 2, keys 3 and 1, in one dimension: scores 3, 1, 6, 2 against 3, 1, 0, 0.
    query, key, teacher = np.array([[1.0], [2.0]]), np.array([[3.0], [1.0]]), np.array([[1.0], [0.0]])
    query, key, teacher = (x.reshape(1, 2, 1, 1).astype("float32") for x in (query, key, teacher))
    np.testing.assert_allclose(compare((query, key), (teacher, key)), [(6**2 + 2**2) / 4])
    np.testing.assert_allclose(attention_scores(np.full((1, 1, 1, 1), 2.0), np.zeros((1, 1, 1, 1))), [4.0])


def test_padded_tokens_are_neither_queries_nor_keys():
    student, teacher = layers(), layers(seed=2)
    weight = np.array([[1.0, 1.0, 1.0, 0.0]] * 2, "float32")
    expected = compare(tuple(x[:, :3] for x in student), tuple(x[:, :3] for x in teacher))
    np.testing.assert_allclose(compare(student, teacher, weight), expected, rtol=1e-5)
    np.testing.assert_array_equal(compare(student, teacher, 0 * weight), [0.0, 0.0])


def test_large_negative_scores_at_padded_keys_have_no_effect():
    student, teacher = features(1, 2, 3, 3), features(1, 2, 3, 3, seed=1)
    weight, expected = np.array([[1.0, 1.0, 0.0]]), attention_scores(student[..., :2, :2], teacher[..., :2, :2])
    student[..., 2], teacher[..., 2] = -1e30, -1e9
    value, gradient = value_and_gradient(lambda s: attention_scores(s, teacher, weight), student)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_needs_the_same_number_of_heads_of_any_width():
    pair = ((None, 8, 2, 16), (None, 8, 2, 16))
    assert AttentionScores().comparable(pair, ((None, 8, 2, 64), (None, 8, 2, 64)))
    assert not AttentionScores().comparable(pair, ((None, 8, 4, 16), (None, 8, 4, 16)))
