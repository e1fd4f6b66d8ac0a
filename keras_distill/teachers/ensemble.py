"""Ensemble of teachers: the average of their predictions."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_distill import _compat
from keras_distill.data.batch import Batch
from keras_distill.models.taps import OUTPUT
from keras_distill.schedules import check_positive, value_at
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.checks import logits_of_prediction
from keras_distill.teachers.conversion import as_teacher
from keras_distill.types import ScheduleLike, Structure, Tensor


class Ensemble(Teacher):
    """Average the predictions of several teachers.

    ```
    z = sum_i w_i z_i                                      without a temperature
    z = T * log(sum_i w_i softmax(z_i / T))                with one: softmax(z / T) is the mean of the probabilities
    ```

    The taps "output" and "output[...]" return the average. "wide/block_3" taps a layer of the member "wide",
    "wide/output" its own prediction. Members without names are called "0", "1" and so on. Each member runs once per
    step. Members must output logits of the same classes; wrap members of other classes in `ModelTeacher(member,
    classes=...)`.

    Args:
        members: Two or more teachers (each a `Teacher`, a `keras.Model` or a function), in a list or a dictionary of
            names.
        weights: One number >= 0 per member, normalized to sum 1; or a function from the members' logits, shape
            `[members, batch, ..., classes]`, and the `Batch` to weights of sum 1, shape `[members, batch]`, such as
            `most_confident`. Defaults to None: equal weights.
        temperature: Temperature of the term that compares the prediction, > 0, a number or a schedule: probabilities
            are averaged at this temperature. Defaults to None: logits are averaged.

    Raises:
        ValueError: If there are fewer than two members, a member is backed by precomputed activations, or `weights` or
            `temperature` is invalid; when the distiller is made, if a tap does not belong to a member, a member ends in
            a sigmoid or has other classes, or members with a single logit have a `temperature` or `most_confident`.

    Reference:
        Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531, section 5; You et al., KDD 2017,
        https://doi.org/10.1145/3097983.3098135

    Example:
    >>> other = keras.models.clone_model(teacher)
    >>> ensemble = Ensemble({"first": teacher, "second": other}, weights=[2, 1], temperature=4.0)
    >>> terms = [Term(KLDivergence(temperature=4.0)), Term(Hint(), "block_2", "first/block_4", head="auto")]
    >>> distiller = Distiller(student=student, teacher=ensemble, terms=terms)
    >>> per_example = Ensemble([teacher, other], weights=most_confident)
    """

    def __init__(
        self,
        members: Sequence[Any] | Mapping[str, Any],
        weights: Sequence[float] | Callable[[Tensor, Batch], Tensor] | None = None,
        temperature: ScheduleLike | None = None,
    ):
        if not isinstance(members, Mapping):
            members = {str(index): member for index, member in enumerate(members)}
        if len(members) < 2:
            raise ValueError(
                "An Ensemble needs two members or more. Pass a single teacher to the Distiller itself. "
                f"Received: {list(members)}"
            )
        self.members = {name: as_teacher(member) for name, member in members.items()}
        stored = [name for name, member in self.members.items() if member.stored]
        if stored:
            raise ValueError(
                f"The members {stored} are backed by precomputed activations, which cannot be averaged with those of a "
                "model. Average the stored logits instead and pass them to one CachedTeacher."
            )
        self.member_weights = weights if callable(weights) else _normalize_weights(weights, list(members))
        self.temperature = None if temperature is None else check_positive(temperature, "temperature")

    @property
    def signature(self) -> str:
        weights = self.member_weights
        shares = f"{weights.__module__}.{weights.__qualname__}" if callable(weights) else weights
        temperature = keras.saving.serialize_keras_object(self.temperature)
        members = [member.signature for member in self.members.values()]
        # Part of the fingerprint of caches: their text must not change.
        return f"shares {shares} temperature {temperature} members {members}"

    @property
    def weights(self) -> tuple:
        return tuple(weight for member in self.members.values() for weight in member.weights)

    @property
    def state(self) -> tuple:
        return tuple(variable for member in self.members.values() for variable in member.state)

    def after_step(self, student: keras.Model) -> None:
        for member in self.members.values():
            member.after_step(student)

    @property
    def models(self) -> tuple:
        return tuple(model for member in self.members.values() for model in member.models)

    def connect(self, taps: Sequence[str]) -> None:
        self._averaged = [tap for tap in taps if tap.partition("[")[0] == OUTPUT]
        # {tap: [member, tap of the member]}
        self._member_taps = {tap: tap.split("/", 1) for tap in taps if tap not in self._averaged}
        invalid = [tap for tap, parts in self._member_taps.items() if len(parts) < 2 or parts[0] not in self.members]
        if invalid:
            raise ValueError(
                f"Taps of an Ensemble are '{OUTPUT}', or a layer of one of its members {list(self.members)}, such as "
                f"'{next(iter(self.members))}/block_3'. Received: {invalid}"
            )
        # Copies, because a member may also belong to another ensemble or to a copy of this one, with other taps.
        self.members = {name: copy.copy(member) for name, member in self.members.items()}
        for name, member in self.members.items():
            member_taps = [tap for owner, tap in self._member_taps.values() if owner == name]
            member.connect(list(dict.fromkeys([*self._averaged, *member_taps])))

    def activations(self, batch: Batch) -> dict[str, Structure]:
        results = {name: member.activations(batch) for name, member in self.members.items()}
        activations = {}
        for tap in self._averaged:
            predictions = self._logits({name: result[tap] for name, result in results.items()}, tap)
            activations[tap] = self._average(list(predictions.values()), batch)
        for tap, (owner, member_tap) in self._member_taps.items():
            activations[tap] = results[owner][member_tap]
        return activations

    def _logits(self, predictions, tap):
        """Return the logits of the members' predictions, and check that they have the same classes."""
        nested = [name for name, logits in predictions.items() if keras.tree.is_nested(logits)]
        if nested:
            raise ValueError(f"The members {nested} have several outputs. Tap one of them, such as '{OUTPUT}[0]'.")
        purpose = f"the mean at '{tap}' is one of logits of classes"
        predictions = {
            name: logits_of_prediction(prediction, f"Member '{name}' of the Ensemble", purpose)
            for name, prediction in predictions.items()
        }
        shapes = {name: tuple(logits.shape) for name, logits in predictions.items()}
        if len({shape[-1] for shape in shapes.values()} - {None}) > 1:
            raise ValueError(
                f"The members of an Ensemble must have the same classes. Received at '{tap}': {shapes}. Map those of a "
                "member by ModelTeacher(member, classes=...)."
            )
        single = any(shape[-1] == 1 for shape in shapes.values())
        if single and (self.temperature is not None or self.member_weights is most_confident):
            raise ValueError(
                f"`temperature` and `most_confident` need two classes or more. Received at '{tap}': {shapes}. For "
                "members with a single logit, average the logits: `Ensemble(members)`."
            )
        return predictions

    def _average(self, predictions, batch):
        """Return the average of the logits, with the Keras mask of the first member that has one."""
        average = self._averaged_logits(predictions, batch)
        masks = [mask for mask in map(_compat.keras_mask, predictions) if mask is not None]
        if masks:
            _compat.set_keras_mask(average, masks[0])
        return average

    def _averaged_logits(self, predictions, batch):
        logits = ops.stack([ops.cast(prediction, "float32") for prediction in predictions])
        weights = self.member_weights
        weights = weights(logits, batch) if callable(weights) else ops.convert_to_tensor(weights)
        weights = ops.reshape(weights, (*ops.shape(weights), *[1] * (len(logits.shape) - len(weights.shape))))
        if self.temperature is None:
            # The product of a weight of 0 and the logit -inf of a masked class would be NaN.
            return ops.sum(ops.where(weights > 0, weights * logits, 0.0), axis=0)
        temperature = value_at(self.temperature, batch.step)
        # A weight of 0 has the logarithm -inf, which adds 0 to the sum of exponentials.
        log_probabilities = ops.log_softmax(logits / temperature, axis=-1) + ops.log(weights)
        return temperature * ops.logsumexp(log_probabilities, axis=0)


def most_confident(logits: Tensor, batch: Batch) -> Tensor:
    """Select the most confident member for each example, as the `weights` of an `Ensemble`.

    Args:
        logits: Shape `[members, batch, classes]`.
        batch: The `Batch`; not used.

    Returns:
        1 for the member with the highest class probability and 0 for the others, shape `[members, batch]`.
    """
    highest = ops.max(ops.log_softmax(logits, axis=-1), axis=-1)
    return ops.transpose(ops.one_hot(ops.argmax(highest, axis=0), logits.shape[0]))


def _normalize_weights(weights, names):
    values = [1.0] * len(names) if weights is None else [check_positive(w, "weights", zero=True) for w in weights]
    if len(values) != len(names) or not all(isinstance(value, float) for value in values) or not sum(values):
        raise ValueError(
            f"`weights` must be {len(names)} numbers >= 0, one for each of the members {names}, and not all 0. "
            f"Received: {values}"
        )
    return [value / sum(values) for value in values]
