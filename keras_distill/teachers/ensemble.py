"""Several teachers that speak as one."""

import copy

import keras
from keras import ops

from keras_distill.models.taps import OUTPUT
from keras_distill.schedules import check_positive, value_at
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.checks import check_logits
from keras_distill.teachers.model import as_teacher


class Ensemble(Teacher):
    """The mean of what several teachers predict, and the inner activations of each.

    ```
    z = sum_i w_i z_i                                      without a temperature
    z = T * log(sum_i w_i softmax(z_i / T))                with one: softmax(z / T) is the mean of the probabilities
    ```

    ```python
    Ensemble([first, second, third])
    Ensemble({"wide": wide, "deep": deep}, weights=[2, 1], temperature=4.0)
    Ensemble([first, second], weights=most_confident)
    ```

    The taps "output" and "output[...]" give the mean; "wide/block_3" taps a layer of the member "wide", and
    "wide/output" its own prediction. Members without names are called "0", "1" and so on. Each runs once a step.
    Members give logits, all of the same classes; `ModelTeacher(member, classes=...)` maps those of one that has others.

    Args:
        members: Two or more of what `Distiller` takes as a teacher, in a list or under names in a dictionary.
        weights: One number for each, of which the mean makes shares; or a function from the members' logits, shape
            `[members, batch, ..., classes]`, and the `Batch` to shares of shape `[members, batch]`, such as
            `most_confident`. Defaults to equal shares.
        temperature: That of the term which compares the prediction, a number or a schedule. Defaults to None, the mean
            of the logits.

    Raises:
        ValueError: For less than two members, wrong weights, or a tap that names no member; when the distiller is made,
            for a member that gives probabilities or has other classes.

    Reference:
        Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531, section 5; You et al., KDD 2017,
        https://doi.org/10.1145/3097983.3098135
    """

    def __init__(self, members, weights=None, temperature=None):
        members = members if isinstance(members, dict) else {str(index): m for index, m in enumerate(members)}
        if len(members) < 2:
            raise ValueError(f"An Ensemble has two members or more. Received: {list(members)}.")
        self.members = {name: as_teacher(member) for name, member in members.items()}
        stored = [name for name, member in self.members.items() if member.stored]
        if stored:
            raise ValueError(f"The members {stored} do not run: their activations come with the batch. Average these.")
        self.shares = weights if callable(weights) else _shares(weights, list(members))
        self.temperature = None if temperature is None else check_positive(temperature, "temperature")

    @property
    def signature(self):
        shares = f"{self.shares.__module__}.{self.shares.__qualname__}" if callable(self.shares) else self.shares
        temperature = keras.saving.serialize_keras_object(self.temperature)
        members = [member.signature for member in self.members.values()]
        return f"shares {shares} temperature {temperature} members {members}"

    @property
    def weights(self):
        return tuple(weight for member in self.members.values() for weight in member.weights)

    @property
    def models(self):
        return tuple(model for member in self.members.values() for model in member.models)

    def connect(self, taps):
        self._combined = [tap for tap in taps if tap.partition("[")[0] == OUTPUT]
        self._single = {tap: tap.split("/", 1) for tap in taps if tap not in self._combined}
        strange = [tap for tap, parts in self._single.items() if len(parts) < 2 or parts[0] not in self.members]
        if strange:
            raise ValueError(
                f"An Ensemble is tapped at '{OUTPUT}', or at a layer of one of its members {list(self.members)}, such "
                f"as '{next(iter(self.members))}/block_3'. Received: {strange}."
            )
        # Of its own: members may belong to another ensemble, too, a copy of this one, with other taps.
        self.members = {name: copy.copy(member) for name, member in self.members.items()}
        for name, member in self.members.items():
            own = [tap for owner, tap in self._single.values() if owner == name]
            member.connect(list(dict.fromkeys([*self._combined, *own])))

    def activations(self, batch):
        found = {name: member.activations(batch) for name, member in self.members.items()}
        single = {tap: found[owner][inner] for tap, (owner, inner) in self._single.items()}
        for tap in self._combined:
            self._check({name: f[tap] for name, f in found.items()}, tap)
        return {tap: self._mean([f[tap] for f in found.values()], batch) for tap in self._combined} | single

    def _check(self, predictions, tap):
        nested = [name for name, logits in predictions.items() if keras.tree.is_nested(logits)]
        if nested:
            raise ValueError(f"The members {nested} have several outputs. Tap one, such as '{OUTPUT}[0]'.")
        for name, logits in predictions.items():
            check_logits(logits, f"Member '{name}' of the Ensemble", f"the mean at '{tap}' is one of logits")
        shapes = {name: tuple(logits.shape) for name, logits in predictions.items()}
        if len({shape[-1] for shape in shapes.values()} - {None}) > 1:
            raise ValueError(
                f"The members of an Ensemble must have the same classes. Received at '{tap}': {shapes}. Map them with "
                "ModelTeacher(member, classes=...)."
            )

    def _mean(self, logits, batch):
        logits = ops.stack([ops.cast(z, "float32") for z in logits])
        shares = self.shares(logits, batch) if callable(self.shares) else ops.convert_to_tensor(self.shares)
        shares = ops.reshape(shares, (*ops.shape(shares), *[1] * (len(logits.shape) - len(shares.shape))))
        if self.temperature is None:
            return ops.sum(shares * logits, axis=0)
        temperature = value_at(self.temperature, batch.step)
        # A share of 0 has the logarithm -inf, which counts for nothing below.
        log_probabilities = ops.log_softmax(logits / temperature, axis=-1) + ops.log(shares)
        return temperature * ops.logsumexp(log_probabilities, axis=0)


def most_confident(logits, batch):
    """Shares of an `Ensemble` that give each example the member with the most probable class.

    Args:
        logits: Shape `[members, batch, classes]`.
        batch: The `Batch`.

    Returns:
        1 for that member and 0 for the others, shape `[members, batch]`.
    """
    highest = ops.max(ops.log_softmax(logits, axis=-1), axis=-1)
    return ops.transpose(ops.one_hot(ops.argmax(highest, axis=0), logits.shape[0]))


def _shares(weights, names):
    weights = [1.0] * len(names) if weights is None else [check_positive(w, "weights", zero=True) for w in weights]
    if len(weights) != len(names) or not all(isinstance(w, float) for w in weights) or not sum(weights):
        raise ValueError(f"`weights` must be {len(names)} numbers, one for each of {names}. Received: {weights}.")
    return [weight / sum(weights) for weight in weights]
