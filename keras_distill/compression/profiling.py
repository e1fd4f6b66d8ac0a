"""What a model costs: weights, bytes, operations, time and memory."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression.runtimes import measure_costs, runtime
from keras_distill.models.specs import input_specs
from keras_distill.utils.formatting import UNKNOWN, align_columns, format_size, percent_with_spread

_BATCH = 500


HEADINGS = (
    "model",
    "format",
    "accuracy",
    "bytes",
    "smaller",
    "parameters",
    "multiply-adds",
    "ms / 95 %",
    "memory",
    "threads",
)


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a file of a model costs, and how good it is.

    Attributes:
        model: Its name.
        format: Of `exporting.FORMATS`.
        bytes: On disk.
        parameters: Number of weights, those that are shared counted once.
        multiply_adds: Of one example.
        accuracies: Shares of examples that the file gets right, 0 to 1, one for each training; empty if there were no
            labels.
        median, p95: Milliseconds of one prediction of one example in a process of its own; None for "keras", which has
            no runtime of its own.
        memory: Bytes that the file, loaded and running, adds to a process that has its runtime; None if not measured.
        threads: That the runtime was allowed.
    """

    model: str
    format: str
    bytes: int
    parameters: int
    multiply_adds: int
    accuracies: tuple = ()
    median: float | None = None
    p95: float | None = None
    memory: int | None = None
    threads: int = 1

    @property
    def accuracy(self):
        """Mean over the trainings, or None."""
        return float(np.mean(self.accuracies)) if self.accuracies else None

    @property
    def spread(self):
        """Sample standard deviation of the accuracy over the trainings; None for fewer than two."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None

    def cells(self, first):
        """The numbers as people read them, in the order of `HEADINGS`, sizes beside the one of `first`."""
        return (
            self.model,
            self.format,
            UNKNOWN if self.accuracy is None else percent_with_spread(self.accuracy, self.spread),
            format_size(self.bytes),
            f"{first.bytes / self.bytes:.1f}x",
            f"{self.parameters:,}",
            f"{self.multiply_adds / 1e6:.3g} M",
            UNKNOWN if self.median is None else f"{self.median:.3g} / {self.p95:.3g}",
            UNKNOWN if self.memory is None else format_size(self.memory),
            UNKNOWN if self.median is None else str(self.threads),
        )


def profile(model, exported, examples, labels=None, name=None, threads=1):
    """The `Footprint` of a file that `export` wrote.

    ```python
    rows = [weigh(teacher, each, x_test, y_test) for each in export(teacher, "files", x_train, ["saved_model"])]
    rows += [weigh(student, each, x_test, y_test) for each in export(student, "files", x_train)]
    print(footprint.text(rows))
    ```

    Args:
        model: The built `keras.Model` that was exported.
        exported: An `Exported`.
        examples: Inputs, as the model takes them: the first is what is timed.
        labels: Their class numbers, shape `[examples]`, if accuracy is wanted.
        name: In tables. Defaults to the model's.
        threads: How many the file's runtime may use while it is timed.

    Raises:
        ValueError: If inner lengths of the model are not known.
    """
    accuracies = ()
    if labels is not None:
        accuracies = (accuracy(exported, examples, labels),)
    first = keras.tree.map_structure(lambda x: np.asarray(x)[:1], examples)
    # Keras' own model is called in the process that has it.
    taken = (
        {} if exported.format == "keras" else measure_costs(exported.path, exported.format, first, threads)._asdict()
    )
    return Profile(
        name or model.name,
        exported.format,
        exported.bytes,
        count_parameters(model),
        count_multiply_adds(model),
        accuracies,
        threads=threads,
        **taken,
    )


def accuracy(exported, examples, labels):
    """The share of examples that a file gets right, 0 to 1.

    Args:
        exported: An `Exported`.
        examples: Inputs, as the model takes them.
        labels: Class numbers, shape `[examples]`.
    """
    run, labels, right = runtime(exported.path, exported.format), np.asarray(labels), 0
    for start in range(0, len(labels), _BATCH):
        rows = slice(start, start + _BATCH)
        outputs = run(keras.tree.map_structure(lambda x, rows=rows: np.asarray(x[rows]), examples))
        right += int(np.sum(np.argmax(outputs, -1) == labels[rows]))
    return right / len(labels)


def format_profiles(footprints):
    """`Footprint`s as a table to print; how many times smaller a file is, it is than the first."""
    return align_columns([HEADINGS, *(each.cells(footprints[0]) for each in footprints)])


def count_parameters(model):
    """Number of a model's weights, each counted once however often it is used."""
    return sum(math.prod(weight.shape) for weight in {id(weight): weight for weight in model.weights}.values())


def count_multiply_adds(model, inputs=None):
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
