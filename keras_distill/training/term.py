"""One comparison of the student with the teacher."""

import contextlib
import dataclasses

import keras
from keras import ops

from keras_distill.data.sample_weights import entry_of_tap, split_weights, weights_of_tap
from keras_distill.distribution import replicas
from keras_distill.heads import Convolution, Head, Projection
from keras_distill.losses import DistillationLoss
from keras_distill.models.masking import joint_masks, zero_padding
from keras_distill.models.specs import check_activation
from keras_distill.models.taps import OUTPUT, tap_names
from keras_distill.schedules import Schedule, check_positive, value_at
from keras_distill.training.balance import Balance

AUTO = "auto"
_GATHERED = ("labels", "position_weight", "index")


@keras.saving.register_keras_serializable("keras_distill")
@dataclasses.dataclass(frozen=True)
class Term:
    """A loss between one activation of the student and one of the teacher.

    ```python
    Term(KLDivergence(temperature=4.0))                                    # the logits
    Term(Hint(), "block_3", "block_6", head="auto", weight=0.1)               # two layers, through a trained head
    Term(KLDivergence(), "output[topic]", "output[topic]", name="topic")   # one of several outputs
    Term(FSP(), ("block_1", "block_2"), ("block_2", "block_4"))    # a loss of several layers at once
    Term(HierarchicalContext(), ("block_1", "block_2"), ("block_2", "block_4"), Fusion())      # and a head of several
    ```

    A term is a description: several distillers may be made from the same terms, and each makes heads, losses and
    balances of its own from them, unless they come with weights already.

    Args:
        loss: A `DistillationLoss`.
        student: Where the student is tapped, as `Taps` reads it; a tuple for a loss, or a head, that takes several
            activations. Defaults to its output.
        teacher: Where the teacher is tapped, likewise.
        head: Maps the student's activation to the teacher's space: a `Head`, any Keras layer, or "auto" for a
            `Projection` of vectors and tokens and a `Convolution` of maps where the shapes ask for one. Default none.
        weight: What the loss is multiplied with: a positive number, a schedule, or a `Balance`, which keeps it at a
            ratio to the supervised loss. Defaults to 1.
        name: What the logs call it, with "_loss" behind. Defaults to the name of the loss: "hint", then "hint_2".
        mask: Entry of the inputs that is 1 where a token or pixel counts and 0 where it is padded, shape
            `[batch, positions...]`: for models that take their padding as an input, as KerasHub's `padding_mask`.
            Defaults to the Keras masks of the activations.
        across_replicas: Whether, under `tf.distribute`, a loss that compares the examples of a batch with one another
            sees those of all replicas, as one device would. Each replica is then sent the activations of all, and
            makes all comparisons itself; False compares the examples of each replica alone. Default True.

    Raises:
        ValueError: For an argument that is none of the above.
    """

    loss: DistillationLoss
    student: str | tuple = OUTPUT
    teacher: str | tuple = OUTPUT
    head: keras.layers.Layer | str | None = None
    weight: float | Schedule | Balance = 1.0
    name: str | None = None
    mask: str | None = None
    across_replicas: bool = True

    def __post_init__(self):
        if not isinstance(self.loss, DistillationLoss):
            raise ValueError(
                "A Term's `loss` must be a loss of keras_distill.losses, such as KLDivergence(temperature=4.0). "
                f"Received: {self.loss!r}"
            )
        if not (self.head is None or self.head == AUTO or isinstance(self.head, keras.layers.Layer)):
            raise ValueError(f"A Term's `head` must be a keras layer, '{AUTO}' or None. Received: {self.head!r}")
        for side in ("student", "teacher"):
            # A saved tuple comes back as a list.
            taps = getattr(self, side)
            object.__setattr__(self, side, tuple(taps) if isinstance(taps, list) else taps)
            gathered = side == "student" and _takes_several(self.head)
            if isinstance(taps, (tuple, list)) and not (self.loss.takes_several or gathered):
                raise ValueError(f"{type(self.loss).__name__} compares one activation. Received: {side}={taps!r}")
        if not (self.name is None or isinstance(self.name, str) and self.name):
            raise ValueError(f"A Term's `name` must be a string or None. Received: {self.name!r}")
        if not (self.mask is None or isinstance(self.mask, str)):
            raise ValueError(f"A Term's `mask` must be the name of an input or None. Received: {self.mask!r}")
        if not self.balanced:
            object.__setattr__(self, "weight", check_positive(self.weight, f"weight of {type(self.loss).__name__}"))

    @property
    def balanced(self):
        """Whether the weight is a `Balance`."""
        return isinstance(self.weight, Balance)

    def build(self, student, teacher, models=None):
        """The term with its head chosen and all weights created.

        Args:
            student: `Spec` of the student's activation, or a tuple of several.
            teacher: Likewise.
            models: The student and the `Teacher` themselves, for losses that read weights of theirs.

        Returns:
            A new `Term`.

        Raises:
            ValueError: If the loss cannot compare the two; the error names term, taps and shapes.
        """
        loss = _own(self.loss)
        if models is not None:
            with self._telling_taps():
                loss.connect(*models)
        self._check_activations(loss, student, teacher)
        student_shape = shape = _shape(student)
        teacher_shape = _shape(teacher)
        head = self._automatic_head(loss, student_shape, teacher_shape) if self.head == AUTO else _own(self.head)
        if head is not None:
            if isinstance(self.student, tuple) and not _takes_several(head):
                raise ValueError(f"A head maps one activation. Term '{self.name}' taps several: {self.student}.")
            if not head.built:
                with self._telling_taps():
                    head.build(*((student_shape, teacher_shape) if isinstance(head, Head) else (student_shape,)))
            shape = _shape(head.compute_output_spec(_symbolic(student_shape)))
        if not loss.comparable(shape, teacher_shape):
            raise ValueError(self._mismatch(loss, head, shape, student_shape, teacher_shape))
        if not loss.built:
            with self._telling_taps():
                loss.build(shape, teacher_shape)
        weight = _own(self.weight) if self.balanced else self.weight
        if self.balanced and not weight.built:
            weight.build()
        return dataclasses.replace(self, loss=loss, head=head, weight=weight)

    def compare(self, student, teacher, batch, training=False):
        """The unweighted loss of each example, times the example's sample weight.

        Args:
            student: The student's activation, shape `[batch, ...]`, any float type.
            teacher: The teacher's.
            batch: The `Batch`.
            training: Whether the head runs, and the loss moves its state, as in training.

        Returns:
            float32, shape `[batch]`. A padded position, by `mask` or either model's Keras mask, counts nowhere.
        """
        first = tap_names(self.student)[0]
        labels = entry_of_tap(batch.labels, first)
        if self.loss.needs_labels and labels is None:
            raise ValueError(f"Term '{self.name}' needs labels, but none came with the batch for '{first}'.")
        main = _first(student)
        given = None if self.mask is None else batch.inputs[self.mask]
        student_mask, teacher_mask = joint_masks(main, _first(teacher), given)
        of_position, of_example = split_weights(
            weights_of_tap(batch.sample_weight, first), student_mask, len(main.shape)
        )
        student, teacher = _float32(student), keras.tree.map_structure(ops.stop_gradient, _float32(teacher))
        student = student if self.head is None else _float32(self.head(student, training=training))
        student = keras.tree.map_structure(lambda x: zero_padding(x, student_mask), student)
        teacher = keras.tree.map_structure(lambda x: zero_padding(x, teacher_mask), teacher)
        batch = batch._replace(labels=labels, position_weight=of_position)
        gathers = self.loss.relational and self.across_replicas
        if gathers:
            seen = replicas.all_gather((student, teacher, batch.labels, batch.position_weight, batch.index))
            (student, teacher), batch = seen[:2], batch._replace(**dict(zip(_GATHERED, seen[2:])))
        values = self.loss.compare(student, teacher, batch)
        if training:
            self.loss.remember(student, teacher, batch)
        if gathers:
            values = replicas.local_slice(values, ops.shape(main)[0])
        return values if of_example is None else values * of_example

    def weigh(self, supervised, mean, share, batch, training=False):
        """What the term is multiplied with in this step.

        Args:
            supervised: The supervised loss, a scalar: the mean over this replica's examples.
            mean: The term's, likewise, before its weight.
            share: This replica's part of all examples of the step.
            batch: The `Batch`.
            training: Whether a `Balance` moves.

        Returns:
            A float, or a float32 scalar without gradient.

        Raises:
            ValueError: If a `Balance` is to move without labels.
        """
        if not self.balanced:
            return value_at(self.weight, batch.step)
        if training and batch.labels is None:
            raise ValueError(
                f"Term '{self.name}' is balanced with the supervised loss, but no labels came with the batch. "
                "Pass labels, or a number as its weight."
            )
        supervised, mean = replicas.all_reduce_sum([share * supervised, share * mean])
        return self.weight.weight(supervised, mean, batch.step, training)

    def get_config(self):
        return {field.name: _written(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        return cls(**{key: keras.saving.deserialize_keras_object(value) for key, value in config.items()})

    def _check_activations(self, loss, students, teachers):
        tapped = [("student", *pair) for pair in zip(tap_names(self.student), _each(students))]
        tapped += [("teacher", *pair) for pair in zip(tap_names(self.teacher), _each(teachers))]
        for side, tap, spec in tapped:
            check_activation(spec, f"Term '{self.name}'", f"{side} '{tap}'", tap, loss.logits)
        if loss.rank is not None and any(len(spec.shape) != loss.rank for _, _, spec in tapped):
            received = ", ".join(f"{side} '{tap}' of shape {spec.shape}" for side, tap, spec in tapped)
            raise ValueError(f"{type(loss).__name__} compares activations of rank {loss.rank}. Received: {received}.")

    def _automatic_head(self, loss, student, teacher):
        if loss.logits or loss.comparable(student, teacher):
            return None
        ranks = {len(student), len(teacher)}
        head = Projection() if ranks in ({2}, {3}) else Convolution() if ranks == {4} else None
        if head is None or isinstance(self.student, tuple):
            raise ValueError(
                f"Term '{self.name}' finds no obvious head from student '{self.student}' of shape {student} to "
                f"teacher '{self.teacher}' of shape {teacher}. Pass one as `head=`, or tap other layers."
            )
        return head

    @contextlib.contextmanager
    def _telling_taps(self):
        """Puts the user's own names before what a head or a loss says of shapes."""
        try:
            yield
        except ValueError as error:
            taps = f"student '{self.student}' with teacher '{self.teacher}'"
            raise ValueError(f"Term '{self.name}' cannot compare {taps}. {error}") from error

    def _mismatch(self, loss, head, shape, student, teacher):
        if loss.logits:
            return (
                f"Term '{self.name}' compares {shape[-1]} student classes with {teacher[-1]} teacher classes: "
                f"student '{self.student}' has shape {student}, teacher '{self.teacher}' has {teacher}. "
                "Give both the same classes in the same order, such as by ModelTeacher(teacher, classes=...)."
            )
        through = "" if head is None else f", {shape} behind head '{head.name}',"
        advice = (
            "Choose another head." if head is not None else f"Give it a head, such as head='{AUTO}', or tap others."
        )
        return (
            f"Term '{self.name}' cannot compare student '{self.student}' of shape {student}{through} with "
            f"teacher '{self.teacher}' of shape {teacher}. {advice}"
        )


def _each(specs):
    return specs if type(specs) is tuple else (specs,)


def _first(activations):
    return activations[0] if isinstance(activations, tuple) else activations


def _shape(specs):
    return tuple(tuple(spec.shape) for spec in specs) if type(specs) in (tuple, list) else tuple(specs.shape)


def _symbolic(shape):
    """Tensors of one shape, or of several, to ask a head what it would make of them."""
    several = isinstance(shape[0], tuple)
    return tuple(_symbolic(one) for one in shape) if several else keras.KerasTensor(shape, "float32")


def _takes_several(head):
    return isinstance(head, Head) and head.takes_several


def _float32(activations):
    return keras.tree.map_structure(lambda x: ops.cast(x, "float32"), activations)


def _own(layer):
    """A layer of the distiller's own: the given one if it brings weights, else a new one like it."""
    return layer if layer is None or layer.built else type(layer).from_config(layer.get_config())


def _written(value):
    return value if isinstance(value, (str, float, tuple, type(None))) else keras.saving.serialize_keras_object(value)
