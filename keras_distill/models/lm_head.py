"""Language-model heads: the last layer, which maps hidden states to one logit per vocabulary entry."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.models.specs import symbolic_inputs, trace
from keras_distill.types import Structure, Tensor


@keras.saving.register_keras_serializable("keras_distill")
class HiddenStates(keras.Model):
    """Model without its last layer: it returns the hidden states that the last layer maps to logits.

    For losses that compute the logits of a few tokens at a time, since logits of large vocabularies fill the memory.
    All layers are shared with the model, including the last one, which is trained with the others: after training, save
    `model`, whose weights are the trained ones.

    `predict` returns hidden states, and metrics receive them, too. Call both on the model itself.

    The last layer may be a tied embedding, as in the causal language models of KerasHub. A model that is not functional
    does not need this class: pass the part that returns hidden states as the student, and name the layer in the losses.

    Example:
    >>> student_body, teacher_body = HiddenStates(student), HiddenStates(teacher)
    >>> terms = [Term(Chunked(KLDivergence(2.0)))]
    >>> distiller = Distiller(student=student_body, teacher=teacher_body, terms=terms)
    >>> distiller.compile("adam", ChunkedCrossentropy())

    Args:
        model: Functional or sequential `keras.Model` with one output, which its last layer returns.
        name: Name of this model. Defaults to the name of the model with the suffix "_hidden_states".
        **kwargs: Further arguments of `keras.Model`.

    Raises:
        ValueError: If `model` is not functional, not built, or does not end in a layer that maps one tensor to the
            output.
    """

    def __init__(self, model: keras.Model, name: str | None = None, **kwargs: Any):
        super().__init__(name=name or f"{getattr(model, 'name', None)}_hidden_states", **kwargs)
        _, hidden = _last_call(model)
        self.model = model
        # A partial, not a model: Keras would track the layers of `model` twice.
        self._run = functools.partial(keras.Model(symbolic_inputs(model), hidden, name=model.name))
        self.built = True

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """Input tensors of the model."""
        return self.model.inputs

    @property
    def input(self) -> Structure:
        """Input tensors of the model, in the structure that it is called with."""
        return symbolic_inputs(self.model)

    @property
    def output_layer(self) -> keras.layers.Layer:
        """Last layer of the model, which maps the hidden states to logits."""
        return _last_call(self.model)[0]

    def call(self, inputs: Structure, training: bool | None = None) -> Tensor:
        return self._run(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        return {"model": keras.saving.serialize_keras_object(self.model), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HiddenStates":
        return cls(keras.saving.deserialize_keras_object(config["model"]), name=config["name"])


def logits_layer(model: Any) -> keras.layers.Layer | None:
    """Return the layer that maps the output of a model to logits; None unless it is a model of hidden states.

    Args:
        model: `HiddenStates`, or anything else. The input of a final softmax is logits already.
    """
    layer = model.output_layer if isinstance(model, HiddenStates) else None
    is_softmax = isinstance(layer, keras.layers.Softmax) or (
        isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.softmax
    )
    return None if is_softmax else layer


class LMHead:
    """Logits of hidden states as a function of a layer's weights.

    An `LMHead` is not a layer, so that Keras neither trains nor saves the layer as a part of its owner.

    Args:
        layer: `Dense`, `Embedding` with tied weights, which is multiplied in reverse, or any other layer that maps the
            last axis to logits. None if the activations are logits already. Defaults to None.
        words: Number of the first words whose logits are computed. None computes all. Defaults to None.
    """

    def __init__(self, layer: keras.layers.Layer | None = None, words: int | None = None):
        self.layer = layer
        self.words = words

    def weights(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return the weights of the layer as tensors, `(trainable, non-trainable)`."""
        if self.layer is None:
            return [], []
        return _values(self.layer.trainable_variables), _values(self.layer.non_trainable_variables)

    def logits(self, hidden: Tensor, trainable: Sequence[Tensor], non_trainable: Sequence[Tensor]) -> Tensor:
        """Return the logits of hidden states.

        Args:
            hidden: Hidden states, shape `[rows, dim]`.
            trainable: Values of the layer's trainable weights, in the order of `weights`.
            non_trainable: Values of the layer's other weights, in the order of `weights`.

        Returns:
            float32, shape `[rows, vocabulary]`, or `[rows, words]`.
        """
        if self.layer is None:
            return ops.cast(hidden[..., : self.words], "float32")
        variables = [*self.layer.trainable_variables, *self.layer.non_trainable_variables]
        # The caller differentiates with respect to these tensors, which replace the variables.
        with keras.StatelessScope(state_mapping=list(zip(variables, [*trainable, *non_trainable]))):
            return ops.cast(self._run(hidden) if self.words is None else self._first_words(hidden), "float32")

    def shape(self, hidden_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the shape of the logits for hidden states of the given shape.

        Raises:
            ValueError: If the layer does not accept the hidden states, does not return logits, or has fewer words than
                are computed.
        """
        shape = self._full_shape(hidden_shape)
        if self.words is None:
            return shape
        if shape[-1] is not None and shape[-1] < self.words:
            layer = "" if self.layer is None else f" of layer '{self.layer.name}'"
            raise ValueError(f"The vocabulary{layer} has {shape[-1]} words. Received: words={self.words}")
        return (*shape[:-1], self.words)

    def _full_shape(self, hidden_shape):
        if self.layer is None:
            return tuple(hidden_shape)
        name, shapes = self.layer.name, [tuple(weight.shape) for weight in self.layer.weights]
        try:
            spec = trace(self._run, tf.TensorSpec((None, hidden_shape[-1])))
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"Layer '{name}', with weights of the shapes {shapes}, does not accept hidden states of size "
                f"{hidden_shape[-1]}. Tap the activation that the model passes to this layer."
            ) from error
        if spec.probabilities:
            raise ValueError(
                f"Layer '{name}' ends in a {spec.source.lower()}, but its outputs must be logits. Create it with "
                "`activation=None`."
            )
        if len(spec.shape) != 2 or spec.shape[-1] is None:
            raise ValueError(
                f"Layer '{name}' returns {spec.shape} for hidden states {(None, hidden_shape[-1])}, not one row of "
                "logits per token. Name the layer whose outputs are the model's logits."
            )
        return (*hidden_shape[:-1], spec.shape[-1])

    def _run(self, hidden):
        if not isinstance(self.layer, keras.layers.Embedding):
            return self.layer(hidden)
        # KerasHub's ReversibleEmbedding computes the logits itself.
        if "reverse" in inspect.signature(self.layer.call).parameters:
            return self.layer(hidden, reverse=True)
        hidden = ops.cast(hidden, self.layer.compute_dtype)
        return ops.matmul(hidden, ops.transpose(ops.cast(self.layer.embeddings, self.layer.compute_dtype)))

    def _first_words(self, hidden):
        """Return the logits of the first words; layers that compute more than a product compute all words."""
        layer, call = self.layer, type(self.layer).call
        if layer.quantization_mode is not None or call not in _PRODUCTS:
            return self._run(hidden)[..., : self.words]
        if isinstance(layer, keras.layers.Dense):
            kernel = layer.kernel[:, : self.words]
        elif getattr(layer, "tie_weights", True):
            kernel = ops.transpose(layer.embeddings[: self.words])
        else:
            kernel = layer.reverse_embeddings[:, : self.words]
        kernel = ops.cast(kernel, layer.compute_dtype)
        # Keras does not cast the inputs of a reversible embedding, unless to its `reverse_dtype`.
        reversible = isinstance(layer, keras.layers.ReversibleEmbedding)
        dtype = layer.reverse_dtype if reversible else layer.compute_dtype
        if dtype is not None:
            hidden, kernel = ops.cast(hidden, dtype), ops.cast(kernel, dtype)
        logits = ops.matmul(hidden, kernel)
        if getattr(layer, "bias", None) is not None:
            logits = logits + ops.cast(layer.bias[: self.words], logits.dtype)
        soft_cap = getattr(layer, "logit_soft_cap", None)
        logits = logits if soft_cap is None else soft_cap * ops.tanh(logits / soft_cap)
        return layer.activation(logits) if isinstance(layer, keras.layers.Dense) else logits


# Methods of the layers whose logits are a product with a matrix of a column, or row, for each word.
_PRODUCTS = (keras.layers.Dense.call, keras.layers.Embedding.call, keras.layers.ReversibleEmbedding.call)


def _values(variables: Sequence[keras.Variable]) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _last_call(model: keras.Model) -> tuple[keras.layers.Layer, keras.KerasTensor]:
    """Return the last layer and its input."""
    functional = isinstance(model, keras.Model) and getattr(model, "inputs", None) and getattr(model, "layers", None)
    if not functional:
        raise ValueError(f"`model` must be a functional or sequential keras.Model that is built. Received: {model!r}")
    # The call, not the layer: a tied embedding is called twice.
    layer, tensors = _compat.producing_call(model.outputs[0])
    if len(model.outputs) != 1 or len(tensors) != 1 or not isinstance(layer, keras.layers.Layer):
        backbone = ", such as `model.backbone`" if hasattr(model, "backbone") else ""
        raise ValueError(
            f"'{model.name}' does not end in a layer that maps one tensor to one output. Pass the part of the model "
            f"that returns hidden states to the distiller{backbone or ': `keras.Model(model.input, hidden)`'}."
        )
    return layer, tensors[0]
