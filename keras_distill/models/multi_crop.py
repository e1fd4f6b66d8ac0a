"""Model that applies another one to several crops of each example (multi-crop)."""

from typing import Any

import keras
from keras import ops

from keras_distill.types import Structure, Tensor


@keras.saving.register_keras_serializable("keras_distill")
class MultiCrop(keras.Model):
    """Model that applies another one to each crop of an image (multi-crop), for self-distillation as in DINO.

    Takes a tensor of crops, or a list of tensors where crops have different sizes, and returns the outputs for all
    crops in that order, `[batch, crops, ...]`. All layers are shared with `model`: after training, save `model`, which
    is also what `export` exports. As the student, it takes all crops; `inputs` of its teacher selects the first ones.

    Example:
    >>> network = keras.Sequential([keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D()])
    >>> large, small = np.zeros((8, 2, 6, 6, 1)), np.zeros((8, 4, 3, 3, 1))
    >>> MultiCrop(network)([large, small]).shape
    TensorShape([8, 6, 1])

    Args:
        model: `keras.Model` of one crop that is built. Its spatial size must be open, `keras.Input((None, None, 3))`,
            where crops have different sizes.
        name: Name of this model. Defaults to the name of the model with the suffix "_multi_crop".

    Raises:
        ValueError: If `model` is not a built `keras.Model`; when called, for a dictionary, which has no order, and for
            an unknown number of crops.

    Reference:
        Caron et al., NeurIPS 2020, https://arxiv.org/abs/2006.09882
    """

    def __init__(self, model: keras.Model, name: str | None = None):
        if not (isinstance(model, keras.Model) and model.built):
            raise ValueError(
                "MultiCrop takes a built keras.Model. Build it first, such as by `model.build(input_shape)`. "
                f"Received: {model!r}"
            )
        super().__init__(name=name or f"{model.name}_multi_crop", dtype=model.dtype_policy)
        self.model = model
        self.built = True

    def call(self, inputs: Structure, training: bool | None = None) -> Structure:
        crops = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)
        if any(not hasattr(x, "shape") or len(x.shape) < 3 or x.shape[1] is None for x in crops):
            raise ValueError(
                f"'{self.name}' takes a tensor of shape `[batch, crops, ...]` with a known number of crops, or a list "
                f"of these. Received: {shapes}"
            )
        outputs = [self._each(x, training) for x in crops]
        return keras.tree.map_structure(lambda *parts: ops.concatenate(parts, axis=1), *outputs)

    def _each(self, crops: Tensor, training: bool | None) -> Structure:
        rows = ops.reshape(crops, (-1, *ops.shape(crops)[2:]))
        return keras.tree.map_structure(
            lambda x: ops.reshape(x, (-1, crops.shape[1], *ops.shape(x)[1:])), self.model(rows, training=training)
        )

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export the model of one crop; the arguments are those of `keras.Model.export`."""
        return self.model.export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {"model": keras.saving.serialize_keras_object(self.model), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MultiCrop":
        return cls(keras.saving.deserialize_keras_object(config["model"]), name=config["name"])
