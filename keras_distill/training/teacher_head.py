"""Untrained transform of a teacher's activation, applied before a term compares it."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill.heads import Head
from keras_distill.models.masking import zero_padding
from keras_distill.models.specs import trace
from keras_distill.training.term_activations import (
    copy_unless_built,
    float32,
    map_activations,
    shape_of,
    symbolic_of,
)
from keras_distill.types import Structure, Tensor


def build_teacher_head(head: Callable | None, teacher_shape: tuple, student_shape: tuple) -> tuple[Any, tuple]:
    """Return a teacher's head that is ready to be called, and the shape of its output.

    Args:
        head: The `teacher_head` of a term: a Keras layer, another callable or None.
        teacher_shape: Shape of the teacher's activation, batch axis included, or a tuple of shapes.
        student_shape: Shape of the student's activation before its head, or a tuple of shapes, for a
            `keras_distill.heads.Head`, which maps to the shape of the other model.

    Raises:
        ValueError: If the head has weights to train or cannot take an activation of this shape.
    """
    if head is None:
        return None, teacher_shape
    if not isinstance(head, keras.layers.Layer):
        return head, _output_shape(head, teacher_shape)
    # A Lambda layer has no weights, and its function need not be registered.
    head = head if isinstance(head, keras.layers.Lambda) else copy_unless_built(head)
    if not head.built:
        head.build(*((teacher_shape, student_shape) if isinstance(head, Head) else (teacher_shape,)))
    if head.trainable_weights:
        names = [weight.path for weight in head.trainable_weights]
        raise ValueError(
            f"`teacher_head` is not trained, but '{head.name}' has the trainable weights {names}. Freeze it by "
            f"`{head.name}.trainable = False` once its weights are set, or pass it as `head`, on the student's side."
        )
    return head, _output_shape(head, teacher_shape)


def transform(head: Callable | None, teacher: Structure, mask: Tensor | None = None) -> Structure:
    """Return the teacher's activation after its head, float32 and without gradient.

    Args:
        head: Result of `build_teacher_head`, or None.
        teacher: Activation of the teacher, float32, or a tuple of several.
        mask: Mask of its positions, which is 0 at padding, or None. The head gets 0 there.
    """
    if head is not None:
        teacher = keras.tree.map_structure(lambda x: zero_padding(x, mask), teacher)
    if isinstance(head, keras.layers.Layer):
        teacher = float32(head(teacher, training=False))
    elif head is not None:
        teacher = float32(head(teacher))
    return map_activations(ops.stop_gradient, teacher)


def _output_shape(head, shape):
    try:
        if isinstance(head, keras.layers.Layer) and not isinstance(head, keras.layers.Lambda):
            output = shape_of(head.compute_output_spec(symbolic_of(shape)))
        else:
            # Traced, since Keras hides the errors of functions.
            several = isinstance(shape[0], tuple)
            specs = tuple(tf.TensorSpec(one) for one in shape) if several else tf.TensorSpec(shape)
            output = shape_of(trace(head, specs))
    except Exception as error:
        # Layers and functions of the user raise any exception for an activation that they do not accept.
        raise ValueError(
            f"`teacher_head` cannot take an activation of shape {shape}: {type(error).__name__}: {error}"
        ) from error
    if not output:
        raise ValueError("`teacher_head` must return a row for each example, shape [batch, ...]. It returns a scalar.")
    return output
