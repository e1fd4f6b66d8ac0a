"""What every distillation loss shares."""

import keras

from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, deserialize_values, value_at


class DistillationLoss(keras.layers.Layer):
    """Compares one student activation with one teacher activation. Abstract.

    A leaf implements `compare`. It is a Keras layer so that weights of its own are trained and saved, but it is
    never called as one: a layer's `__call__` would cast its arguments and refuse a `Batch`.

    Attributes:
        rank: The rank that both activations must have, the batch axis included; None for any.
        logits: Whether the activations must be logits; the output of a softmax is then refused.
        needs_labels: Whether `compare` reads `batch.labels`.
        pointwise: Whether a loss of logits compares each position on its own and has no weights.
        relational: Whether the loss of an example depends on the others of the batch; it then sees those of all
            replicas.
        takes_several: Whether a side may be a tuple of activations; shapes are then tuples of shapes too.
        temperature: A number or a schedule; None for a loss without one.
        loss: The loss that it wraps, or None.
    """

    rank = None
    logits = False
    activation = "Softmax"
    needs_labels = False
    pointwise = False
    relational = False
    takes_several = False
    temperature = None
    loss = None

    def __init__(self, **kwargs):
        # float32 whatever the global policy: softened probabilities and distances lose their meaning in half precision.
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)

    def connect(self, student, teacher):
        """Looks up the layers whose weights it reads; called before `build`. Most losses read activations alone.

        Args:
            student: The `keras.Model`.
            teacher: The `Teacher`.
        """

    def build(self, student_shape, teacher_shape):
        """Creates the loss's own weights; the shapes begin with the batch axis. Most losses have none."""

    def comparable(self, student_shape, teacher_shape):
        """Whether activations of these shapes can be compared without a head: here, if they are alike."""
        return shapes_match(student_shape[1:], teacher_shape[1:])

    def compare(self, student, teacher, batch):
        """The loss of each example.

        Args:
            student: float32, shape `[batch, ...]`, after the head; 0 at padded positions.
            teacher: float32, shape `[batch, ...]`, without gradient; 0 at padded positions.
            batch: The `Batch`; its `position_weight` says which positions count.

        Returns:
            float32, shape `[batch]`.
        """
        raise NotImplementedError

    def remember(self, student, teacher, batch):
        """Moves the loss's own state; called after `compare`, in training only. Most losses have none."""

    def temperature_at(self, step):
        """The temperature at a step of the optimizer, its own or that of the loss it wraps; None without one."""
        if self.temperature is not None:
            return value_at(self.temperature, step)
        return None if self.loss is None else self.loss.temperature_at(step)

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_values(config))


class SoftenedLoss(DistillationLoss):
    """Compares logits at a temperature, each position by itself; the mean over positions counts. Abstract.

    A leaf implements `divergence`.

    Args:
        temperature: A number or a schedule.
    """

    logits = True
    pointwise = True

    def __init__(self, temperature, **kwargs):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")

    def divergence(self, student, teacher, temperature):
        """The loss of each position.

        Args:
            student: Logits, float32, shape `[batch, positions..., classes]`.
            teacher: Likewise.
            temperature: A float or a scalar tensor.

        Returns:
            float32, shape `[batch, positions...]`.
        """
        raise NotImplementedError

    def compare(self, student, teacher, batch):
        values = self.divergence(student, teacher, value_at(self.temperature, batch.step))
        return mean_over_positions(values, batch.position_weight)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


def shapes_match(student_shape, teacher_shape):
    """Whether two shapes agree, an unknown length agreeing with any."""
    return len(student_shape) == len(teacher_shape) and all(
        s is None or t is None or s == t for s, t in zip(student_shape, teacher_shape)
    )
