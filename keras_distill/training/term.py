"""Term: a loss between one activation of the student and one of the teacher."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.data.sample_weights import entry_of_tap
from keras_distill.data.top_k import dense_logits
from keras_distill.distribution import replicas
from keras_distill.heads import Head
from keras_distill.losses import DistillationLoss, LossAdapter
from keras_distill.models.masking import joint_masks, mask_fits, separate_masks, zero_padding
from keras_distill.models.taps import OUTPUT, tap_names
from keras_distill.training.loss_weight import LossWeight, check_weight, serialize_weight
from keras_distill.training.positions import (
    fit_positions,
    for_tap,
    match_resolution,
    position_weight_of,
    split_weights,
    token_weights,
    without_classes,
)
from keras_distill.training.teacher_head import build_teacher_head, transform
from keras_distill.training.term_activations import (
    copy_unless_built,
    first_of,
    first_words,
    float32,
    gather,
    map_activations,
    shape_of,
    symbolic_of,
    takes_several,
)
from keras_distill.training.term_arguments import check_arguments, check_connected
from keras_distill.training.term_shapes import (
    AUTO,
    automatic_head,
    check_activations,
    check_rank,
    compared_shapes,
    mismatch,
)
from keras_distill.types import ScheduleLike, Tap, Tensor


@keras.saving.register_keras_serializable("keras_distill")
@dataclasses.dataclass(frozen=True)
class Term:
    """Loss between one activation of the student and one of the teacher.

    A term is a description: several distillers may be made from the same terms, and each creates its own heads, losses
    and weights from them, unless they already have variables.

    Args:
        loss: A `DistillationLoss`; a Keras loss of real values or its name (`keras.losses.Huber()`, "mse"), called with
            the teacher's activation as `y_true`; or a function with the parameters `student` and `teacher`, or `y_true`
            and `y_pred`, that returns one value per example.
        student: Tap of the student, as `models.Taps` reads it; a tuple for a loss or head of several activations.
            Defaults to the model's output.
        teacher: Tap of the teacher, or a tuple of taps. Defaults to the model's output.
        head: Trained map from the student's space to the teacher's: a `heads.Head`, any Keras layer, or "auto" for a
            `Projection` of vectors and tokens and a `Convolution` of feature maps where the shapes differ. Defaults to
            None.
        weight: Factor of the loss in the total: a number >= 0, a schedule, `Balance`, or another `LossWeight`. 0.1 to 1
            is typical for softened logits; feature losses range from 0.01 to 1000. Defaults to 1.
        name: Log name; the suffix `_loss` is appended. Defaults to the name of the loss: "hint", then "hint_2".
        mask: Name of an input that is 1 at tokens or pixels that count and 0 at padding, shape `[batch, positions...]`,
            for models that take their padding mask as an input, such as KerasHub's `padding_mask`. At another
            resolution than the activation's it is resized by area. For logits whose classes are positions, such as the
            start of an answer, it has the shape of the logits. Defaults to the Keras masks of the activations.
        positions: Weights >= 0 of the positions: a tap of the teacher, `Confidence(tap)`, or a function
            `(batch, teacher)` of the `Batch` and of `{tap: activation}` of all that is tapped of the teacher. It gives
            `[batch, positions...]` or `[batch, positions..., 1]`, at any resolution. Defaults to None: sample weights
            and masks alone.
        over: "examples" for the mean over the positions of each example and then over the examples, "tokens" for the
            mean over all positions of a step, on all replicas, that have a weight: long sequences then count more.
            Defaults to "examples".
        across_replicas: Whether a loss that compares the examples of a batch with one another gets the examples of all
            replicas under `tf.distribute`, as it would on a single device. Each replica then receives the activations
            of all others. False compares the examples of each replica only. Defaults to True.
        teacher_head: Untrained transform of the teacher's activation, such as `keras.layers.Reshape((4, 17))`,
            `heads.Standardization()` or a function of a tensor: a Keras layer without trainable weights, or another
            callable, registered if the distiller is saved. Padding reaches it as 0. Defaults to None.
        words: Number of the first classes of both models that a loss of logits compares, >= 1, for vocabularies that
            differ by padding at their end, such as 50,257 words of GPT-2 that are padded to 50,304. The others do not
            enter the softmax. Defaults to None: all classes.

    Raises:
        ValueError: For a loss, head, name or mask of another type, a negative or non-finite weight, a Keras loss of
            probabilities, several taps for a loss that compares one activation, and `words` for a loss of features.

    Example:
    >>> logits = Term(KLDivergence(temperature=4.0))
    >>> hint = Term(Hint(), "block_2", "block_4", head="auto", weight=0.1)
    >>> flow = Term(FSP(), ("block_1", "block_2"), ("block_2", "block_4"))
    >>> review = Term(HierarchicalContext(), ("block_1", "block_2"), ("block_2", "block_4"), Fusion())
    >>> huber = Term(keras.losses.Huber(), "features", "features", head="auto")
    >>> topic = Term(KLDivergence(), "output[topic]", "output[topic]", name="topic_kd")
    """

    loss: DistillationLoss
    student: Tap = OUTPUT
    teacher: Tap = OUTPUT
    head: keras.layers.Layer | str | None = None
    weight: ScheduleLike | LossWeight = 1.0
    name: str | None = None
    mask: str | None = None
    positions: str | Callable | None = None
    over: str = "examples"
    across_replicas: bool = True
    teacher_head: Callable | None = None
    words: int | None = None

    def __post_init__(self):
        if not isinstance(self.loss, DistillationLoss):
            object.__setattr__(self, "loss", LossAdapter(self.loss))
        # A saved tuple is loaded as a list.
        for side, taps in (("student", self.student), ("teacher", self.teacher)):
            object.__setattr__(self, side, tuple(taps) if isinstance(taps, list) else taps)
        check_arguments(self)
        object.__setattr__(self, "weight", check_weight(self.weight, f"weight of {type(self.loss).__name__}"))

    @property
    def logits(self) -> bool:
        """True if the loss compares logits."""
        return self.loss.logits

    @property
    def takes_top_k(self) -> bool:
        """True if the term compares `TopKLogits`, which a `teacher_head` does not take."""
        return self.loss.takes_top_k and self.teacher_head is None

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Taps of the teacher that the term reads, those of `positions` included."""
        positions = (self.positions,) if isinstance(self.positions, str) else getattr(self.positions, "taps", ())
        return (*tap_names(self.teacher), *positions)

    def build(self, student: Any, teacher: Any, models: tuple | None = None) -> "Term":
        """Return the term with its head chosen and all variables created.

        Args:
            student: `Spec` of the student's activation, or a tuple of several.
            teacher: `Spec` of the teacher's activation, or a tuple of several.
            models: The student and the `Teacher`, for losses that read weights of their layers.

        Raises:
            ValueError: If the loss cannot compare the activations; the error names term, taps and shapes.
        """
        loss = copy_unless_built(self.loss)
        if models is not None:
            with self._taps_in_errors():
                loss.connect(*models)
            check_connected(self, loss, *models)
        check_activations(self, loss, student, teacher)
        student_shape, teacher_shape = compared_shapes(self, shape_of(student), shape_of(teacher))
        with self._taps_in_errors():
            teacher_head, compared = build_teacher_head(self.teacher_head, teacher_shape, student_shape)
        if self.head == AUTO:
            head = automatic_head(self, loss, student_shape, compared)
        else:
            head = copy_unless_built(self.head)
        shape = student_shape if head is None else self._build_head(head, student_shape, compared)
        check_rank(self, loss, shape, compared)
        if not loss.comparable(shape, compared):
            raise ValueError(mismatch(self, head, shape, student_shape, compared, teacher_shape))
        if not loss.built:
            with self._taps_in_errors():
                loss.build(shape, compared)
        weight = self.weight
        if isinstance(weight, keras.layers.Layer):
            weight = copy_unless_built(weight)
            if not weight.built:
                weight.build()
        return dataclasses.replace(self, loss=loss, head=head, weight=weight, teacher_head=teacher_head)

    def compare(
        self,
        student: Any,
        teacher: Any,
        batch: Batch,
        training: bool = False,
        activations: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return the unweighted loss of each example, times the example's sample weight.

        Args:
            student: Activation of the student, shape `[batch, ...]`, any float dtype.
            teacher: Activation of the teacher, shape `[batch, ...]`, any float dtype, or `TopKLogits`.
            batch: The `Batch`, with the sample weights of the student's tap, `[batch]` or `[batch, positions...]`, or
                those of all outputs.
            training: Whether the head runs in training mode and a loss with state updates it.
            activations: `{tap: activation}` of the teacher, for `positions`. Defaults to None.

        Returns:
            float32, shape `[batch]`. Positions that `mask` or either model's Keras mask marks as padding are left out.
        """
        labels = self._labels(batch)
        if keras.tree.is_nested(batch.sample_weight):
            batch = for_tap(batch, tap_names(self.student)[0])
        mask = None if self.mask is None else batch.inputs[self.mask]
        if mask is not None and self.logits and len(mask.shape) == len(student.shape):
            student, teacher = (without_classes(x, mask) for x in (student, dense_logits(teacher)))
            mask = None
        main = first_of(student)
        fits = mask is None or mask_fits(mask, main)
        masks_of = separate_masks if self.loss.aligns else joint_masks
        student_mask, teacher_mask = masks_of(main, first_of(teacher), mask if fits else None)
        student, teacher = first_words(float32(student), self.words), first_words(float32(teacher), self.words)
        teacher = transform(self.teacher_head, teacher, teacher_mask)
        student = student if self.head is None else float32(self.head(student, training=training))
        student = match_resolution(student, teacher) if self.loss.resizable else student
        student = map_activations(lambda x: zero_padding(x, student_mask), student)
        teacher = map_activations(lambda x: zero_padding(x, teacher_mask), teacher)
        compared = first_of(student)
        weights = split_weights(batch.sample_weight, student_mask, compared)
        for more in self._more_weights(None if fits else mask, batch, activations, compared):
            weights = weights._replace(positions=more if weights.positions is None else weights.positions * more)
        factor = token_weights(weights, compared) if self.over == "tokens" else weights.examples
        known = (1.0 if factor is None else factor) if training else None
        batch = batch._replace(labels=labels, position_weight=weights.positions, example_weight=known)
        gathers = self.loss.relational and self.across_replicas
        if gathers:
            student, teacher, batch = gather(student, teacher, batch)
        values = self.loss.compare(student, teacher, batch)
        if training:
            self.loss.remember(student, teacher, batch)
        if gathers:
            values = replicas.local_slice(values, ops.shape(main)[0])
        return values if factor is None else values * factor

    def _labels(self, batch):
        """Return the labels of the tapped output, or all labels for another tap."""
        tap = tap_names(self.student)[0]
        labels = entry_of_tap(batch.labels, tap)
        if labels is None and "[" not in tap and not self.loss.logits:
            labels = batch.labels
        if self.loss.needs_labels and labels is None:
            raise ValueError(
                f"Term '{self.name}' needs labels, but the batch has none for '{tap}'. Pass labels, or use a loss "
                "without labels, such as KLDivergence()."
            )
        return labels

    def _more_weights(self, mask, batch, activations, compared):
        """Yield weights of positions besides those of the samples."""
        if (own := self.loss.own_positions(batch)) is not None:
            yield fit_positions(own, compared)
        if mask is not None:
            yield fit_positions(ops.cast(mask, "float32"), compared)
        if self.positions is not None:
            yield position_weight_of(self.positions, batch, activations or {}, compared)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "loss": serialize(self.loss),
            "student": self.student,
            "teacher": self.teacher,
            "head": serialize(self.head) if isinstance(self.head, keras.layers.Layer) else self.head,
            "weight": serialize_weight(self.weight),
            "name": self.name,
            "mask": self.mask,
            "positions": serialize(self.positions) if callable(self.positions) else self.positions,
            "over": self.over,
            "across_replicas": self.across_replicas,
            "teacher_head": serialize(self.teacher_head),
            "words": self.words,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{key: keras.saving.deserialize_keras_object(value) for key, value in config.items()})

    def _build_head(self, head, student_shape, teacher_shape):
        """Build the head and return the shape of its output."""
        if isinstance(self.student, tuple) and not takes_several(head):
            raise ValueError(
                f"The head of term '{self.name}' maps one activation, but the term taps several: {self.student}."
            )
        if not head.built:
            with self._taps_in_errors():
                head.build(*((student_shape, teacher_shape) if isinstance(head, Head) else (student_shape,)))
        return shape_of(head.compute_output_spec(symbolic_of(student_shape)))

    @contextlib.contextmanager
    def _taps_in_errors(self):
        """Prefix the errors of a head or a loss with the user's names."""
        try:
            yield
        except ValueError as error:
            taps = f"student '{self.student}' with teacher '{self.teacher}'"
            raise ValueError(f"Term '{self.name}' cannot compare {taps}. {error}") from error
