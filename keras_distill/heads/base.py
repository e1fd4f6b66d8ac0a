"""What every head shares."""

import keras


class Head(keras.layers.Layer):
    """A trained map from the student's activation to the teacher's space, and no part of the student. Abstract.

    A leaf implements `build(student_shape, teacher_shape)`, which creates the weights for both shapes (they begin
    with the batch axis), and `call(student)`.

    Attributes:
        takes_several: Whether it may map a tuple of activations, to one or to a tuple; shapes are then tuples of
            shapes too.
    """

    takes_several = False

    def __init__(self, **kwargs):
        # float32 whatever the global policy: a head exists for the loss behind it, which is computed in float32.
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)

    def build(self, student_shape, teacher_shape):
        raise NotImplementedError

    def call(self, student):
        raise NotImplementedError
