"""Mean teacher: an exponential moving average (EMA) of the student."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_distill.data.batch import Batch
from keras_distill.schedules import check_fraction, value_at
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import ModelTeacher
from keras_distill.types import ScheduleLike, Structure


class EMATeacher(Teacher):
    """Mean teacher: a copy of the student whose weights are a moving average of the student's (self-distillation).

    ```
    teacher = decay * teacher + (1 - decay) * student       after every step
    ```

    The moving statistics of batch normalization are averaged, too; integer variables are copied. The copy is saved with
    the distiller. `load_distiller(path, teacher=EMATeacher(model))` restores it into a teacher made from any model of
    the same architecture.

    Args:
        student: Built `keras.Model` to copy, with its current weights.
        decay: Decay of the moving average, 0 to 1, a number or a schedule. 0.99 to 0.9999 is typical. Defaults to
            0.999.
        inputs: Function from the inputs of the batch to the teacher's, as for `ModelTeacher`, e.g. an augmentation for
            the teacher only, or the large ones of several crops: `inputs=lambda crops: crops[0]`. Defaults to None: the
            same inputs.

    Raises:
        ValueError: If `student` is not a built `keras.Model`, or `decay` is not a number from 0 to 1 or a schedule; in
            the first step, if the distiller's student has another architecture than the copy.

    Reference:
        Tarvainen and Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780

    Example:
    >>> mean_teacher = EMATeacher(student, decay=0.99)
    >>> distiller = Distiller(student=student, teacher=mean_teacher, terms=[Term(KLDivergence())])
    """

    def __init__(
        self,
        student: keras.Model,
        decay: ScheduleLike = 0.999,
        inputs: Callable[[Structure], Structure] | None = None,
    ):
        if not (isinstance(student, keras.Model) and student.built):
            raise ValueError(
                "EMATeacher copies a built keras.Model. Build it first, such as by `model.build(input_shape)`. "
                f"Received: {student!r}"
            )
        self.decay = check_fraction(decay, "decay")
        self.model = keras.models.clone_model(student)
        if not self.model.built:
            self.model.build_from_config(student.get_build_config())
        self.model.set_weights(student.get_weights())
        self._model_teacher = ModelTeacher(self.model, inputs)
        self._current_decay = None

    @property
    def state(self) -> tuple:
        return tuple(self.model.weights)

    @property
    def weights(self) -> tuple:
        return self._model_teacher.weights

    @property
    def models(self) -> tuple:
        return self._model_teacher.models

    @property
    def logits_layer(self) -> keras.layers.Layer | None:
        return self._model_teacher.logits_layer

    def connect(self, taps: Sequence[str]) -> None:
        self._model_teacher.connect(taps)

    def find_layer(self, name: str) -> keras.layers.Layer:
        return self._model_teacher.find_layer(name)

    def activations(self, batch: Batch) -> dict[str, Any]:
        # Evaluated here because the optimizer has increased its counter when `after_step` is called.
        self._current_decay = value_at(self.decay, batch.step)
        return self._model_teacher.activations(batch)

    def after_step(self, student: keras.Model) -> None:
        own_shapes = [tuple(weight.shape) for weight in self.model.weights]
        student_shapes = [tuple(weight.shape) for weight in student.weights]
        if own_shapes != student_shapes:
            raise ValueError(
                "EMATeacher must be made from the student itself or from a model of the same architecture: "
                f"EMATeacher(student). It has weights of the shapes {own_shapes}, "
                f"'{student.name}' has {student_shapes}."
            )
        for mean, latest in zip(self.model.weights, student.weights):
            if keras.backend.is_float_dtype(mean.dtype):
                latest = self._current_decay * mean + (1.0 - self._current_decay) * latest
            mean.assign(latest)
