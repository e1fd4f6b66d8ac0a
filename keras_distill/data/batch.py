"""One batch of training data, as passed to teachers and losses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_distill.types import Structure, Tensor

_INPUTS, _CACHED, _INDEX = "keras_distill/inputs", "keras_distill/cached", "keras_distill/index"


class Batch(NamedTuple):
    """One batch, as passed to teachers and losses.

    Attributes:
        inputs: Inputs of the models, any structure of tensors of shape `[batch, ...]`.
        labels: Labels, as passed to `fit`, or None.
        sample_weight: Sample weights, as passed to `fit` and multiplied by class weights, or None.
        cached: Precomputed teacher activations, `{tap: tensor of shape [batch, ...]}`, or None if the teacher runs.
        step: Step of the optimizer, a scalar integer tensor; schedules are evaluated at it. Defaults to 0.
        position_weight: Weight of each position of the compared activations, float32 of shape
            `[batch, positions...]`, 0 for padding. None weights all positions alike. Set for each term.
        index: Indices of the examples in the dataset, integers of shape `[batch]`, or None.
        example_weight: Factor of each example's loss in the mean over the batch, float32 of shape `[batch]`, or 1.0.
            Set for each term in training steps, None elsewhere: a loss may compute its gradient beside its values.
    """

    inputs: Structure
    labels: Structure = None
    sample_weight: Structure = None
    cached: Mapping[str, Any] | None = None
    step: Tensor | int = 0
    position_weight: Tensor | None = None
    index: Tensor | None = None
    example_weight: Tensor | float | None = None


def unpack(data: Structure, step: Tensor | int) -> Batch:
    """Return the `Batch` of the data that `fit` passes to `train_step`.

    Args:
        data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, where `x` may be the result of `with_activations` and
            `with_index`.
        step: Step of the optimizer.
    """
    inputs, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    inputs, cached, index = split_inputs(inputs)
    return Batch(inputs, labels, sample_weight, cached, step, index=index)


def with_activations(inputs: Structure, activations: Mapping[str, Any]) -> dict[str, Any]:
    """Add precomputed teacher activations to inputs, for `fit` with a `CachedTeacher`.

    Example:
    >>> logits = teacher.predict(x, verbose=0)
    >>> cached = CachedTeacher({"output": logits})
    >>> distiller = Distiller(student=student, teacher=cached, terms=[Term(KLDivergence())])
    >>> distiller.compile("adam")
    >>> inputs = with_activations(x, {"output": logits})

    `distiller.fit(inputs, y)` then trains without running the teacher.

    Args:
        inputs: Inputs of the student, a structure of arrays or tensors; also the result of `with_index`.
        activations: `{tap: array or tensor of shape [examples, ...]}`, in the order of the inputs.

    Returns:
        A structure that `fit` and `tf.data` shuffle and batch as a whole.
    """
    return {**_parts(inputs), _CACHED: dict(activations)}


def with_index(inputs: Structure, index: Tensor) -> dict[str, Any]:
    """Add the indices of the examples to inputs, for losses that store values per example.

    Example:
    >>> inputs = with_index(x, np.arange(len(x)))

    Args:
        inputs: Inputs of the student, a structure of arrays or tensors; also the result of `with_activations`.
        index: Index of each example in the dataset, integers >= 0 of shape `[examples]`.

    Returns:
        A structure that `fit` and `tf.data` shuffle and batch as a whole.
    """
    return {**_parts(inputs), _INDEX: index}


def split_inputs(inputs: Structure) -> tuple[Structure, Mapping[str, Any] | None, Tensor | None]:
    """Return `(inputs, activations, index)` of inputs; activations and index are None if they were not added."""
    parts = _parts(inputs)
    return parts[_INPUTS], parts.get(_CACHED), parts.get(_INDEX)


def on_inputs(function: Callable[[Structure], Structure]) -> Callable[..., Any]:
    """Return a function for `Dataset.map` that transforms the inputs of an indexed dataset.

    Activations, index, labels and sample weights stay unchanged.

    Example:
    >>> dataset = indexed((x, y)).map(on_inputs(tf.image.flip_left_right))

    Args:
        function: Function from inputs to inputs, of one example or of a batch.

    Returns:
        A function from elements of the dataset, `x`, `(x, y)` or `(x, y, sample_weight)`, to such elements.
    """

    def mapped(joined, *rest):
        parts = _parts(joined)
        joined = {**parts, _INPUTS: function(parts[_INPUTS])}
        return (joined, *rest) if rest else joined

    return mapped


def batch_size(structure: Structure) -> Tensor:
    """Return the length of the first axis of a structure of tensors, a scalar int32 tensor."""
    leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
    return ops.shape(leaves[0])[0]


def _parts(inputs: Structure) -> dict[str, Any]:
    return inputs if isinstance(inputs, dict) and _INPUTS in inputs else {_INPUTS: inputs}
