"""Projection of vectors and tokens to another width."""

import keras

from keras_distill.heads.base import Head


@keras.saving.register_keras_serializable("keras_distill")
class Projection(Head):
    """Linear map of the last axis to the teacher's width.

    Takes vectors `[batch, width]` and tokens `[batch, length, width]`; every token is mapped by the same weights.

    Args:
        use_bias: Whether to add a trained bias, default True.
        kernel_initializer: As for `keras.layers.Dense`, default `"glorot_uniform"`.
    """

    def __init__(self, use_bias=True, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, student_shape, teacher_shape):
        ranks = len(student_shape), len(teacher_shape)
        if ranks not in ((2, 2), (3, 3)) or None in (student_shape[-1], teacher_shape[-1]):
            raise ValueError(
                "Projection takes two vectors or two sequences of tokens, of known width; for maps use Convolution. "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}."
            )
        self.dense = keras.layers.Dense(
            teacher_shape[-1],
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(student_shape)

    def call(self, student):
        return self.dense(student)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "use_bias": self.use_bias, "kernel_initializer": initializer}
