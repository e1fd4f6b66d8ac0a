import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.losses import AttentionRelation
from keras_distill.losses.attention_relation import attention_relation
from tests.support.helpers import central_differences, compiled, data, features, softmax, value_and_gradient


def reference(first, second, teacher_first, teacher_second, heads):
    """Transcription of the papers, with heads split from the joined width."""

    def relation(first, second, head):
        a, b = (np.split(x.reshape(len(x), -1), heads, axis=1)[head] for x in (first, second))
        return softmax(a @ b.T / np.sqrt(a.shape[1]))

    values = []
    for a, b, c, d in zip(first, second, teacher_first, teacher_second):
        for head in range(heads):
            q, p = relation(a, b, head), relation(c, d, head)
            values.append((p * np.log(p / q)).sum(axis=1).mean())
    return np.mean(values)


def compare(student, teacher, heads=None, weight=None):
    return AttentionRelation(heads).compare(student, teacher, Batch(None, position_weight=weight))


@pytest.mark.parametrize("heads", [None, 1, 2, 6])
def test_matches_the_papers(heads):
    first, second = features(2, 4, 2, 6), features(2, 4, 2, 6, seed=1)
    teacher = features(2, 4, 2, 9, seed=2), features(2, 4, 2, 9, seed=3)
    value, gradient = value_and_gradient(lambda s: compare((s, second), teacher, heads), first)
    np.testing.assert_allclose(value, reference(first, second, *teacher, heads or 2), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, second, *teacher, heads or 2), first)
    np.testing.assert_allclose(gradient, slope, atol=1e-5 * np.abs(slope).max())


def test_known_value():
    # One query, two keys: probabilities 1/2, 1/2 against 3/4, 1/4.
    student, teacher = np.zeros((1, 1, 1, 2)), np.log([3.0, 1.0]).reshape(1, 1, 1, 2)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    np.testing.assert_allclose(attention_relation(student, teacher), [expected], rtol=1e-6)


def test_padded_tokens_are_excluded():
    student, teacher = features(2, 4, 2, 3), features(2, 4, 2, 5, seed=1)
    weight = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]], "float32")
    loss = compare(student, teacher, weight=weight)
    np.testing.assert_allclose(loss[:1], compare(student[:1, :3], teacher[:1, :3]), rtol=1e-5)
    np.testing.assert_allclose(loss[1:], compare(student[1:, :2], teacher[1:, :2]), rtol=1e-5)


def test_joined_and_separate_heads_are_split_equally():
    student, teacher = features(2, 4, 2, 6), features(2, 4, 3, 6, seed=1)
    joined = student.reshape(2, 4, 12), teacher.reshape(2, 4, 18)
    np.testing.assert_allclose(compare(*joined, heads=3), compare(student, teacher, heads=3), rtol=1e-6)


def test_invalid_shapes_and_heads_raise():
    separate, joined = (None, 8, 2, 16), (None, 8, 32)
    assert not AttentionRelation().comparable(separate, (None, 8, 4, 16))
    assert AttentionRelation(8).comparable(separate, (None, 8, 4, 16))
    with pytest.raises(
        ValueError, match=r"set `heads`, as in AttentionRelation\(heads=12\). Received: shape \(None, 8, 32\)"
    ):
        AttentionRelation().build(joined, joined)
    with pytest.raises(ValueError, match="`heads` must divide the width of the activations, 32. Received: heads=5"):
        AttentionRelation(5).build(separate, joined)
    with pytest.raises(ValueError, match="`heads` must be an integer >= 1 or None. Received: 0"):
        AttentionRelation(0)


def transformer(heads, name):
    inputs = keras.Input((8,))
    tokens = keras.layers.Reshape((4, 2))(inputs)
    tokens = keras.layers.MultiHeadAttention(heads, 6, name="attention")(tokens, tokens)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(tokens)), name=name)


def test_tapped_sub_layers_of_an_attention_train():
    x, y = data()
    query_key = ("attention/query", "attention/key")
    terms = [
        Term(AttentionRelation(heads=3), query_key, query_key, name="query_key"),
        Term(AttentionRelation(heads=3), "attention/value", "attention/value", name="value_value"),
    ]
    student, teacher = transformer(1, "student"), transformer(2, "teacher")
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=terms), keras.optimizers.Adam(0.01))
    history = distiller.fit(x, y, epochs=15, verbose=0).history
    assert all(history[f"{term.name}_loss"][-1] < history[f"{term.name}_loss"][0] for term in terms)


def test_tokens_that_a_model_masks_are_excluded():
    def masked(heads, name):
        inputs = keras.Input((None, 3))
        tokens = keras.layers.Masking()(inputs)
        attended = keras.layers.MultiHeadAttention(heads, 6, name="attention")(tokens, tokens)
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(attended)), name=name)

    x, y = features(8, 4, 3), np.arange(8) % 3
    x[:, 3] = 0
    query_key = ("attention/query", "attention/key")
    term = Term(AttentionRelation(heads=3), query_key, query_key, name="relation")
    distiller = compiled(Distiller(student=masked(1, "student"), teacher=masked(2, "teacher"), terms=[term]))
    # Without a bias, padded tokens would be 0 in every layer.
    distiller.student.set_weights([weight + 0.1 for weight in distiller.student.get_weights()])
    padded, short = (distiller.evaluate(z, y, verbose=0, return_dict=True) for z in (x, x[:, :3]))
    np.testing.assert_allclose(padded["relation_loss"], short["relation_loss"], rtol=1e-5)
