"""Weights of the positions of an activation, from sample weights, masks and a term's `positions`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.data.sample_weights import entry_of_tap
from keras_distill.data.top_k import TopKLogits
from keras_distill.distribution import replicas
from keras_distill.models.masking import expand_to_rank, mean_over_positions
from keras_distill.models.resampling import is_known, position_size, resize_maps, resize_weights
from keras_distill.models.specs import Spec
from keras_distill.models.taps import OUTPUT
from keras_distill.types import Structure, Tensor


def for_tap(batch: Batch, tap: str, specs: Mapping[str, Structure] | None = None, output: str = OUTPUT) -> Batch:
    """Return the batch with the sample weights that belong to a tap.

    Weights belong to the output that they came with. Those of its positions apply to a tap whose positions they are,
    i.e. to the output itself and to activations that depend on the same inputs, at any resolution. Another tap, such
    as the hidden states of an encoder for weights of decoder tokens, has the mean of an example's weights other than 0.

    Args:
        batch: The `Batch`, with sample weights as passed to `fit`.
        tap: Tap of the student.
        specs: `{tap: Spec}` of the student. Defaults to None: weights of one output are taken for those of the tap.
        output: Tap of the model's output. Defaults to "output".

    Returns:
        A batch whose `sample_weight` is one tensor, of shape `[batch]` or `[batch, positions...]`, or None.
    """
    weights = batch.sample_weight
    if weights is None:
        return batch
    own = entry_of_tap(weights, tap)
    if own is not None and (keras.tree.is_nested(weights) or _has_positions_of(tap, output, specs)):
        return batch._replace(sample_weight=own)
    leaves = [_weight_of_example(leaf) for leaf in keras.tree.flatten(weights) if leaf is not None]
    return batch._replace(sample_weight=sum(leaves) / len(leaves) if leaves else None)


class Weights(NamedTuple):
    """Weights of a term's values. The mean over positions with `positions`, times `examples`, is Keras' weighted loss.

    Attributes:
        positions: Weight of each position, float32 of shape `[batch, positions...]`, or None.
        examples: Weight of each example, float32 of shape `[batch]`, or None.
        outside: The part of `examples` that `positions` do not contain, or None.
    """

    positions: Tensor | None
    examples: Tensor | None
    outside: Tensor | None


def split_weights(weights: Tensor | None, mask: Tensor | None, activation: Tensor) -> Weights:
    """Split sample weights into weights of positions and of examples.

    Weights of another resolution are resized by area; weights of positions that the activation does not have are
    averaged for each example.

    Args:
        weights: Sample weights, shape `[batch]`, `[batch, 1]` or `[batch, positions...]`, or None.
        mask: Mask of the positions that count, shape `[batch, positions...]`, or None if all count.
        activation: The compared activation, shape `[batch, positions..., channels]`.
    """
    counted = None if mask is None else fit_positions(ops.cast(mask, "float32"), activation)
    if weights is None:
        return Weights(counted, None, None)
    weights = ops.cast(weights, "float32")
    if len(weights.shape) > 1 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    fitted = fit_positions(weights, activation) if len(weights.shape) > 1 else None
    if fitted is None:
        examples = mean_over_positions(weights)
        return Weights(counted, examples, examples)
    return Weights(fitted if counted is None else fitted * counted, mean_over_positions(fitted, counted), None)


def fit_positions(weights: Tensor, activation: Tensor) -> Tensor | None:
    """Return weights at the positions of an activation, resized by area; None if the axes do not correspond.

    Args:
        weights: float32, shape `[batch, positions...]`.
        activation: Shape `[batch, positions..., channels]`.
    """
    axes, size = len(weights.shape) - 1, position_size(activation)
    if axes == len(size):
        return resize_weights(weights, size)
    # Weights of the frames of a video, for example.
    leading = axes < len(size) and is_known(size[:axes]) and tuple(weights.shape[1:]) == tuple(size[:axes])
    return weights if leading else None


def match_resolution(student: Structure, teacher: Structure) -> Structure:
    """Return the student's feature maps at the teacher's resolution, where either is unknown before the first step.

    Args:
        student: Shape `[batch, positions..., channels]` with two or three axes of positions, or a tuple of such.
        teacher: The same number of axes.
    """
    if isinstance(student, tuple):
        return tuple(match_resolution(*pair) for pair in zip(student, teacher, strict=True))
    size, wanted = position_size(student), position_size(teacher.top if isinstance(teacher, TopKLogits) else teacher)
    # Sequences of unknown length, such as texts, have the same tokens in both models.
    if len(size) not in (2, 3) or len(size) != len(wanted) or is_known((*size, *wanted)) and size == wanted:
        return student
    return resize_maps(student, wanted)


def without_classes(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits in which masked classes have the probability 0.

    Args:
        logits: Shape `[batch, classes]`, where each class is a position.
        mask: The same shape, 0 at padding.
    """
    return ops.where(ops.cast(mask, "bool"), logits, ops.cast(-float("inf"), logits.dtype))


