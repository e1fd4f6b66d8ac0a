"""Argument validation before training."""

import itertools
import warnings
from collections.abc import Iterable
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.models.lm_head import logits_layer
from keras_distill.models.masking import mask_fits
from keras_distill.models.specs import Spec
from keras_distill.models.taps import tap_names
from keras_distill.teachers.checks import check_finite_weights, non_finite_weights, shorten
from keras_distill.training.strategy_checks import check_scope
from keras_distill.training.term import Term
from keras_distill.types import Structure

_CROSSENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
)


# Preprocessing layers, whose weights training never changes.
_CONSTANT = (
    keras.layers.Discretization,
    keras.layers.IntegerLookup,
    keras.layers.Normalization,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)


# Arguments of `keras.distillation.Distiller` and of the Distiller in Keras' examples, and what replaces them.
_REPLACED = {
    "distillation_losses": "`terms=[Term(loss, ...)]`",
    "distillation_loss_weights": "the `weight` of each `Term`",
    "student_loss_weight": "`supervised_weight` of the Distiller",
    "student_loss_fn": "`loss` of `compile`",
    "distillation_loss_fn": "`terms=[Term(loss, weight=...)]` of the Distiller",
    "alpha": "`supervised_weight=alpha` of the Distiller, and `weight=1 - alpha` of its term",
    "temperature": "`terms=[Term(KLDivergence(temperature))]` of the Distiller",
}


