"""The layer in which a language model ends: a logit for each word, of each token's hidden state."""

import functools
import inspect

import keras
import tensorflow as tf
from keras import ops

from keras_distill.models.specs import trace


@keras.saving.register_keras_serializable("keras_distill")
class HiddenStates(keras.Model):
    """A language model less its last layer: it returns what that would make logits of.

    ```python
    terms = [Term(Chunked(KLDivergence(2.0), "logits", "logits"))]
    distiller = Distiller(HiddenStates(student), HiddenStates(teacher), terms)
    distiller.compile("adam", ChunkedCrossentropy("logits"))
    distiller.fit(tokens, next_tokens)
    student.save("student.keras")
    ```

    It shares all layers with the model, the last one included, which is trained with the others: nothing has to be
    copied back. `predict` gives hidden states, and metrics see them too: take both of the model itself.

    A model whose last layer is its embedding again, or that is not functional, needs none of this: give the distiller
    the part that returns hidden states, `keras.Model(model.input, model.get_layer("final_norm").output)` or a
    backbone of KerasHub's, and name the embedding.

    Args:
        model: A functional or sequential `keras.Model` of one output, which its last layer makes.

    Raises:
        ValueError: For a model of another kind.
    """

    def __init__(self, model, name=None, **kwargs):
        super().__init__(name=name or f"{getattr(model, 'name', None)}_hidden_states", **kwargs)
        hidden = _input_of_the_last_layer(model)
        self.model = model
        # A function: Keras would count the layers of a model twice.
        self._run = functools.partial(keras.Model(_inputs(model), hidden, name=model.name))
        self.built = True

    @property
    def inputs(self):
        """As of the model."""
        return self.model.inputs

    @property
    def input(self):
        """As of the model."""
        return _inputs(self.model)

    def call(self, inputs, training=None):
        return self._run(inputs, training=training)

    def get_config(self):
        return {"model": keras.saving.serialize_keras_object(self.model), "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["model"]), name=config["name"])


class LMHead:
    """Logits of hidden states, as a function of a layer's weights.

    Not a layer, so that who holds one does not train or save the layer.

    Args:
        layer: A `Dense`, an `Embedding` to be read backwards, as models with tied weights do, or any other layer that
            makes logits of the last axis. None if the logits are there already.
    """

    def __init__(self, layer=None):
        self.layer = layer

    def weights(self):
        """The layer's weights as tensors, in two lists: those that are trained, and those that are not."""
        if self.layer is None:
            return [], []
        groups = self.layer.trainable_variables, self.layer.non_trainable_variables
        return tuple([tf.convert_to_tensor(variable.value) for variable in group] for group in groups)

    def logits(self, hidden, trained, others):
        """float32 logits.

        Args:
            hidden: Shape `[rows, dim]`.
            trained: What stands for the layer's trained weights.
            others: What stands for its other weights.

        Returns:
            Shape `[rows, words]`.
        """
        if self.layer is None:
            return hidden
        variables = [*self.layer.trainable_variables, *self.layer.non_trainable_variables]
        with keras.StatelessScope(state_mapping=list(zip(variables, [*trained, *others]))):
            return ops.cast(self._run(hidden), "float32")

    def shape(self, hidden_shape):
        """The shape of the logits for hidden states of some shape.

        Raises:
            ValueError: If the layer does not take them, or gives no logits.
        """
        if self.layer is None:
            return tuple(hidden_shape)
        name, shapes = self.layer.name, [tuple(weight.shape) for weight in self.layer.weights]
        try:
            spec = trace(self._run, tf.TensorSpec((None, hidden_shape[-1])))
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"Layer '{name}', with weights of the shapes {shapes}, takes no hidden states of size "
                f"{hidden_shape[-1]}. Tap what the model itself gives that layer."
            ) from error
        if spec.probabilities:
            raise ValueError(f"Layer '{name}' ends in a {spec.source.lower()}. Give it no activation.")
        if len(spec.shape) != 2 or spec.shape[-1] is None:
            raise ValueError(
                f"Layer '{name}' makes {spec.shape} of hidden states {(None, hidden_shape[-1])}, not a row of logits "
                "for each token. Name the layer whose outputs are the model's logits."
            )
        return (*hidden_shape[:-1], spec.shape[-1])

    def _run(self, hidden):
        if not isinstance(self.layer, keras.layers.Embedding):
            return self.layer(hidden)
        if "reverse" in inspect.signature(self.layer.call).parameters:
            return self.layer(hidden, reverse=True)
        hidden = ops.cast(hidden, self.layer.compute_dtype)
        return ops.matmul(hidden, ops.transpose(ops.cast(self.layer.embeddings, self.layer.compute_dtype)))


def _input_of_the_last_layer(model):
    functional = isinstance(model, keras.Model) and getattr(model, "inputs", None) and getattr(model, "layers", None)
    if not functional:
        raise ValueError(
            f"HiddenStates takes a functional or sequential keras.Model that is built. Received: {model!r}"
        )
    layer = model.layers[-1]
    try:
        hidden, made = layer.input, layer.output
    except (AttributeError, ValueError):
        # It runs more than once.
        hidden = made = None
    if len(model.outputs) != 1 or model.outputs[0] is not made or not isinstance(hidden, keras.KerasTensor):
        raise ValueError(
            f"'{model.name}' does not end in a layer '{layer.name}' that it runs once, on one tensor. Give the "
            "distiller the part of it that returns hidden states: keras.Model(model.input, hidden)."
        )
    return hidden


def _inputs(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
