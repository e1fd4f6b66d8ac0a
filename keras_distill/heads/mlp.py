"""Several layers from one width to another."""

import keras

from keras_distill.heads.base import Head
from keras_distill.heads.checks import needs_resize, resize


@keras.saving.register_keras_serializable("keras_distill")
class MLP(Head):
    """Multi-layer perceptron on the last axis, to the teacher's width; no activation behind its last layer.

    Takes vectors `[batch, width]`, tokens `[batch, length, width]` and maps `[batch, height, width, channels]`; every
    token and every pixel is mapped by the same weights, those of 1x1 convolutions. Maps are then interpolated to the
    teacher's height and width, bilinearly; a size that is unknown when the head is built is taken to be the teacher's.

    Args:
        hidden: Width of the layers before the last, default the teacher's.
        depth: The number of layers, default 2.
        activation: Between the layers, as for `keras.layers.Dense`, default `"relu"`.
        use_bias: Whether each layer adds a trained bias, default True.

    Raises:
        ValueError: If `hidden` or `depth` is no whole number, 1 or more.
    """

    def __init__(self, hidden=None, depth=2, activation="relu", use_bias=True, **kwargs):
        super().__init__(**kwargs)
        for name, number in (("hidden", 1 if hidden is None else hidden), ("depth", depth)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"`{name}` must be an integer, 1 or more. Received: {number!r}")
        self.hidden = hidden
        self.depth = depth
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    def build(self, student_shape, teacher_shape):
        rank, width = len(student_shape), teacher_shape[-1]
        if rank not in (2, 3, 4) or rank != len(teacher_shape) or None in (student_shape[-1], width):
            raise ValueError(
                "MLP takes two vectors, two sequences of tokens or two maps, of known width. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
            )
        self.size = teacher_shape[1:3] if rank == 4 and needs_resize(student_shape, teacher_shape) else None
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

    def call(self, student):
        for layer in self.dense:
            student = layer(student)
        return student if self.size is None else resize(student, self.size)

    def get_config(self):
        config = {
            "hidden": self.hidden,
            "depth": self.depth,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
        return {**super().get_config(), **config}
