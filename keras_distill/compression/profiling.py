"""Model profiling: size, parameters, multiply-adds (MACs), latency, peak memory and accuracy."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _compat
from keras_distill.compression.exporting import Exported
from keras_distill.compression.runtimes import measure_costs, runtime
from keras_distill.models.specs import input_specs
from keras_distill.types import Structure, Tensor
from keras_distill.utils.arguments import check_model
from keras_distill.utils.formatting import UNKNOWN, align_columns, format_count, format_size, percent_with_spread

_BATCH_SIZE = 500


HEADINGS = (
    "model",
    "format",
    "score",
    "size",
    "compression",
    "parameters",
    "MACs",
    "ms median / p95",
    "memory",
    "threads",
)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Profile of an exported file.

    Attributes:
        model: Name of the model.
        format: One of `exporting.FORMATS`.
        bytes: Size on disk in bytes.
        parameters: Number of weights. Shared weights count once.
        multiply_adds: Multiply-add operations (MACs) per example.
        scores: Accuracy of the file after each training run, 0 to 1, or another score; empty without labels.
        median: Median latency of a prediction for one example in a separate process, in milliseconds; None for "keras",
            which has no separate runtime.
        p95: 95th percentile of the latency in milliseconds; None for "keras".
        memory: Peak memory in bytes that the loaded, running file adds to a process with its runtime; None if not
            measured.
        threads: Number of threads of the runtime.

    Example:

    >>> result = Profile("student", "keras", bytes=40_000, parameters=9_000, multiply_adds=10**6, scores=(0.9, 0.8))
    >>> round(result.score, 2)
    0.85
    """

    model: str
    format: str
    bytes: int
    parameters: int
    multiply_adds: int
    scores: tuple[float, ...] = ()
    median: float | None = None
    p95: float | None = None
    memory: int | None = None
    threads: int = 1

    @property
    def score(self) -> float | None:
        """Mean score over the training runs; None without labels."""
        return float(np.mean(self.scores)) if self.scores else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the score over the training runs; None for fewer than two."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None

    def cells(self, reference: "Profile", score_text: Callable[..., str] = percent_with_spread) -> tuple[str, ...]:
        """Return the formatted values of a table row, in the order of `HEADINGS`.

        Args:
            reference: Profile to whose size the compression ratio refers, such as the teacher's.
            score_text: As for `format_profiles`. Defaults to percent.
        """
        return (
            self.model,
            self.format,
            UNKNOWN if self.score is None else score_text(self.score, self.spread),
            format_size(self.bytes),
            f"{reference.bytes / self.bytes:.1f}x",
            f"{self.parameters:,}",
            format_count(self.multiply_adds),
            UNKNOWN if self.median is None else f"{self.median:.3g} / {self.p95:.3g}",
            UNKNOWN if self.memory is None else format_size(self.memory),
            UNKNOWN if self.median is None else str(self.threads),
        )


def profile(
    model: keras.Model,
    exported: Exported,
    examples: Structure,
    labels: Tensor | None = None,
    name: str | None = None,
    threads: int = 1,
) -> Profile:
    """Profile an exported file: size, parameters, MACs, latency, peak memory and accuracy.

    Latency and memory are measured in a separate process that loads nothing but the runtime; not for "keras".

    Args:
        model: The built `keras.Model` that was exported.
        exported: Result of `export` for the model.
        examples: Model inputs. The first one is used to measure latency.
        labels: Class indices, shape `[examples]` or `[examples, 1]`, to measure accuracy. Defaults to None, without
            accuracy.
        name: Name of the model in tables. Defaults to the model's name.
        threads: Number of threads of the runtime, >= 1. Defaults to 1.

    Returns:
        A `Profile`. Print several with `profiling.format_profiles`.

    Raises:
        ValueError: If the model has inner dimensions of unknown length, or the labels do not fit its outputs.
        RuntimeError: If the file fails in its separate process.

    Example:

    >>> files = export(student, "files", x, ["keras"])
    >>> profiles = [profile(student, file, x, y) for file in files]
    >>> table = compression.profiling.format_profiles(profiles)
    """
    check_model(model, "model")
    scores = () if labels is None else (accuracy(exported, examples, labels),)
    first_example = keras.tree.map_structure(lambda x: np.asarray(x)[:1], examples)
    costs = {}
    # A Keras file needs Keras, so a separate process would measure Keras itself.
    if exported.format != "keras":
        costs = measure_costs(exported.path, exported.format, first_example, threads)._asdict()
    return Profile(
        name or model.name,
        exported.format,
        exported.bytes,
        count_parameters(model),
        count_multiply_adds(model),
        scores,
        threads=threads,
        **costs,
    )