def check_arguments(args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise TypeError for positional arguments, whose order in `keras.distillation` would train the teacher."""
    if args:
        raise TypeError(
            "Distiller takes keyword arguments only: Distiller(student=..., teacher=..., terms=...). "
            "keras.distillation.Distiller takes (teacher, student, ...), other libraries (student, teacher, ...)."
        )
    check_keywords(kwargs)


def check_keywords(kwargs: dict[str, Any]) -> None:
    """Raise TypeError for the keyword arguments of other distillers, with those that replace them."""
    replaced = [f"`{name}` by {new}" for name, new in _REPLACED.items() if name in kwargs]
    if replaced:
        raise TypeError(f"These are arguments of another Distiller. Replace {'; '.join(replaced)}.")


def warn_of_preprocessor(student: keras.Model) -> None:
    """Warn of a model of KerasHub whose own `fit` would preprocess the data.

    Args:
        student: The student.
    """
    if getattr(student, "preprocessor", None) is not None:
        warnings.warn(
            f"A distiller does not apply the preprocessor of '{student.name}', as its own `fit` does. Map it over the "
            "dataset, `dataset.map(student.preprocessor)`, and make the model with `preprocessor=None`.",
            stacklevel=4,
        )


def check_models(student: keras.Model, teacher: Any) -> None:
    """Check that the student shares no weights with the teacher, and that the teacher's weights are finite.

    Args:
        student: The student.
        teacher: A `Teacher`.

    Raises:
        ValueError: For a student that is not a `keras.Model`, shared weights, NaN or infinity in the teacher's weights,
            and models made under another strategy. The error names the weights.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(f"`student` must be a keras.Model. Received: {student!r}")
    check_train_step(student)
    check_scope({f"student '{student.name}'": student, "teacher": teacher})
    if any(model is student for model in teacher.models):
        raise ValueError(
            f"Student and teacher are the same model, '{student.name}'. Train a copy: keras.models.clone_model."
        )
    check_shared_weights(student, teacher)
    check_finite_weights(teacher)


def check_shared_weights(student: keras.Model, teacher: Any) -> None:
    """Check that training the student does not change weights of the teacher.

    Args:
        student: The student.
        teacher: A `Teacher`.

    Raises:
        ValueError: For shared weights, but for those of frozen layers and of preprocessing layers.
    """
    shared = _shared_weights(student, teacher)
    if shared:
        raise ValueError(
            f"'{student.name}' shares the weights {shorten(shared)} with its teacher, which must not change during "
            "training. Build the student from its own layers and copy the values with `set_weights`, or freeze the "
            "shared layers, `layer.trainable = False`."
        )


def check_peers(peers: dict[str, keras.Model]) -> None:
    """Check that peers are at least two models without shared weights.

    Args:
        peers: `{name: model}`.

    Raises:
        ValueError: For another type, fewer than two peers, peers without a name, shared weights, NaN or infinity in the
            weights, and models made under another strategy.
    """
    if not isinstance(peers, dict):
        raise ValueError(f"`peers` must be a list of models or a dictionary {{name: model}}. Received: {peers!r}")
    if len(peers) < 2:
        raise ValueError(f"Mutual distillation needs at least two peers. Received: {list(peers)}.")
    invalid = {name: peer for name, peer in peers.items() if not isinstance(peer, keras.Model)}
    if invalid:
        raise ValueError(f"Each peer must be a keras.Model. Received: {invalid!r}")
    for name, peer in peers.items():
        check_train_step(peer)
        if logits_layer(peer) is not None:
            raise ValueError(f"Peer '{name}' returns hidden states. Pass the model of logits, without HiddenStates.")
    invalid = [name for name in peers if not (isinstance(name, str) and name) or set(name) & set("/[]@")]
    if invalid:
        raise ValueError(f"Each peer needs a non-empty name without '/', '[', ']' and '@'. Received: {invalid}.")
    for (first, one), (second, other) in itertools.combinations(peers.items(), 2):
        shared = _shared_weights(one, other)
        if one is other or shared:
            what = f"the weights {shorten(shared)}" if one is not other else "one model"
            raise ValueError(
                f"The peers '{first}' and '{second}' share {what}, so that they would always agree there. Build each "
                "peer from its own layers."
            )
    check_scope({f"peer '{name}'": peer for name, peer in peers.items()})
    for name, peer in peers.items():
        broken = non_finite_weights(peer.weights)
        if broken:
            raise ValueError(f"The weights {shorten(broken)} of peer '{name}' contain NaN or infinity.")


def check_train_step(model: keras.Model) -> None:
    """Check that a model to train has the training step of Keras, which the distiller's replaces.

    Args:
        model: The student or a peer.

    Raises:
        ValueError: For a model that overrides `train_step`.
    """
    if getattr(type(model), "train_step", None) is not keras.Model.train_step or "train_step" in vars(model):
        raise ValueError(
            f"'{model.name}' ({type(model).__name__}) overrides `train_step`, which a distiller replaces. Move its "
            "loss to `compute_loss(x, y, y_pred, sample_weight, training)`, which a distiller calls."
        )


def check_predictions(predictions: dict[str, Structure], tap: str) -> None:
    """Check that peers predict logits of the same classes.

    Args:
        predictions: `{peer: Spec}`, or a structure of `Spec` for a model of several outputs.
        tap: Tap of the predictions.

    Raises:
        ValueError: For a model of several outputs, and for different numbers of classes.
    """
    for name, spec in predictions.items():
        if not isinstance(spec, Spec):
            entries = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
            raise ValueError(
                f"Peer '{name}' returns a structure with the entries {entries}. Choose one: "
                f"logits='{tap}[{entries[0]}]'."
            )
    shapes = {name: spec.shape for name, spec in predictions.items()}
    if len({shape[-1:] for shape in shapes.values()}) > 1:
        raise ValueError(f"Peers must have the same classes in the same order. Received at '{tap}': {shapes}.")


def check_masks(users: Iterable[Any], inputs: Structure, students: dict[str, Spec]) -> None:
    """Check that the `mask` of terms and metrics is an input that fits the activation.

    Args:
        users: Terms or `DistillationMetric`s.
        inputs: Structure of `tf.TensorSpec`.
        students: `{tap: Spec}` of the student.

    Raises:
        ValueError: For a mask that is not an input, and for one of another shape.
    """
    for user in users:
        if user.mask is None:
            continue
        kind = "term" if isinstance(user, Term) else "metric"
        if not isinstance(inputs, dict) or user.mask not in inputs:
            available = list(inputs) if isinstance(inputs, dict) else "a single tensor or a list, which have no names"
            raise ValueError(
                f"The mask of {kind} '{user.name}' is the input '{user.mask}', which does not exist. "
                f"Inputs: {available}."
            )
        tap, mask = tap_names(user.student)[0], inputs[user.mask]
        shape, axes = students[tap].shape, len(mask.shape) - 1
        # A term resizes the mask of an image, and takes logits whose classes are positions.
        of_classes = kind == "term" and user.logits and mask_fits(mask, Spec((*shape, 1), "", ""))
        resized = kind == "term" and axes in (2, 3) and axes == len(shape) - 2
        if not axes or not (mask_fits(mask, students[tap]) or of_classes or resized):
            raise ValueError(
                f"The mask '{user.mask}' of {kind} '{user.name}' has shape {tuple(mask.shape)}, which does not fit "
                f"student '{tap}' of shape {students[tap].shape}: its axes must be the leading axes of that shape."
            )


def check_supervised_loss(parts: dict[str, Any], supervised: bool) -> None:
    """Check that there is a supervised loss where a weight needs one.

    Args:
        parts: `{log name: WeightedLoss}`.
        supervised: Whether there is a supervised loss.

    Raises:
        ValueError: For a weight that follows the supervised loss if there is none.
    """
    names = [name.removesuffix("_loss") for name, part in parts.items() if part.weight.needs_supervised_loss]
    if names and not supervised:
        raise ValueError(
            f"The weights of the terms {names} follow the supervised loss, but `compile` got no loss. Pass "
            "`loss=`, or use numbers as weights."
        )


def check_log_names(parts: Iterable[str], outputs: Iterable[str]) -> None:
    """Check that the loss of no output has the log name of a part of the total loss, which it would replace.

    Args:
        parts: Log names of the parts of the total loss.
        outputs: Log names of the losses of outputs.

    Raises:
        ValueError: For a name that is in both.
    """
    repeated = [name for name in outputs if name in parts]
    if repeated:
        raise ValueError(
            f"The logs would have {repeated} twice: the supervised loss of an output and another part of the total "
            "loss have the same name. Rename the term (`Term(..., name=...)`), the peer or the output."
        )


def warn_if_logits_taken_for_probabilities(loss: Any, output: Structure) -> None:
    """Warn of a cross-entropy with the default `from_logits=False` on an output that does not end in a softmax.

    Args:
        loss: Loss given to `compile`.
        output: `Spec` of the student's output, or a structure of several.
    """
    name = loss if isinstance(loss, str) else type(loss).__name__
    by_name = loss in ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")
    if not (by_name or isinstance(loss, _CROSSENTROPIES) and not loss.from_logits):
        return
    if isinstance(output, Spec) and not output.probabilities:
        warnings.warn(
            f"The loss '{name}' expects probabilities, but the student's output does not end in a softmax or sigmoid. "
            "If the output holds logits, pass the loss as an object with from_logits=True.",
            stacklevel=4,
        )


def _shared_weights(model, other):
    """Return the paths of shared weights that training changes: not those of frozen layers and of preprocessing."""
    own = {id(weight) for weight in model.weights}
    trained = {id(weight) for weight in model.trainable_weights}
    constant = {
        id(weight)
        for layer in _compat.flatten_layers(model)
        if isinstance(layer, _CONSTANT) or not layer.trainable
        for weight in layer.non_trainable_weights
    }
    return [weight.path for weight in other.weights if id(weight) in own and id(weight) not in constant - trained]