def position_weight_of(
    positions: str | Callable, batch: Batch, teacher: Mapping[str, Any], activation: Tensor
) -> Tensor:
    """Return the weights that a term's `positions` gives to the positions of an activation.

    Args:
        positions: Tap of the teacher, or a function of the batch and of `{tap: activation}` of the teacher.
        batch: The `Batch`.
        teacher: `{tap: activation}` of the teacher.
        activation: The compared activation, shape `[batch, positions..., channels]`.

    Returns:
        float32, shape `[batch, positions...]`, without gradient.

    Raises:
        ValueError: For weights that have other axes than the positions of the activation.
    """
    weights = teacher[positions] if isinstance(positions, str) else positions(batch, teacher)
    weights = ops.stop_gradient(ops.cast(weights, "float32"))
    if len(weights.shape) == len(activation.shape) and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    fitted = fit_positions(weights, activation) if len(weights.shape) > 1 else None
    if fitted is None:
        raise ValueError(
            f"`positions` must give weights of shape [batch, positions...] for an activation of shape "
            f"{tuple(activation.shape)}. Received: {tuple(weights.shape)}"
        )
    return fitted


def token_weights(weights: Weights, activation: Tensor) -> Tensor:
    """Return factors that turn a mean over examples into a mean over all counted positions of the step.

    Args:
        weights: `Weights` of the term.
        activation: The compared activation, shape `[batch, positions..., channels]`.

    Returns:
        float32, shape `[batch]`: the example's total weight divided by the mean total weight of an example.
    """
    shape = ops.shape(activation)[:-1]
    counts = ops.ones(shape, "float32")
    if weights.positions is not None:
        counts = counts * expand_to_rank(weights.positions, len(shape))
    counts = ops.sum(counts, axis=tuple(range(1, len(shape)))) if len(shape) > 1 else counts
    counts = counts if weights.outside is None else counts * weights.outside
    total, examples = replicas.all_reduce_sum([ops.sum(counts), ops.cast(shape[0], "float32")])
    return counts * ops.divide_no_nan(examples, total)


def _has_positions_of(tap, output, specs):
    """Return whether a tap depends on all inputs on which the output depends."""
    if specs is None or tap == output or tap.startswith(f"{output}["):
        return True
    own = specs[tap]
    return isinstance(own, Spec) and own.inputs >= _inputs_of(specs[output])


def _inputs_of(specs):
    """Return the inputs on which any output of a structure depends."""
    if isinstance(specs, Spec):
        return specs.inputs
    return frozenset().union(*(_inputs_of(spec) for spec in (specs.values() if isinstance(specs, dict) else specs)))


def _weight_of_example(weights):
    """Return the mean of an example's weights other than 0, shape `[batch]`."""
    weights = ops.cast(weights, "float32")
    return mean_over_positions(weights, ops.cast(weights != 0, "float32")) if len(weights.shape) > 1 else weights
