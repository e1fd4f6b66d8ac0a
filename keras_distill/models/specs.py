"""Shapes, dtypes and operations of tensors, known before training."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_distill.types import Structure

# Operations that change neither the order nor the meaning of the numbers.
_TRANSPARENT = ("Identity", "Cast", "StopGradient", "PreventGradient", "Reshape", "Squeeze", "ExpandDims")
PROBABILITIES = ("Softmax", "Sigmoid")


class Spec(NamedTuple):
    """Description of an activation before it is computed.

    Attributes:
        shape: Shape with the batch axis; None where a length is unknown.
        dtype: Name of the dtype.
        source: TensorFlow operation that computes it, such as "Softmax".
        inputs: Indices of the model inputs, flattened, that its values depend on.
    """

    shape: tuple
    dtype: str
    source: str
    inputs: frozenset = frozenset()

    @property
    def probabilities(self) -> bool:
        """True if the activation holds probabilities rather than logits."""
        return self.source in PROBABILITIES


@dataclasses.dataclass(frozen=True)
class Traced:
    """Inputs and activations of a distiller's models. Not a tuple or a dictionary, since Keras would wrap these.

    Attributes:
        inputs: Structure of `tf.TensorSpec`.
        student: `{tap: Spec}`, or a structure of `Spec` for a model of several outputs.
        teacher: The same for the teacher.
    """

    inputs: object
    student: dict
    teacher: dict


def symbolic_inputs(model: keras.Model) -> Structure:
    """Return the symbolic inputs of a model, in the structure that it is called with.

    Args:
        model: A functional or sequential `keras.Model` that is built.
    """
    # `Sequential` has no `input` before it is called symbolically.
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def own_inputs(model: Any, inputs: Structure) -> Structure:
    """Return the inputs that a model takes from a batch, in which another model may have more.

    A functional model that got a dictionary with more entries than its inputs would take them in alphabetical order.

    Args:
        model: The model. Only functional ones have a list of inputs by name; others take the inputs as they are.
        inputs: Inputs of the batch.

    Raises:
        ValueError: For a dictionary without an input of the model.
    """
    if not isinstance(inputs, dict) or not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return inputs
    taken = symbolic_inputs(model)
    if not isinstance(taken, dict) and len(model.inputs) > 1 and len(model.inputs) == len(inputs):
        return inputs
    names = list(taken) if isinstance(taken, dict) else [tensor.name for tensor in model.inputs]
    if set(names) == set(inputs) or not isinstance(taken, dict) and len(inputs) == 1:
        return inputs
    missing = [name for name in names if name not in inputs]
    if missing:
        raise ValueError(
            f"'{model.name}' takes the inputs {names}, but the batch has {list(inputs)}. Name the inputs of the model "
            "as those of the batch, or add the missing ones."
        )
    if isinstance(taken, dict):
        return {name: inputs[name] for name in names}
    # In the model's own order, which need not be that of the names.
    return [inputs[name] for name in names] if len(names) > 1 else inputs[names[0]]


def input_specs(inputs: Structure, *models: Any) -> Structure:
    """Return the inputs as `tf.TensorSpec`s with an open batch axis.

    Args:
        inputs: An example batch, `keras.Input` or `tf.TensorSpec`, in the structure that the models are called with.
            None to read the inputs of the first model that has them.
        *models: Keras models, or other callables.

    Raises:
        ValueError: If no model is built and no inputs were given.
    """
    if inputs is not None:
        return keras.tree.map_structure(_open_batch, inputs)
    for model in models:
        if isinstance(model, keras.Model) and getattr(model, "inputs", None):
            return keras.tree.map_structure(_open_batch, symbolic_inputs(model))
    for model in models:
        shapes = model.get_build_config() if isinstance(model, keras.Model) and model.built else None
        if shapes and "input_shape" in shapes:
            return keras.tree.map_shape_structure(
                lambda shape: tf.TensorSpec((None, *shape[1:]), keras.config.floatx()), shapes["input_shape"]
            )
    names = " and ".join(f"'{model.name}'" for model in models if isinstance(model, keras.layers.Layer))
    raise ValueError(
        f"The input shapes of {names} are unknown. Pass `inputs=`: an example batch, or keras.Input(shape)."
    )


def trace(function: Callable, inputs: Structure) -> Structure:
    """Return the `Spec` of every tensor that a function returns, without computing it.

    Args:
        function: Takes `inputs` and returns a structure of tensors.
        inputs: Structure of `tf.TensorSpec`.

    Returns:
        The same structure, of `Spec`.
    """
    specs = []

    def traced(x):
        outputs = function(x)
        used = _inputs_of_operations(keras.tree.flatten(x))
        specs.append(keras.tree.map_structure(lambda tensor: spec_of(tensor, used), outputs))
        return tf.zeros(())

    tf.function(traced, autograph=False).get_concrete_function(inputs)
    return specs[0]


def check_activation(
    spec: Structure, user: str, what: str, tap: str, logits: str | None, advice: str = "Tap another layer."
) -> None:
    """Check that an activation is one tensor, and that a loss of logits can read logits from it.

    Args:
        spec: `Spec` of an activation, or a structure of several.
        user: Name of the term or metric that compares it, such as "Term 'hint'".
        what: Name of the activation, such as "student 'output'".
        tap: Path of the activation.
        logits: Activation function that the logits belong to, "Softmax" or "Sigmoid"; None if no logits are needed.
        advice: What to do about the probabilities of another activation function, the end of the error.

    Raises:
        ValueError: For a structure of several tensors, and for the probabilities of another activation function.
    """
    if not isinstance(spec, Spec):
        keys = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
        raise ValueError(
            f"{user} taps {what}, which is a structure with the entries {keys}. Choose one: '{tap}[{keys[0]}]'."
        )
    if logits and spec.probabilities and spec.source != logits:
        raise ValueError(
            f"{user} compares the logits of a {logits.lower()}, but {what} ends in a {spec.source.lower()}. {advice}"
        )


def symbolic(spec: tf.TensorSpec) -> keras.KerasTensor:
    """Return a `tf.TensorSpec` in the form that Keras serializes."""
    return keras.KerasTensor(spec.shape, spec.dtype.name)


def spec_of(tensor: tf.Tensor, used: dict[str, frozenset] | None = None) -> Spec:
    """Return the `Spec` of a symbolic tensor of the graph that is being traced.

    Args:
        tensor: The tensor.
        used: `{name of an operation: indices of the inputs that it depends on}`, or None.
    """
    tensor = tf.convert_to_tensor(tensor)
    used = (used or {}).get(tensor.op.name, frozenset())
    return Spec(tuple(tensor.shape), tensor.dtype.name, producer(tensor).type, used)


def _inputs_of_operations(inputs):
    """Return `{name of an operation: indices of the inputs on whose values it depends}` for the current graph."""
    used = {tensor.op.name: frozenset([index]) for index, tensor in enumerate(inputs)}
    # Operations are listed in the order of their creation, so that those before are known.
    for operation in tf.compat.v1.get_default_graph().get_operations():
        if operation.type != "Shape" and operation.name not in used:
            used[operation.name] = frozenset().union(*(used.get(x.op.name, frozenset()) for x in operation.inputs))
    return used


def producer(tensor: tf.Tensor) -> tf.Operation:
    """Return the operation that computes the numbers of a symbolic tensor, casts and reshapes left out."""
    operation = tensor.op
    while operation.type in _TRANSPARENT:
        operation = operation.inputs[0].op
    return operation


def _open_batch(leaf):
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise ValueError(
            "`inputs` must be an example batch, keras.Input or tf.TensorSpec, in the structure that the models are "
            f"called with. Received: {leaf!r}"
        )
    return tf.TensorSpec((None, *leaf.shape[1:]), keras.backend.standardize_dtype(leaf.dtype))
