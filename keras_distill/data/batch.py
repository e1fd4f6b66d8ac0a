"""One batch of training data, as teachers and losses see it."""

from typing import Any, NamedTuple

import keras
from keras import ops

_INPUTS, _CACHED, _INDEX = "keras_distill/inputs", "keras_distill/cached", "keras_distill/index"


class Batch(NamedTuple):
    """What a teacher and a loss may know about the examples of one step.

    Attributes:
        inputs: What the models are called with; any structure of tensors of shape `[batch, ...]`.
        labels: As given to `fit`, or None.
        sample_weight: As given to `fit`, class weights included, or None.
        cached: Activations stored beside the examples, `{tap: tensor}`, or None when the teacher runs.
        step: The optimizer's step, a scalar integer tensor; schedules are evaluated at it.
        position_weight: How much each position of the compared activations counts, float32 of shape
            `[batch, positions...]`, 0 where padded; None where all count alike. Set for each term.
        index: Which examples of the data set these are, integers of shape `[batch]`, or None.
    """

    inputs: Any
    labels: Any = None
    sample_weight: Any = None
    cached: Any = None
    step: Any = 0
    position_weight: Any = None
    index: Any = None


def unpack(data, step):
    """The `Batch` of what `fit` hands to `train_step`.

    Args:
        data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, where `x` may come `with_activations` and `with_index`.
        step: The optimizer's step.
    """
    inputs, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    inputs, cached, index = split_inputs(inputs)
    return Batch(inputs, labels, sample_weight, cached, step, index=index)


def with_activations(inputs, activations):
    """Inputs that carry a teacher's activations along, for `fit` and a `CachedTeacher`.

    Args:
        inputs: What the student is called with.
        activations: `{tap: array or tensor}`, example by example beside the inputs.

    Returns:
        A structure that `fit` and `tf.data` shuffle and batch as one.
    """
    return {**_carrying(inputs), _CACHED: dict(activations)}


def with_index(inputs, index):
    """Inputs that carry along which examples they are, for losses that remember examples.

    Args:
        inputs: What the student is called with; `with_activations` too.
        index: Integers, one for each example: `np.arange(len(x))`.

    Returns:
        A structure that `fit` and `tf.data` shuffle and batch as one.
    """
    return {**_carrying(inputs), _INDEX: index}


def split_inputs(inputs):
    """`(inputs, activations, index)` of what `with_activations` and `with_index` joined; None for what was not."""
    carrying = _carrying(inputs)
    return carrying[_INPUTS], carrying.get(_CACHED), carrying.get(_INDEX)


def on_inputs(function):
    """A function of `x` as one of the elements of a data set whose `x` carries activations or an index.

    ```python
    indexed(dataset).map(on_inputs(augment))
    ```

    Args:
        function: From inputs to inputs.
    """

    def mapped(joined, *rest):
        carrying = _carrying(joined)
        joined = {**carrying, _INPUTS: function(carrying[_INPUTS])}
        return (joined, *rest) if rest else joined

    return mapped


def batch_size(structure):
    """Length of the first axis of any tensor in the structure: a scalar int32 tensor."""
    leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
    return ops.shape(leaves[0])[0]


def _carrying(inputs):
    return inputs if isinstance(inputs, dict) and _INPUTS in inputs else {_INPUTS: inputs}
