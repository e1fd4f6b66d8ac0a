"""Values, gradients and memory of `Chunked`, compared with its inner loss on all logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.data.batch import Batch
from keras_distill.losses import (
    AcceptanceLikelihood,
    AdaptiveKL,
    BinaryKD,
    Chunked,
    ChunkedCrossentropy,
    DecoupledKD,
    HybridLogitDistillation,
    JensenShannon,
    KLDivergence,
    LogitMSE,
    LogitStandardization,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TopK,
    TotalVariation,
    UniversalLogitDistillation,
)
from keras_distill.teachers import ModelTeacher
from tests.support.helpers import features
from tests.support.language_models import BATCH, LENGTH, assert_close, dense, texts, values_and_gradients

POINTWISE = [
    None,
    KLDivergence(2.0),
    ReverseKL(),
    JensenShannon(),
    TotalVariation(),
    SkewKL(),
    SkewReverseKL(detach=True),
    AdaptiveKL(),
    AcceptanceLikelihood(),
    UniversalLogitDistillation(),
    HybridLogitDistillation([(1, 3), (2, 2)]),
    LogitMSE(),
    DecoupledKD(),
    BinaryKD(),
    TopK(k=3),
    LogitStandardization(KLDivergence()),
]


def connected(loss, student, teacher, tokens, student_dim=4, teacher_dim=6):
    """Return a built `Chunked` that uses these layers."""
    models = (keras.Sequential([keras.Input((None, layer.kernel.shape[0])), layer]) for layer in (student, teacher))
    chunked = Chunked(loss, "logits", "logits", tokens=tokens)
    chunked.connect(next(models), ModelTeacher(next(models)))
    chunked.build((None, None, student_dim), (None, None, teacher_dim))
    return chunked


@pytest.mark.parametrize("loss", POINTWISE, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("tokens", [1, 4, 7, 21, 100])
def test_equals_the_inner_loss(loss, tokens):
    student, teacher = dense(4), dense(6, seed=5)
    hidden, target = tf.constant(features(BATCH, LENGTH, 4)), tf.constant(features(BATCH, LENGTH, 6, seed=1))
    weight = np.random.default_rng(3).random((BATCH, LENGTH)).astype("float32")
    weight[0, 3:] = 0
    batch = Batch(None, texts()[1] if loss is not None and loss.needs_labels else None, position_weight=weight)
    chunked = connected(loss, student, teacher, tokens)
    plain = KLDivergence(1.0) if loss is None else loss
    assert_close(
        values_and_gradients(lambda h: chunked.compare(h, target, batch), hidden, student),
        values_and_gradients(lambda h: plain.compare(student(h), teacher(target), batch), hidden, student),
    )


def test_known_value():
    # Rows (2, 0) and (0, 0) with the identity as kernel: LogitMSE is half of 4, and 0.
    layer = dense(2, words=2, use_bias=False)
    layer.set_weights([np.eye(2)])
    hidden, zeros = np.array([[[2.0, 0.0], [0.0, 0.0]]], "float32"), np.zeros((1, 2, 2), "float32")
    loss = connected(LogitMSE(), layer, layer, 1, 2, 2)
    expected = np.mean(LogitMSE().compare(hidden, zeros, Batch(None)))
    np.testing.assert_allclose(loss.compare(hidden, zeros, Batch(None)), [1.0])
    np.testing.assert_allclose(expected, 1.0)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("length", [LENGTH, None])
# The gradient is computed in the backward pass; beside the values; and, since other weights were given, in both.
@pytest.mark.parametrize("weight", [None, [2.0, 4.0, 6.0], [1.0, 1.0, 1.0]])
def test_compiles(jit_compile, length, weight):
    student, teacher = dense(4), dense(6, seed=5)
    hidden, target = tf.constant(features(BATCH, LENGTH, 4)), tf.constant(features(BATCH, LENGTH, 6, seed=1))
    size = [None if length is None else BATCH]
    chunked = connected(KLDivergence(2.0), student, teacher, 4)

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec((*size, length, 4)), tf.TensorSpec((*size, length, 6))],
    )
    def step(hidden, target):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            batch = Batch(None, step=tf.constant(3), example_weight=None if weight is None else tf.constant(weight))
            values = chunked.compare(hidden, target, batch)
            total = tf.reduce_sum(values * tf.constant([1.0, 2.0, 3.0]))
        return [values, *tape.gradient(total, [hidden, *(weight.value for weight in student.trainable_weights)])]

    plain = KLDivergence(2.0)
    expected = values_and_gradients(lambda h: plain.compare(student(h), teacher(target), Batch(None)), hidden, student)
    assert_close(step(hidden, target), expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_logits_are_those_of_the_layer(policy):
    student, teacher = dense(4, dtype=policy), dense(6, seed=5, dtype=policy)
    # A loss receives float32, here with values that half precision can represent.
    hidden, target = (
        tf.cast(tf.cast(x, student.compute_dtype), "float32")
        for x in (features(BATCH, LENGTH, 4), features(BATCH, LENGTH, 6, seed=1))
    )
    chunked, plain = connected(None, student, teacher, 4), KLDivergence(1.0)
    result = values_and_gradients(lambda h: chunked.compare(h, target, Batch(None)), hidden, student)
    expected = values_and_gradients(lambda h: plain.compare(student(h), teacher(target), Batch(None)), hidden, student)
    assert all(part.dtype == tf.float32 for part in result)
    assert_close(result[:2], expected[:2])
    # A sum over tokens: over chunks in float32, in the plain layer in half precision.
    assert_close(result[2:], expected[2:], tolerance=1e-2)


def largest_tensors(function):
    """Return the largest tensor size in a graph and its functions, and the number of functions."""
    seen, largest = set(), 0

    def walk(graph):
        nonlocal largest
        for operation in graph.get_operations():
            for tensor in operation.outputs:
                # Loop variables that the condition does not use have no static shape there.
                if tensor.dtype.is_floating and "redundant_placeholder" not in tensor.name:
                    assert tensor.shape.is_fully_defined(), tensor
                    largest = max(largest, tensor.shape.num_elements())
        for name in graph._functions:
            if name not in seen:
                seen.add(name)
                inner = graph._get_function(name)
                if hasattr(inner, "graph"):
                    walk(inner.graph)

    walk(function.graph)
    return largest, len(seen)


@pytest.mark.parametrize(("chunked", "weight"), [(True, None), (True, 1.0), (False, None)])
def test_no_tensor_holds_more_than_the_logits_of_a_chunk(chunked, weight):
    words, dim, tokens, positions = 50, 4, 6, (4, 30)
    student, teacher = dense(dim, words), dense(dim, words, seed=5)
    loss = connected(KLDivergence(2.0), student, teacher, tokens, dim, dim)
    labelled = ChunkedCrossentropy(student, tokens)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(hidden, target, labels):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            if chunked:
                batch = Batch(None, example_weight=weight)
                total = tf.reduce_sum(loss.compare(hidden, target, batch)) + labelled(labels, hidden)
            else:
                values = KLDivergence(2.0).compare(student(hidden), teacher(target), Batch(None))
                total = tf.reduce_sum(values) + plain(labels, student(hidden))
        return total, tape.gradient(total, [hidden, *(weight.value for weight in student.trainable_weights)])

    hidden, labels = tf.TensorSpec((*positions, dim)), tf.TensorSpec(positions, tf.int32)
    largest, functions = largest_tensors(step.get_concrete_function(hidden, hidden, labels))
    if chunked:
        # Only the hidden states of all tokens may be larger than a chunk of logits.
        assert functions >= 4
        assert largest == max(tokens * words, positions[0] * positions[1] * dim)
    else:
        assert largest >= positions[0] * positions[1] * words
