"""One arm of an experiment: how one of the compared models is made and trained."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_distill.data.transfer import as_transfer_set
from keras_distill.training.term import Term
from keras_distill.utils.arguments import check_integer, check_number


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the compared models of an experiment.

    All arms of a seed start from the same random numbers: arms with the same network have the same initial weights, and
    see the examples in the same order. `dataclasses.replace(arm, ...)` makes a variant.

    Args:
        name: Name in tables and figures, such as "baseline" or "distilled".
        student: Function that returns the untrained model. With `start`, it is called with a copy of that trained
            model, such as `lambda model: quantize_aware(model, x[:500])`.
        terms: List of `Term`, which is copied for each seed; or a function `terms(student, teacher)` that returns one.
            Defaults to None: a baseline, trained on the labels without a teacher.
        supervised_weight: Weight of the supervised loss, >= 0. Defaults to 1.0.
        epochs: Number of epochs, >= 1. Defaults to 30.
        steps_per_epoch: Number of steps of an epoch, at least those of one pass over the training set. Several passes
            over a small training set save the time that each epoch costs for validation and checkpoints. Defaults to
            None: one pass.
        batch_size: Examples per step, >= 1. 32 to 512 is typical. Defaults to 128.
        learning_rate: Initial learning rate of Adam, > 0, which decays to 0 along a cosine. 1e-3 is typical. Defaults
            to 1e-3.
        optimizer: Function of the number of steps that returns another optimizer. Defaults to None: Adam.
        transfer: `TransferSet`, or an augmentation such as `Mixup()`: further examples, half of each batch by default.
            With terms, the teacher labels them; without, they have their own labels, such as those of the mixed
            examples. Such a baseline shows what the examples gain without a teacher. Defaults to None.
        baselines: Names of the arms that this one is compared with; the teacher-student gap refers to the first.
            Defaults to None: for an arm with terms, all arms without terms.
        teacher: Name of an earlier arm that is the teacher, as trained with the same seed; or another teacher, as for
            `Distiller`, such as an `Ensemble`. Defaults to None: the teacher of the experiment.
        start: Name of an earlier arm from whose weights the training starts, as trained with the same seed; or
            "teacher", for a student that is made of the teacher of the experiment. Defaults to None: random initial
            weights.
        patience: Stop when `Task.monitor` has not improved on the validation split for this number of epochs, >= 1, and
            restore the best weights. Defaults to None: the weights after the last epoch.
        dtype_policy: Policy under which `student` is called, such as "mixed_bfloat16". Defaults to None: the global
            policy.
        steps_per_execution: Number of steps per call of the training function, >= 1; also that between two chances to
            stop. 16 makes the training of a small network faster, with the same weights. Defaults to 1.
        settings: `{name: JSON value}` of anything else that determines the trained weights, for the report. Defaults to
            none.

    Raises:
        ValueError: If a number is out of its range, or `terms` are neither a list of `Term` nor a function.

    Example:

    >>> from keras_distill.experiment import Arm
    >>> arm = Arm("distilled", lambda: student, [Term(KLDivergence(2.0), weight=0.9)], supervised_weight=0.1, epochs=60)
    """

    name: str
    student: Callable[..., keras.Model]
    terms: Sequence[Term] | Callable[[keras.Model, Any], Sequence[Term]] | None = None
    supervised_weight: float = 1.0
    epochs: int = 30
    steps_per_epoch: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: Callable[[int], keras.optimizers.Optimizer] | None = None
    transfer: Any = None
    baselines: Sequence[str] | None = None
    teacher: Any = None
    start: str | None = None
    patience: int | None = None
    dtype_policy: str | None = None
    steps_per_execution: int = 1
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "transfer", as_transfer_set(self.transfer))
        check_number(self.supervised_weight, "supervised_weight", at_least=0)
        check_number(self.learning_rate, "learning_rate", above=0)
        for name in ("epochs", "batch_size", "steps_per_execution"):
            check_integer(getattr(self, name), name)
        for name in ("patience", "steps_per_epoch"):
            check_integer(getattr(self, name), name, optional=True)
        # A model is callable, too.
        if not callable(self.student) or isinstance(self.student, keras.Model):
            advice = "Pass a function that returns a new model, such as `lambda: keras.models.clone_model(model)`."
            raise ValueError(f"`student` of '{self.name}' must be a function. {advice} Received: {self.student!r}")
        terms = () if self.terms is None or callable(self.terms) else self.terms
        if terms == [] or not all(isinstance(term, Term) for term in terms):
            raise ValueError(
                f"`terms` of '{self.name}' must be a list of `Term`, a function, or None for a baseline. Received: "
                f"{self.terms!r}"
            )

    @property
    def distilled(self) -> bool:
        """True if the arm has a teacher."""
        return self.terms is not None

    @property
    def teacher_arm(self) -> str | None:
        """Name of the arm that is the teacher; None for any other teacher."""
        return self.teacher if isinstance(self.teacher, str) else None

    def new_student(self, start: keras.Model | None = None) -> keras.Model:
        """Return the untrained model.

        Args:
            start: Trained model of the arm `start`. Defaults to None.
        """
        previous = keras.config.dtype_policy()
        try:
            if self.dtype_policy is not None:
                keras.config.set_dtype_policy(self.dtype_policy)
            if start is None:
                return self.student()
            copy = keras.models.clone_model(start)
            # The clone has new random weights.
            copy.set_weights(start.get_weights())
            return self.student(copy)
        finally:
            keras.config.set_dtype_policy(previous)

    def new_terms(self, student: keras.Model, teacher: Any) -> list[Term]:
        """Return new terms for one training; none for a baseline.

        Args:
            student: The untrained student.
            teacher: The teacher: a model, or another `Teacher`.
        """
        if self.terms is None:
            return []
        if callable(self.terms):
            return list(self.terms(student, teacher))
        return [Term.from_config(term.get_config()) for term in self.terms]

    def new_optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """Return a new optimizer.

        Args:
            steps: Number of steps of the training.
        """
        if self.optimizer is not None:
            return self.optimizer(steps)
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(self.learning_rate, steps))

    def description(self) -> dict[str, Any]:
        """Return the settings of the arm that can be written down, `{name: JSON value}`."""
        fields = (
            "supervised_weight",
            "epochs",
            "steps_per_epoch",
            "batch_size",
            "learning_rate",
            "patience",
            "dtype_policy",
        )
        transfer = None if self.transfer is None else self.transfer.description()
        values = {name: getattr(self, name) for name in (*fields, "start")}
        given = self.teacher is not None and self.teacher_arm is None
        teacher = getattr(self.teacher, "name", type(self.teacher).__name__) if given else self.teacher
        return {**values, "teacher": teacher, "transfer": transfer, **self.settings}
