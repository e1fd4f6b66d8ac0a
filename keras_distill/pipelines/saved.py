"""Signatures of SavedModels that take serialized examples."""

import tensorflow as tf

from keras_distill.types import Tensor


class Signature:
    """Signature of a SavedModel, called with serialized examples.

    Call it with a batch of serialized examples, strings of shape `[batch]`; it returns `{name: tensor}`.

    Attributes:
        path: Directory of the SavedModel.
        outputs: `{name: tf.TensorSpec}`.

    Args:
        path: Directory of the SavedModel.
        name: Name of the signature, such as "serving_default".

    Raises:
        ValueError: If the SavedModel has no such signature, or the signature does not take serialized examples.
    """

    def __init__(self, path: str, name: str):
        self.path = path
        # Keep a reference: a signature does not keep its model, and with it the variables, alive.
        self._model = tf.saved_model.load(path)
        signatures = self._model.signatures
        if name not in signatures:
            raise ValueError(
                f"The SavedModel '{path}' has no signature '{name}'. Available: {sorted(signatures)}. Pass one of "
                "them, or export the model with keras_distill.pipelines.training.run_fn."
            )
        self._signature = signatures[name]
        arguments = self._signature.structured_input_signature[1]
        if len(arguments) != 1 or next(iter(arguments.values())).dtype != tf.string:
            raise ValueError(
                f"The signature '{name}' of the SavedModel '{path}' must take serialized examples, a single string "
                f"tensor. Received: { {key: (tuple(spec.shape), spec.dtype.name) for key, spec in arguments.items()} }"
            )
        (self._argument,) = arguments
        self.outputs = self._signature.structured_outputs

    def __call__(self, serialized: Tensor) -> dict[str, tf.Tensor]:
        return self._signature(**{self._argument: serialized})

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(int(tf.size(variable)) for variable in self._model.variables)
