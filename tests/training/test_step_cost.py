"""Number of operations in the graph of a training step, the fixed cost of distillation for small models."""

import keras
import numpy as np
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence, LogitMSE
from tests.support.helpers import mlp


def operations(model):
    """Return the number of operations in a step of `fit`."""
    data = tf.TensorSpec((None, 8)), tf.TensorSpec((None,), "int64")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    # Metrics create their variables in the first batch.
    model.train_on_batch(np.zeros((2, 8), "float32"), np.zeros(2, "int64"))
    graph = tf.function(model.train_step, autograph=False).get_concrete_function(data).graph.as_graph_def()
    return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)


def test_operations_of_a_step():
    teacher, student, terms = mlp(16, name="teacher"), mlp(), [Term(KLDivergence())]
    own = operations(student)
    one = operations(Distiller(student=student, teacher=teacher, terms=terms))
    two = operations(Distiller(student=student, teacher=teacher, terms=[*terms, Term(LogitMSE())]))
    # 240 are those of the teacher, the divergence with its gradient, missing labels and three logged losses.
    assert one <= own + 240
    # Another logged loss has its gradient, too.
    assert two <= one + 135
