"""What is known of tensors before training: the models' inputs, and the activations that a pass will give."""

import dataclasses
from typing import NamedTuple

import keras
import tensorflow as tf

# Operations that change neither the order nor the meaning of the numbers.
_TRANSPARENT = ("Identity", "Cast", "StopGradient", "PreventGradient", "Reshape", "Squeeze", "ExpandDims")
_PROBABILITIES = ("Softmax", "Sigmoid")


class Spec(NamedTuple):
    """An activation before it exists.

    Attributes:
        shape: Its shape, the batch axis included; None where unknown.
        dtype: Its dtype's name.
        source: The TensorFlow operation that computes it, such as "Softmax".
    """

    shape: tuple
    dtype: str
    source: str

    @property
    def probabilities(self):
        """Whether it holds probabilities rather than logits."""
        return self.source in _PROBABILITIES


@dataclasses.dataclass(frozen=True)
class Traced:
    """What a distiller knows of its models; not a tuple or dictionary, since Keras would wrap these.

    Attributes:
        inputs: Structure of `tf.TensorSpec`.
        student: `{tap: Spec}`, or a structure of `Spec` for a model of several outputs.
        teacher: Likewise.
    """

    inputs: object
    student: dict
    teacher: dict


def input_specs(inputs, *models):
    """The inputs as `tf.TensorSpec`s whose batch axis is open.

    Args:
        inputs: An example batch, `keras.Input` or `tf.TensorSpec`, in the structure that the models are called with;
            None to ask the models, in turn.
        *models: Keras models, or anything else that is called with the inputs.

    Raises:
        ValueError: If nothing tells the shapes.
    """
    if inputs is not None:
        return keras.tree.map_structure(_open_batch, inputs)
    for model in models:
        if isinstance(model, keras.Model) and getattr(model, "inputs", None):
            called_with = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
            return keras.tree.map_structure(_open_batch, called_with)
    for model in models:
        shapes = model.get_build_config() if isinstance(model, keras.Model) and model.built else None
        if shapes and "input_shape" in shapes:
            return keras.tree.map_shape_structure(
                lambda shape: tf.TensorSpec((None, *shape[1:]), keras.config.floatx()), shapes["input_shape"]
            )
    names = " and ".join(f"'{model.name}'" for model in models if isinstance(model, keras.layers.Layer))
    raise ValueError(
        f"The shapes of the inputs of {names} are not known. Pass `inputs=`: an example batch, or keras.Input(shape)."
    )


def trace(function, inputs):
    """The `Spec` of every tensor that `function` returns, found without computing anything.

    Args:
        function: Takes `inputs`, returns a structure of tensors.
        inputs: A structure of `tf.TensorSpec`.

    Returns:
        The structure, of `Spec`s.
    """
    found = []

    def traced(x):
        found.append(keras.tree.map_structure(spec_of, function(x)))
        return tf.zeros(())

    tf.function(traced, autograph=False).get_concrete_function(inputs)
    return found[0]


def check_activation(spec, who, what, tap, logits):
    """Refuses what cannot be compared: several tensors at once, and probabilities in the place of logits.

    Args:
        spec: `Spec` of an activation, or a structure of several.
        who: Who compares it, such as "Term 'hint'".
        what: What it is called, such as "student 'output'".
        tap: Where it is.
        logits: Whether it must hold logits.

    Raises:
        ValueError: Naming all of these.
    """
    if not isinstance(spec, Spec):
        keys = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
        raise ValueError(
            f"{who} taps {what}, which is a structure with the entries {keys}. Choose one: '{tap}[{keys[0]}]'."
        )
    if logits and spec.probabilities:
        raise ValueError(
            f"{who} compares logits, but {what} ends in a {spec.source.lower()}. "
            "Tap the layer before it, or give that layer no activation."
        )


def symbolic(spec):
    """A `tf.TensorSpec` as Keras writes it into a file."""
    return keras.KerasTensor(spec.shape, spec.dtype.name)


def spec_of(tensor):
    """The `Spec` of a tensor of a graph that is being traced."""
    tensor = tf.convert_to_tensor(tensor)
    operation = tensor.op
    while operation.type in _TRANSPARENT:
        operation = operation.inputs[0].op
    return Spec(tuple(tensor.shape), tensor.dtype.name, operation.type)


def _open_batch(leaf):
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise ValueError(
            "`inputs` must be an example batch, keras.Input or tf.TensorSpec, in the structure that the models are "
            f"called with. Received: {leaf!r}"
        )
    return tf.TensorSpec((None, *leaf.shape[1:]), keras.backend.standardize_dtype(leaf.dtype))
