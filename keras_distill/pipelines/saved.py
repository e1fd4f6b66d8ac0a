"""SavedModels that are asked about examples."""

import tensorflow as tf


class Signature:
    """What a signature of a SavedModel says of serialized examples.

    Called with a batch of them, strings of shape `[batch]`, it returns `{name: tensor}`.

    Attributes:
        path: The SavedModel's folder.
        outputs: `{name: tf.TensorSpec}`.

    Args:
        path: The SavedModel's folder.
        name: The signature's name.

    Raises:
        ValueError: If there is no such signature, or it takes something else.
    """

    def __init__(self, path, name):
        self.path = path
        # Held, since signatures do not hold the model that they belong to.
        self._model = tf.saved_model.load(path)
        there = self._model.signatures
        if name not in there:
            raise ValueError(
                f"The SavedModel '{path}' has no signature '{name}'. There: {sorted(there)}. Export one that takes "
                "serialized examples, as keras_distill.pipelines.training.run_fn does, or name another."
            )
        self._signature = there[name]
        takes = self._signature.structured_input_signature[1]
        if len(takes) != 1 or next(iter(takes.values())).dtype != tf.string:
            raise ValueError(
                f"The signature '{name}' of the SavedModel '{path}' must take serialized examples. It takes: "
                f"{ {key: (tuple(spec.shape), spec.dtype.name) for key, spec in takes.items()} }."
            )
        (self._argument,) = takes
        self.outputs = self._signature.structured_outputs

    def __call__(self, serialized):
        return self._signature(**{self._argument: serialized})

    @property
    def parameters(self):
        """How many weights the model has."""
        return sum(int(tf.size(variable)) for variable in self._model.variables)
