"""Multi-layer perceptron head for vectors, tokens and feature maps."""

from typing import Any

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import needs_resize
from keras_distill.models.resampling import resize_maps
from keras_distill.types import Tensor
from keras_distill.utils.arguments import check_integer


@keras.saving.register_keras_serializable("keras_distill")
class MLP(Head):
    """Multi-layer perceptron on the last axis, to the teacher's width.

    Takes vectors `[batch, width]`, tokens `[batch, length, width]`, feature maps `[batch, height, width, channels]` and
    volumes, such as videos `[batch, frames, height, width, channels]`. All tokens and all pixels share the weights, as
    in 1x1 convolutions. Feature maps and volumes are then resized to the teacher's resolution by linear interpolation;
    a size that is unknown when the head is built is assumed to equal the teacher's. The last layer has no activation.

    Args:
        hidden: Width of the hidden layers, an integer >= 1. Defaults to None, the teacher's width.
        depth: Number of layers, an integer >= 1. 2 or 3 is typical. Defaults to 2.
        activation: Activation between the layers, as for `keras.layers.Dense`. Defaults to "relu".
        use_bias: True to add a trained bias in each layer. Defaults to True.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If `hidden` is not an integer >= 1 or None, or `depth` is not an integer >= 1, or when the distiller
            is made, if the activations have different ranks, a rank other than 2 to 5, or an unknown width.

    Example:
    >>> term = Term(Hint(), student="features", teacher="features", head=MLP(depth=3))
    """

    def __init__(
        self,
        hidden: int | None = None,
        depth: int = 2,
        activation: Any = "relu",
        use_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.hidden = check_integer(hidden, "hidden", optional=True)
        self.depth = check_integer(depth, "depth")
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        rank, width = len(student_shape), teacher_shape[-1]
        if rank not in (2, 3, 4, 5) or rank != len(teacher_shape) or None in (student_shape[-1], width):
            raise ValueError(
                "MLP takes vectors, tokens, feature maps or volumes of known width, with the same rank in student and "
                f"teacher. Received: student shape {student_shape}, teacher shape {teacher_shape}"
            )
        self.size = teacher_shape[1:-1] if rank >= 4 and needs_resize(student_shape, teacher_shape) else None
        hidden = width if self.hidden is None else self.hidden
        shape, self.dense = student_shape, []
        for index in range(self.depth):
            last = index == self.depth - 1
            layer = keras.layers.Dense(
                width if last else hidden,
                activation=None if last else self.activation,
                use_bias=self.use_bias,
                dtype=self.dtype_policy,
                name=f"dense_{index}",
            )
            layer.build(shape)
            self.dense.append(layer)
            shape = (*shape[:-1], hidden)

    def call(self, student: Tensor) -> Tensor:
        for layer in self.dense:
            student = layer(student)
        return student if self.size is None else resize_maps(student, self.size)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "depth": self.depth,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