def accuracy(exported: Exported, examples: Structure, labels: Tensor) -> float:
    """Return the accuracy of an exported file, 0 to 1.

    Args:
        exported: Result of `export`.
        examples: Model inputs.
        labels: Class indices, shape `[examples]` or `[examples, 1]`; `[examples, positions...]` if the model predicts
            a class for each position.

    Raises:
        ValueError: If the model has a single output unit, or the labels have another shape.
    """
    outputs, labels = predict(exported, examples), np.asarray(labels)
    if outputs.shape[-1] == 1:
        raise ValueError(
            f"The accuracy of '{exported.path}' needs one output per class, but the model has a single output unit. "
            "Leave the labels out."
        )
    predicted = np.argmax(outputs, -1)
    # Keras' own datasets have labels of shape [examples, 1].
    expected = labels.reshape(predicted.shape) if labels.size == predicted.size else labels
    if expected.shape != predicted.shape:
        raise ValueError(
            f"`labels` must be class indices of shape {predicted.shape}, got {labels.shape}. Turn one-hot labels into "
            "class indices: `np.argmax(labels, axis=-1)`."
        )
    return float(np.mean(predicted == expected))


def predict(exported: Exported, examples: Structure) -> np.ndarray:
    """Return the outputs of an exported file, computed by its own runtime.

    Args:
        exported: Result of `export`.
        examples: Model inputs.
    """
    run, count = runtime(exported.path, exported.format), len(keras.tree.flatten(examples)[0])
    outputs = []
    for start in range(0, count, _BATCH_SIZE):
        rows = slice(start, start + _BATCH_SIZE)
        outputs.append(run(keras.tree.map_structure(lambda x, rows=rows: np.asarray(x[rows]), examples)))
    return np.concatenate(outputs)


def format_profiles(profiles: Sequence[Profile], score_text: Callable[..., str] = percent_with_spread) -> str:
    """Return a text table of profiles; compression ratios refer to the first one.

    Args:
        profiles: List of `Profile`, at least one.
        score_text: Function of a score and its standard deviation that returns text. Defaults to percent.
    """
    return align_columns([HEADINGS, *(row.cells(profiles[0], score_text) for row in profiles)])


def count_parameters(model: keras.Model) -> int:
    """Return the number of weights of a model. Shared weights count once.

    Args:
        model: A built `keras.Model`.
    """
    return sum(math.prod(weight.shape) for weight in {id(weight): weight for weight in model.weights}.values())


def count_multiply_adds(model: keras.Model, inputs: Structure | None = None) -> int:
    """Return the number of multiply-add operations (MACs) per example, counted in the graph of a forward pass.

    Matrix products and convolutions are counted, which take nearly all of the time. The body of a loop, such as that of
    an LSTM, counts once.

    Args:
        model: A built `keras.Model`.
        inputs: Example batch, `keras.Input` or `tf.TensorSpec`, for a model that was not built on its inputs yet.
            Defaults to None.

    Raises:
        ValueError: If the model has inner dimensions of unknown length.
    """
    specs = keras.tree.map_structure(
        lambda spec: tf.TensorSpec((1, *spec.shape[1:]), spec.dtype), input_specs(inputs, model)
    )
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(specs).graph
    return sum(_operation_counts(graph, model))


def _operation_counts(graph, model):
    graphs = [graph, *(function.graph for function in _compat.graph_functions(graph) if hasattr(function, "graph"))]
    for operation in (operation for each in graphs for operation in each.get_operations()):
        count = _COUNTS.get(operation.type)
        if count is not None:
            shapes = [tensor.shape for tensor in (*operation.inputs, *operation.outputs)]
            if any(not shape.is_fully_defined() for shape in shapes):
                raise ValueError(
                    f"The operation '{operation.name}' of '{model.name}' has unknown shapes {shapes}. Build the model "
                    "on a keras.Input of fixed shape."
                )
            yield count(operation)


def _matrix_product(operation):
    """Count one sum over the inner axis per output value."""
    left = operation.inputs[0].shape
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    return math.prod(operation.outputs[0].shape) * left[-2 if transposed else -1]


def _convolution(operation):
    """Count the size of the kernel and the input channels per output value; two or three spatial axes."""
    return math.prod(operation.outputs[0].shape) * math.prod(operation.inputs[1].shape[:-1])


def _transposed_convolution(operation):
    """Count the size of the kernel and the output channels per input value."""
    return math.prod(operation.inputs[2].shape) * math.prod(operation.inputs[1].shape[:-1])


def _depthwise_convolution(operation):
    height, width, *_ = operation.inputs[1].shape
    return math.prod(operation.outputs[0].shape) * height * width


def _einsum(operation):
    """Count the product of the sizes of all indices of the equation."""
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes = {index: size for term, tensor in zip(terms, operation.inputs) for index, size in zip(term, tensor.shape)}
    return math.prod(sizes.values())


_COUNTS = {
    "MatMul": _matrix_product,
    "BatchMatMulV2": _matrix_product,
    "BatchMatMulV3": _matrix_product,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3DBackpropInputV2": _transposed_convolution,
    "DepthwiseConv2dNative": _depthwise_convolution,
    "Einsum": _einsum,
}
