"""Base classes of the distillation losses."""

from typing import Any

import keras

from keras_distill.data.batch import Batch
from keras_distill.losses.checks import Shape, check_classes, shapes_match
from keras_distill.losses.class_masks import finite_logits
from keras_distill.losses.softened import kl_from_logits
from keras_distill.models.masking import mean_over_positions
from keras_distill.schedules import check_positive, deserialize_values, value_at
from keras_distill.types import ScheduleLike, Tensor


class DistillationLoss(keras.layers.Layer):
    """Base class of losses between a student activation and a teacher activation. Abstract.

    A subclass implements `compare`. The class is a Keras layer, so that weights of a loss are trained and saved. Call
    `compare`, not the layer: `Layer.__call__` casts its arguments and rejects a `Batch`.

    Attributes:
        rank: Rank that both activations must have, batch axis included. None accepts any rank.
        logits: True if the activations must be logits. A `Term` then passes the input of a final softmax.
        activation: Function of the logits, "Softmax" or "Sigmoid".
        needs_labels: True if `compare` reads `batch.labels`.
        pointwise: True for a loss of logits that compares each position independently and has no weights.
        relational: True if the loss of an example depends on the other examples of the batch. Under `tf.distribute`,
            `compare` then receives the examples of all replicas.
        resizable: True if feature maps are compared position by position, so that a `Term` resizes the student's to
            the teacher's height and width where these are unknown before the first step.
        takes_top_k: True if `compare` also accepts `TopKLogits`, which a cache with `top_k` holds, as the teacher's
            logits. Other losses get logits of all classes.
        aligns: True if the positions of the two activations do not correspond and the loss aligns them, as
            `language.SpanAligned` does. A mask of either side is then a mask of that side alone.
        takes_several: True if each side may be a tuple of activations. Shapes are then tuples of shapes.
        temperature: Softmax temperature, a number or a schedule. None for a loss without a temperature.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`. `dtype` defaults to "float32" under any policy.

    Example:
    >>> class LogitMAE(DistillationLoss):
    ...     logits = True
    ...
    ...     def compare(self, student, teacher, batch):
    ...         return ops.mean(ops.abs(student - teacher), axis=-1)
    >>> term = Term(LogitMAE(), weight=0.5)
    """

    rank: int | None = None
    logits: bool = False
    activation: str = "Softmax"
    needs_labels: bool = False
    pointwise: bool = False
    relational: bool = False
    resizable: bool = True
    takes_top_k: bool = False
    aligns: bool = False
    takes_several: bool = False
    temperature: ScheduleLike | None = None

    def __init__(self, **kwargs: Any):
        # float32 under any policy: softened probabilities and distances lose too many digits in half precision.
        super().__init__(dtype=kwargs.pop("dtype", "float32"), **kwargs)

    def connect(self, student: keras.Model, teacher: Any) -> None:
        """Look up layers whose weights the loss reads. Called before `build`.

        The default does nothing: most losses read activations only.

        Args:
            student: Student model.
            teacher: `Teacher` of the distiller.
        """

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        """Create the weights of the loss and check the shapes. The default does nothing.

        Args:
            student_shape: Shape of the student's activation after the head, batch axis included.
            teacher_shape: Shape of the teacher's activation, batch axis included.

        Raises:
            ValueError: If the loss cannot compare activations of these shapes.
        """

    def comparable(self, student_shape: Shape, teacher_shape: Shape) -> bool:
        """Return True if the loss can compare activations of these shapes without a head.

        The default requires equal shapes; an unknown length matches any length.

        Args:
            student_shape: Shape of the student's activation, batch axis included.
            teacher_shape: Shape of the teacher's activation, batch axis included.

        Returns:
            True or False.
        """
        return shapes_match(student_shape[1:], teacher_shape[1:])

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Compute the loss of each example.

        Args:
            student: Student activation after the head, float32, shape `[batch, ...]`, 0 at padded positions.
            teacher: Teacher activation, float32, shape `[batch, ...]`, without gradient, 0 at padded positions.
            batch: The `Batch`. `batch.position_weight` holds the weight of each position.

        Returns:
            float32, shape `[batch]`.
        """
        raise NotImplementedError

    def own_positions(self, batch: Batch) -> Tensor | None:
        """Return weights of the positions that the loss compares, besides masks and sample weights.

        Args:
            batch: The `Batch`, as passed to `compare`.

        Returns:
            float32, shape `[batch, positions...]` of the student's activation. None, the default: all count.
        """
        return None

    def remember(self, student: Tensor, teacher: Tensor, batch: Batch) -> None:
        """Update the state of the loss. Called after `compare`, during training only. The default does nothing.

        Args:
            student: Student activation, as passed to `compare`.
            teacher: Teacher activation, as passed to `compare`.
            batch: The `Batch`, as passed to `compare`.
        """

    def temperature_at(self, step: Tensor) -> float | Tensor | None:
        """Return the temperature at an optimizer step.

        Args:
            step: Optimizer step, a scalar integer tensor.

        Returns:
            A float or a scalar float32 tensor. None for a loss without a temperature.
        """
        return None if self.temperature is None else value_at(self.temperature, step)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DistillationLoss":
        return cls(**deserialize_values(config))


class SoftenedLoss(DistillationLoss):
    """Base class of losses of logits at a temperature, averaged over positions. Abstract.

    A subclass implements `divergence`.

    Args:
        temperature: Softmax temperature, > 0, a number or a schedule.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `temperature` is not a finite number > 0 or a schedule.
    """

    logits = True
    pointwise = True
    # True for a loss of different vocabularies, which implements `distance`.
    compares_vocabularies = False

    def __init__(self, temperature: ScheduleLike, **kwargs: Any):
        super().__init__(**kwargs)
        self.temperature = check_positive(temperature, "temperature")

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
        """Compute the loss of each position.

        Args:
            student: Logits, float32, shape `[batch, positions..., classes]`.
            teacher: Logits, float32, shape `[batch, positions..., classes]`.
            temperature: Softmax temperature, a float or a scalar tensor.

        Returns:
            float32, shape `[batch, positions...]`.
        """
        raise NotImplementedError

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of each position of probabilities that need not sum to 1, at temperature 1.

        Args:
            student: Logarithms of probabilities, float32, shape `[batch, positions..., student classes]`.
            teacher: Logarithms of probabilities, float32, shape `[batch, positions..., teacher classes]`.

        Returns:
            float32, shape `[batch, positions...]`.
        """
        raise NotImplementedError

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = self.divergence(student, teacher, value_at(self.temperature, batch.step))
        return mean_over_positions(values, batch.position_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


class LogitLossWrapper(DistillationLoss):
    """Base class of losses that transform logits and pass them to another loss of logits. Abstract.

    A subclass sets `default_temperature` and implements `compare`, which calls `compare_inner` with the transformed
    logits. Rank and use of labels are those of the inner loss. The wrapper is relational if the inner loss is.

    Args:
        loss: Inner loss of logits, such as `DecoupledKD()`. Defaults to None: the loss of
            `KLDivergence(temperature=default_temperature)`.
        **kwargs: Arguments of `DistillationLoss`, such as `name`.

    Raises:
        ValueError: If `loss` is not a loss of logits, if it has a state that a training step updates, such as the
            center of `CenteredKL`, or if it aligns the positions itself.
    """

    logits = True
    default_temperature: float

    def __init__(self, loss: DistillationLoss | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if loss is not None and not (isinstance(loss, DistillationLoss) and loss.logits):
            raise ValueError(
                f"{type(self).__name__} takes a loss of logits, such as `{type(self).__name__}(DecoupledKD())`. "
                f"Received: {loss!r}"
            )
        # The state would be one of transformed logits.
        if loss is not None and (loss.aligns or type(loss).remember is not DistillationLoss.remember):
            raise ValueError(
                f"{type(self).__name__} takes a loss without state that compares each position with the same position, "
                f"such as `{type(self).__name__}(DecoupledKD())`. Received: a {type(loss).__name__}"
            )
        self.loss = loss
        if loss is not None:
            # Attributes of the instance: a `Term` reads them before the loss is built.
            self.rank, self.needs_labels, self.activation = loss.rank, loss.needs_labels, loss.activation
            self.relational = self.relational or loss.relational

    def build(self, student_shape: Shape, teacher_shape: Shape) -> None:
        check_classes(type(self).__name__, student_shape, teacher_shape)
        # An inner loss that was loaded from a file is built and has its weights.
        if self.loss is not None and not self.loss.built:
            self.loss.build(student_shape, teacher_shape)

    def compare_inner(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Compute the inner loss of each example.

        Args:
            student: Transformed logits, float32, shape `[batch, positions..., classes]`.
            teacher: Transformed logits, float32, shape `[batch, positions..., classes]`.
            batch: The `Batch`.

        Returns:
            float32, shape `[batch]`.
        """
        if self.loss is not None:
            return self.loss.compare(student, teacher, batch)
        temperature = self.default_temperature
        values = temperature**2 * kl_from_logits(*finite_logits(student, teacher), temperature)
        return mean_over_positions(values, batch.position_weight)

    def temperature_at(self, step: Tensor) -> float | Tensor | None:
        return None if self.loss is None else self.loss.temperature_at(step)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}
