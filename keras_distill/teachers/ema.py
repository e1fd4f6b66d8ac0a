"""The student's own past as its teacher (mean teacher)."""

import keras

from keras_distill.schedules import check_positive, value_at
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import ModelTeacher


class EMATeacher(Teacher):
    """A copy of the student whose weights follow the student's as an exponential moving average.

    ```
    teacher = decay * teacher + (1 - decay) * student       after every step
    ```

    ```python
    distiller = Distiller(student=student, teacher=EMATeacher(student, decay=0.99), terms=[Term(KLDivergence())])
    ```

    Moving statistics, as of batch normalization, follow alike. The copy is saved with the distiller, since no file of
    the user's holds it; `load_distiller(path, teacher=EMATeacher(model))` takes any model of that architecture.

    Args:
        student: A built `keras.Model`, which is copied as it is now.
        decay: A number from 0 to 1, or a schedule. Defaults to 0.999.
        inputs: As for `ModelTeacher`, such as an augmentation of its own.

    Raises:
        ValueError: For a student that is not built, or another `decay`; in the first step, for a student of another
            architecture than the copy.

    Reference:
        Tarvainen and Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780
    """

    def __init__(self, student, decay=0.999, inputs=None):
        if not (isinstance(student, keras.Model) and student.built):
            raise ValueError(f"EMATeacher copies a built keras.Model. Received: {student!r}")
        self.decay = check_positive(decay, "decay", zero=True)
        if isinstance(self.decay, float) and self.decay > 1:
            raise ValueError(f"`decay` must not be above 1. Received: {decay!r}")
        self.model = keras.models.clone_model(student)
        if not self.model.built:
            self.model.build_from_config(student.get_build_config())
        self.model.set_weights(student.get_weights())
        self._copy = ModelTeacher(self.model, inputs)
        self._share = None

    @property
    def state(self):
        return tuple(self.model.weights)

    @property
    def weights(self):
        return self._copy.weights

    @property
    def models(self):
        return self._copy.models

    def connect(self, taps):
        self._copy.connect(taps)

    def find_layer(self, name):
        return self._copy.find_layer(name)

    def activations(self, batch):
        # Here, since the optimizer's counter has moved on by the time of `after_step`.
        self._share = value_at(self.decay, batch.step)
        return self._copy.activations(batch)

    def after_step(self, student):
        shapes, others = ([tuple(weight.shape) for weight in model.weights] for model in (self.model, student))
        if shapes != others:
            raise ValueError(
                f"An EMATeacher follows a student of its own architecture. It has weights of the shapes {shapes}, "
                f"'{student.name}' has {others}."
            )
        for mean, latest in zip(self.model.weights, student.weights):
            if keras.backend.is_float_dtype(mean.dtype):
                latest = self._share * mean + (1.0 - self._share) * latest
            mean.assign(latest)
