"""Logits of models that end in a softmax or a sigmoid."""

import keras
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.models.specs import PROBABILITIES, Spec, input_specs, producer, symbolic_inputs, trace
from keras_distill.types import Structure, Tensor

# Smallest probability whose logarithm is taken where the logits themselves cannot be read.
_SMALLEST = 1e-30


def as_logits(tensor: Tensor, source: str | None = None) -> Tensor:
    """Return the input of the softmax or sigmoid that made a tensor; any other tensor is returned as it is.

    In a graph the input is read from the operation. In eager execution it is read from the attribute that
    `keras.activations` sets; where that was lost, the logarithm of the probabilities is used (of the odds, for a
    sigmoid), which has the same softmax or sigmoid.

    Args:
        tensor: Activation of a forward pass, shape `[batch, ...]`.
        source: Operation that computes the tensor, as `Spec.source` has it. None to look only at the tensor itself.

    Returns:
        The same shape. A Keras mask stays attached.
    """
    logits = _input_of_operation(tensor) if tf.is_symbolic_tensor(tensor) else _compat.keras_logits(tensor)
    # In half precision `_SMALLEST` would be 0.
    probabilities = ops.cast(tensor, "float32")
    if logits is None and source == "Softmax":
        logits = _log(probabilities)
    elif logits is None and source == "Sigmoid":
        logits = _log(probabilities) - _log(1.0 - probabilities)
    if logits is None:
        return tensor
    logits = tf.identity(ops.reshape(logits, ops.shape(tensor)))
    logits.set_shape(tensor.shape)
    mask = _compat.keras_mask(tensor)
    if mask is not None:
        _compat.set_keras_mask(logits, mask)
    return logits


def logits_of(activations: Structure, specs: Structure) -> Structure:
    """Return a structure of activations with `as_logits` applied to each.

    Args:
        activations: A tensor, or a structure of several.
        specs: The `Spec` of each, in the same structure.
    """
    if isinstance(specs, Spec):
        return as_logits(activations, specs.source)
    if isinstance(specs, dict):
        return {key: logits_of(activations[key], spec) for key, spec in specs.items()}
    return type(activations)(logits_of(*pair) for pair in zip(activations, specs))


def ends_in_softmax(model: keras.Model) -> bool:
    """Return whether the output of a model, or one of several, ends in a softmax or a sigmoid.

    Args:
        model: A `keras.Model`. False if its input shapes are unknown.
    """
    try:
        specs = trace(lambda x: model(x, training=False), input_specs(None, model))
    except ValueError:
        return False
    return any(spec.probabilities for spec in _leaves(specs))


def logits_model(model: keras.Model) -> keras.Model:
    """Return a model that predicts logits: `without_softmax(model)`, or the model itself if it has no softmax."""
    return without_softmax(model) if ends_in_softmax(model) else model


def without_softmax(model: keras.Model) -> keras.Model:
    """Return a model that shares the weights of a classifier and ends in its logits.

    The given model stays as it is. Both compute with the same variables, so that training one trains the other.

    Args:
        model: A built `keras.Model` with an output that ends in a softmax or a sigmoid.

    Returns:
        A `keras.Model` with the same inputs, outputs and weights, without the softmax.

    Raises:
        ValueError: If no output ends in a softmax or a sigmoid.

    Example:
    >>> classifier = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    >>> logits = without_softmax(classifier)
    >>> logits.predict(np.ones((2, 8)), verbose=0).shape
    (2, 3)
    """
    found = WithoutSoftmax(model)
    if not any(spec.probabilities for spec in _leaves(found.specs)):
        raise ValueError(f"'{model.name}' does not end in a softmax or a sigmoid. Use it as it is.")
    return found


@keras.saving.register_keras_serializable("keras_distill")
class WithoutSoftmax(keras.Model):
    """A model whose outputs are the logits of another one. Made by `without_softmax`.

    Args:
        model: The `keras.Model`; its layers and weights are shared.
        name: Defaults to the model's name with `_logits` appended.
    """

    def __init__(self, model: keras.Model, name: str | None = None):
        super().__init__(name=name or f"{model.name}_logits", dtype=model.dtype_policy)
        self.model = model
        # A function, since Keras would wrap a list or a dictionary.
        specs = trace(lambda x: model(x, training=False), input_specs(None, model))
        self._specs = lambda: specs
        self.built = True

    @property
    def specs(self) -> Structure:
        """`Spec` of the model's output, or a structure of several."""
        return self._specs()

    @property
    def inputs(self) -> list:
        """Symbolic inputs of the model."""
        return self.model.inputs

    @property
    def input(self) -> Structure:
        """Symbolic inputs, in the structure that the model is called with."""
        return symbolic_inputs(self.model)

    def call(self, inputs, training=None):
        return logits_of(self.model(inputs, training=training), self.specs)

    def get_config(self):
        return {"model": keras.saving.serialize_keras_object(self.model), "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["model"]), name=config["name"])


def _leaves(specs):
    if isinstance(specs, Spec):
        return [specs]
    return [leaf for part in (specs.values() if isinstance(specs, dict) else specs) for leaf in _leaves(part)]


def _log(probabilities):
    return ops.log(ops.maximum(probabilities, _SMALLEST))


def _input_of_operation(tensor):
    operation = producer(tensor)
    return operation.inputs[0] if operation.type in PROBABILITIES else None
