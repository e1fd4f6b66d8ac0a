"""Linear projection head for vectors and tokens."""

from typing import Any

import keras

from keras_distill.heads.base import Head
from keras_distill.types import Tensor


@keras.saving.register_keras_serializable("keras_distill")
class Projection(Head):
    """Linear projection of the last axis to the teacher's width.

    Takes vectors `[batch, width]` and tokens `[batch, length, width]`; all tokens share the weights. `head="auto"`
    chooses this head for vectors and tokens.

    Args:
        use_bias: True to add a trained bias. Defaults to True.
        kernel_initializer: Initializer of the kernel, as for `keras.layers.Dense`. Defaults to "glorot_uniform".
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: When the distiller is made, if the activations are not two vectors or two sequences of tokens, of
            known width.

    Example:
    >>> term = Term(Hint(), student="features", teacher="features", head=Projection(use_bias=False))
    """

    def __init__(self, use_bias: bool = True, kernel_initializer: Any = "glorot_uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        ranks = len(student_shape), len(teacher_shape)
        if ranks not in ((2, 2), (3, 3)) or None in (student_shape[-1], teacher_shape[-1]):
            raise ValueError(
                "Projection takes vectors or tokens of known width, with the same rank in student and teacher. For "
                "feature maps, use head=Convolution(). "
                f"Received: student shape {student_shape}, teacher shape {teacher_shape}"
            )
        self.dense = keras.layers.Dense(
            teacher_shape[-1],
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(student_shape)

    def call(self, student: Tensor) -> Tensor:
        return self.dense(student)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
