"""`Chunked(words=)`, and `Chunked` with the top-k logits of a cache."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, HiddenStates, Term
from keras_distill.data.batch import Batch
from keras_distill.data.top_k import TopKLogits
from keras_distill.losses import Chunked, KLDivergence, TopK
from keras_distill.models.lm_head import LMHead
from keras_distill.teachers import CachedTeacher
from tests.losses.test_chunked import connected, largest_tensors
from tests.losses.test_top_k import stored
from tests.support.helpers import features
from tests.support.language_models import BATCH, LENGTH, assert_close, dense, language_model, values_and_gradients


@pytest.mark.parametrize("loss", [None, KLDivergence(2.0), TopK(3)], ids=["None", "KLDivergence", "TopK"])
@pytest.mark.parametrize("words", [None, 3, 6])
@pytest.mark.parametrize("tokens", [1, 4, 100])
def test_top_k_logits_equal_those_of_all_words(loss, words, tokens):
    student = dense(4, words=9)
    hidden = tf.constant(features(BATCH, LENGTH, 4))
    logits, every = stored(4, (BATCH, LENGTH))
    chunked = Chunked(loss, "logits", tokens=tokens, words=words)
    chunked.connect(keras.Sequential([keras.Input((None, 4)), student]), CachedTeacher({}))
    chunked.build((None, None, 4), (None, None, 9))
    assert chunked.takes_top_k
    plain = KLDivergence(1.0) if loss is None else loss
    teacher = tf.constant(every[..., :words], "float32")
    assert_close(
        values_and_gradients(lambda h: chunked.compare(h, logits, Batch(None)), hidden, student),
        values_and_gradients(lambda h: plain.compare(student(h)[..., :words], teacher, Batch(None)), hidden, student),
    )


@pytest.mark.parametrize("loss", [KLDivergence(), TopK(5)], ids=["KLDivergence", "TopK"])
def test_no_tensor_of_a_cache_holds_more_than_the_logits_of_a_chunk(loss):
    words, dim, tokens, positions, k = 50, 4, 6, (4, 30), 5
    student = dense(dim, words)
    chunked = Chunked(loss, "logits", tokens=tokens)
    chunked.connect(keras.Sequential([keras.Input((None, dim)), student]), CachedTeacher({}))
    chunked.build((None, None, dim), (None, None, words))

    @tf.function
    def step(hidden, top, classes):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            total = tf.reduce_sum(chunked.compare(hidden, TopKLogits.from_bucket(top, classes, words), Batch(None)))
        return total, tape.gradient(total, [hidden, *(weight.value for weight in student.trainable_weights)])

    specs = [
        tf.TensorSpec((*positions, dim)),
        tf.TensorSpec((*positions, k + 1)),
        tf.TensorSpec((*positions, k), tf.int32),
    ]
    largest, _ = largest_tensors(step.get_concrete_function(*specs))
    # Only the stored logits may be larger than a chunk of logits.
    assert largest == max(tokens * words, positions[0] * positions[1] * (k + 1))


@pytest.mark.parametrize("words", [2, 5, 11])
def test_the_first_words_of_two_layers(words):
    student, teacher = dense(4, words=13), dense(6, words=11, seed=5)
    hidden, target = tf.constant(features(BATCH, LENGTH, 4)), tf.constant(features(BATCH, LENGTH, 6, seed=1))
    models = (keras.Sequential([keras.Input((None, layer.kernel.shape[0])), layer]) for layer in (student, teacher))
    chunked, plain = Chunked(KLDivergence(2.0), "logits", "logits", tokens=4, words=words), KLDivergence(2.0)
    with pytest.raises(ValueError, match=r"`Chunked\(words=n\)` compares the first n words"):
        connected(KLDivergence(2.0), student, teacher, 4)
    chunked._student, chunked._teacher = (LMHead(layer, words) for layer in (student, teacher))
    assert [model(np.zeros((1, 1, 4 if i == 0 else 6))).shape[-1] for i, model in enumerate(models)] == [13, 11]
    chunked.build((None, None, 4), (None, None, 6))
    assert_close(
        values_and_gradients(lambda h: chunked.compare(h, target, Batch(None)), hidden, student),
        values_and_gradients(
            lambda h: plain.compare(student(h)[..., :words], teacher(target)[..., :words], Batch(None)), hidden, student
        ),
    )


def test_a_layer_with_fewer_words_raises():
    models = language_model(words=11), language_model(6, "teacher", words=12)
    terms = [Term(Chunked(None, "logits", "logits", words=12))]
    with pytest.raises(ValueError, match="vocabulary of layer 'logits' has 11 words. Received: words=12"):
        Distiller(student=HiddenStates(models[0]), teacher=HiddenStates(models[1]), terms=terms)
    terms = [Term(Chunked(None, "logits", "logits", words=11))]
    distiller = Distiller(student=HiddenStates(models[0]), teacher=HiddenStates(models[1]), terms=terms)
    assert Chunked.from_config(distiller.terms[0].loss.get_config()).words == 11


class Shifted(keras.layers.Dense):
    def call(self, inputs):
        return super().call(inputs) - ops_max(super().call(inputs))


def ops_max(logits):
    return keras.ops.max(logits, axis=-1, keepdims=True)


HEADS = {
    "dense": lambda policy: keras.layers.Dense(7, activation="tanh", bias_initializer="normal", dtype=policy),
    "no bias": lambda policy: keras.layers.Dense(7, use_bias=False, dtype=policy),
    "subclass": lambda policy: Shifted(7, dtype=policy),
    "embedding": lambda policy: keras.layers.Embedding(7, 4, dtype=policy),
    "reversible": lambda policy: keras.layers.ReversibleEmbedding(7, 4, dtype=policy),
    "untied": lambda policy: keras_hub.layers.ReversibleEmbedding(7, 4, tie_weights=False, dtype=policy),
    "soft cap": lambda policy: keras_hub.layers.ReversibleEmbedding(
        7, 4, logit_soft_cap=0.1, reverse_dtype="float32", dtype=policy
    ),
}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", HEADS)
def test_the_first_words_of_every_layer(name, policy):
    keras.utils.set_random_seed(0)
    layer = HEADS[name](policy)
    layer.build((None, 4) if isinstance(layer, keras.layers.Dense) else None)
    every, first = LMHead(layer), LMHead(layer, 3)
    hidden = features(5, 4)
    weights = every.weights()
    expected = every.logits(hidden, *weights)
    result = first.logits(hidden, *weights)
    assert result.shape == (5, 3) and first.shape((None, 4)) == (None, 3)
    np.testing.assert_allclose(result, expected[:, :3], rtol=1e-6, atol=1e-7)

    @tf.function
    def logits(hidden):
        return first.logits(hidden, *weights)

    largest, _ = largest_tensors(logits.get_concrete_function(tf.TensorSpec((50, 4))))
    # The logits of 50 rows: of all words for a layer that computes more than a product.
    assert largest == (50 * 7 if name == "subclass" else 50 * 4)
