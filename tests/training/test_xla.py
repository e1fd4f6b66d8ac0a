"""TPU compatibility: XLA compiles whole training steps, with static shapes and without Python callbacks.

The tests use XLA's compiler for the CPU, because they have no TPU.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.util import pywrap_xla_ops

from keras_distill import Balance, Distiller, MutualDistiller, Term
from keras_distill.data.batch import with_activations
from keras_distill.losses import Hint, KLDivergence
from keras_distill.schedules import StopAfter
from keras_distill.teachers import CachedTeacher, EMATeacher, Ensemble
from tests.support.helpers import compiled, data, mlp
from tests.support.loss_models import LOSSES, distiller_with, images

pytestmark = pytest.mark.replicas

BATCH = 6
# XLA has kernels for these, but their results have no static shape.
DYNAMIC = {"Where", "Unique", "UniqueV2"}
# Graph nodes that need no kernel.
STRUCTURE = {"Const", "NoOp", "Placeholder", "PartitionedCall", "StatefulPartitionedCall"}


def operations(model, batch):
    """Return the types of all operations in a training step and in the functions that it calls."""
    specs = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, tf.as_dtype(array.dtype)), batch)
    graph = tf.function(model.train_step).get_concrete_function(specs).graph.as_graph_def()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    return {node.op for body in bodies for node in body}


def assert_tpu_compatible(make, x, y):
    """Check that XLA supports all operations of the step, and that compilation does not change the weights."""
    results = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        # A small learning rate, because large steps amplify rounding errors.
        model = compiled(make(), keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        results.append([np.array(weight) for weight in model.trainable_weights])
    op_types = operations(model, (keras.tree.map_structure(lambda array: array[:BATCH], x), y[:BATCH]))
    assert not op_types - set(pywrap_xla_ops.get_cpu_kernel_names()) - STRUCTURE
    assert not op_types & DYNAMIC
    for plain, compiled_by_xla in zip(*results, strict=True):
        np.testing.assert_allclose(compiled_by_xla, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    assert_tpu_compatible(lambda: distiller_with(name), *images(2 * BATCH, name))


DISTILLERS = {
    "several terms": lambda: Distiller(
        student=mlp(),
        teacher=mlp(name="teacher"),
        terms=[
            Term(KLDivergence(), weight=Balance(0.5)),
            Term(Hint(), "features", "features", weight=StopAfter(1.0, 3)),
        ],
    ),
    "an ensemble": lambda: Distiller(
        student=mlp(), teacher=Ensemble([mlp(name="teacher"), mlp(16, name="wide")]), terms=[Term(KLDivergence())]
    ),
    "peers": lambda: MutualDistiller([mlp(), mlp(16, name="wide")]),
}


@pytest.mark.parametrize("name", DISTILLERS)
def test_distillers(name):
    assert_tpu_compatible(DISTILLERS[name], *data(2 * BATCH))


def test_ema_teacher():
    def make():
        student = mlp()
        return Distiller(student=student, teacher=EMATeacher(student, decay=0.5), terms=[Term(KLDivergence())])

    assert_tpu_compatible(make, *data(2 * BATCH))


def test_cached_teacher():
    x, y = data(2 * BATCH)
    logits = {"output": np.array(mlp(name="teacher")(x))}
    assert_tpu_compatible(
        lambda: Distiller(student=mlp(), teacher=CachedTeacher(logits), terms=[Term(KLDivergence())]),
        with_activations(x, logits),
        y,
    )


def test_missing_labels():
    x, y = data(2 * BATCH)
    y = np.where(np.arange(2 * BATCH) % 3, y, -1)
    assert_tpu_compatible(
        lambda: Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]), x, y
    )


def test_python_callbacks_are_detected():
    class CallbackLoss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return tf.ensure_shape(tf.numpy_function(lambda y: y.mean(-1), [y_pred], tf.float32), (None,))

    model = compiled(
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]), loss=CallbackLoss()
    )
    assert "PyFunc" in operations(model, data(BATCH)) - set(pywrap_xla_ops.get_cpu_kernel_names())
