"""What a model costs: weights, bytes, operations, time and memory."""

import math
import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_distill.specs import input_specs


class Latency(NamedTuple):
    """How long one prediction takes.

    Attributes:
        median: Milliseconds.
        p95: Milliseconds within which 95 of 100 predictions end.
    """

    median: float
    p95: float


def parameters(model):
    """Number of a model's weights, each counted once however often it is used."""
    return sum(math.prod(weight.shape) for weight in {id(weight): weight for weight in model.weights}.values())


def multiply_adds(model, inputs=None):
    """Multiplications with an addition that one example costs, counted in the graph of a pass.

    Counted are products of matrices and convolutions, in which nearly all time goes.

    Args:
        model: A built `keras.Model`.
        inputs: As for `Distiller`; needed if the model was not built on its inputs yet.

    Raises:
        ValueError: If inner lengths are not known.
    """
    specs = keras.tree.map_structure(
        lambda spec: tf.TensorSpec((1, *spec.shape[1:]), spec.dtype), input_specs(inputs, model)
    )
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(specs).graph
    return sum(_operations(graph, model))


def _operations(graph, model):
    graphs = [graph, *(function.graph for function in graph._functions.values() if hasattr(function, "graph"))]
    for operation in (operation for each in graphs for operation in each.get_operations()):
        count = _COUNTS.get(operation.type)
        if count is not None:
            shapes = [tensor.shape for tensor in (*operation.inputs, *operation.outputs)]
            if any(not shape.is_fully_defined() for shape in shapes):
                raise ValueError(
                    f"'{model.name}' has an operation '{operation.name}' of unknown shapes {shapes}. Give its Input a "
                    "fixed shape."
                )
            yield count(operation)


def _product(operation):
    """Of two matrices: the outputs, each a sum over the inner axis."""
    left = operation.inputs[0].shape
    flipped = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    return math.prod(operation.outputs[0].shape) * left[-2 if flipped else -1]


def _convolution(operation):
    height, width, channels, _ = operation.inputs[1].shape
    return math.prod(operation.outputs[0].shape) * height * width * channels


def _depthwise(operation):
    height, width, *_ = operation.inputs[1].shape
    return math.prod(operation.outputs[0].shape) * height * width


def _einsum(operation):
    """Every index of the equation runs once for each of the others."""
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes = {index: size for term, tensor in zip(terms, operation.inputs) for index, size in zip(term, tensor.shape)}
    return math.prod(sizes.values())


_COUNTS = {
    "MatMul": _product,
    "BatchMatMulV2": _product,
    "BatchMatMulV3": _product,
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Einsum": _einsum,
}


def latency(run, example, repeats=200):
    """How long predictions of one example take on this machine.

    Args:
        run: Takes an array of shape `[1, ...]` and returns when the result is there, such as what `runtime` gives.
        example: That array.
        repeats: How many are timed, after ten that are not.

    Returns:
        A `Latency`.
    """
    taken = []
    for repeat in range(repeats + 10):
        start = time.perf_counter()
        run(example)
        if repeat >= 10:
            taken.append(1000 * (time.perf_counter() - start))
    return Latency(float(np.median(taken)), float(np.percentile(taken, 95)))
