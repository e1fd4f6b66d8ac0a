"""Base class of all heads."""

from typing import Any

import keras

from keras_distill.types import Structure


class Head(keras.layers.Layer):
    """Trained layer from the student's activation to the teacher's space. Abstract.

    A head is trained with the student but is not part of it. A subclass implements `build(student_shape,
    teacher_shape)`, which creates the weights, and `call(student)`.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`. `dtype` defaults to float32 under any global
            policy.

    Attributes:
        takes_several: True if the head maps a tuple of activations, to one activation or to a tuple. Its shapes are
            then tuples of shapes, too. Defaults to False.

    Example:
    >>> @keras.saving.register_keras_serializable("my_project")
    ... class Scale(Head):
    ...     def build(self, student_shape, teacher_shape):
    ...         self.scale = self.add_weight(shape=(teacher_shape[-1],), initializer="ones", name="scale")
    ...
    ...     def call(self, student):
    ...         return student * self.scale
    >>> term = Term(Hint(), student="logits", teacher="logits", head=Scale())
    """

    takes_several = False

    def __init__(self, **kwargs: Any):
        # float32 under any global policy: the loss that follows a head is computed in float32.
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)

    def build(self, student_shape: tuple, teacher_shape: tuple) -> None:
        """Create the weights.

        Args:
            student_shape: Shape of the student's activation, batch axis included; a tuple of shapes if the head takes
                several activations.
            teacher_shape: Shape of the teacher's activation, batch axis included; a tuple of shapes for several.

        Raises:
            ValueError: If the head cannot map activations of these shapes.
        """
        raise NotImplementedError

    def call(self, student: Structure) -> Structure:
        """Map the student's activation to the teacher's space.

        Args:
            student: Activation, shape `[batch, ...]`, or a tuple of activations.

        Returns:
            Activation that the loss can compare with the teacher's, or a tuple of them.
        """
        raise NotImplementedError
