"""What is wrong with what models and labels say: no logits, no classes, no good teacher."""

import keras
import numpy as np

from keras_distill.data.batch import unpack
from keras_distill.data.labels import label_mask
from keras_distill.losses import ChunkedCrossentropy
from keras_distill.models.specs import Spec
from keras_distill.models.taps import OUTPUT
from keras_distill.preflight.finding import Finding
from keras_distill.preflight.probe import SUPERVISED

# Standard deviations by which a count must differ from what chance gives.
CHANCE, SURELY = 2.0, 3.0
# Labelled examples below which nothing is said of how right a teacher is; and of those, which a constant guess misses.
ENOUGH, TELLING = 32, 16
# By how much the teacher's mean confidence may exceed its accuracy; overconfident networks have 0.1 to 0.2.
OVERCONFIDENT = 0.3
# By how much another order of the classes must be right more often.
REORDERED = 0.1
# Mean lack of entropy, of 1: below, all classes have within about 2 % the same probability.
UNIFORM = 1e-4
# Mean probability outside of the teacher's class: below, its soft targets are class numbers.
CERTAIN = 1e-4
# How far a row of probabilities may be from the sum 1.
_SUM = 1e-2


def labels(distiller, batches):
    """Labels that are no classes of the student's output."""
    found = []
    for place, (entry, spec, loss) in enumerate(_supervised(distiller)):
        if loss is None or not isinstance(spec, Spec) or isinstance(loss, ChunkedCrossentropy):
            continue
        rows = [row for data in batches for row in _labels(unpack(data, 0).labels, entry, place, spec)]
        values = np.concatenate(rows) if rows else np.zeros(0)
        name = f"labels{f' {entry!r}' if entry is not None else ''}"
        classes = spec.shape[-1]
        if values.ndim == 1 and classes > 1:
            wrong = values[(values < 0) | (values >= classes) | (values != np.round(values))]
            should = f"whole numbers from 0 to {classes - 1}, and -1 where there is none"
        elif _is(loss, "CategoricalCrossentropy") or _is(loss, "BinaryCrossentropy"):
            wrong = values[(values < 0) | (values > 1)]
            should = "from 0 to 1"
            if _is(loss, "CategoricalCrossentropy") and not len(wrong) and values.ndim > 1:
                wrong = values.sum(-1)[np.abs(values.sum(-1) - 1) > _SUM]
                should = "rows of the sum 1"
        else:
            continue
        if len(wrong):
            found.append(
                Finding(
                    "labels out of range",
                    f"The {name} do not fit the student's output of {classes} "
                    f"{'classes' if classes > 1 else 'number'}.",
                    f"{len(wrong)} of {values.size}, such as {sorted(set(wrong.ravel().tolist()))[:5]}; allowed are "
                    f"{should}",
                    "Number the classes from 0, or give the student's last layer as many units as there are classes.",
                )
            )
    return found


def probabilities(distiller, look):
    """Outputs of a softmax where logits are compared; those that a graph shows were refused already."""
    wanted = {("student", ours) for ours, _ in look.answers} | {("teacher", theirs) for _, theirs in look.answers}
    if SUPERVISED in look.parts and getattr(distiller.loss, "from_logits", False):
        wanted.add(("student", OUTPUT))
    found = []
    for side, tap in sorted(wanted):
        activity = getattr(look, side).get(tap)
        if activity is not None and activity.examples and activity.probable:
            found.append(
                Finding(
                    "probabilities",
                    f"The {side} gives probabilities at '{tap}', where logits are taken: they would be softened twice.",
                    f"no number is below 0, and every row adds up to 1, over {activity.examples} examples",
                    f"Take the softmax off the {side}; of stored probabilities take the logarithm, whose softmax they "
                    "are.",
                )
            )
    return found


def answers(probe, look):
    """A teacher that is not right: under another order of classes, by chance, surely wrong, less than the student."""
    found = []
    for (_, tap), answers in look.answers.items():
        said = answers.said
        count = len(said.labels)
        if count < ENOUGH:
            continue
        right, ours = said.teacher == said.labels, said.student == said.labels
        seen = f"it is right on {right.sum()} of {count} labelled examples ({right.mean():.1%})"
        chance, spread, missed = _by_chance(said)
        order = _order(said, answers.classes)
        if order is not None:
            mapped, classes = order
            listed = ", ".join(str(c) for c in classes[:12]) + (", ..." if len(classes) > 12 else "")
            finding = Finding(
                "class order",
                f"The teacher at '{tap}' has other classes in the places of the labels'.",
                f"{seen}, and under another order on {mapped:.1%}",
                f"Wrap it as ModelTeacher(teacher, classes=[{listed}]), or number the labels as it does.",
            )
        elif missed >= TELLING and right.sum() <= count * chance + CHANCE * spread:
            finding = Finding(
                "teacher by chance",
                f"The teacher at '{tap}' is no better than chance.",
                f"{seen}; chance gives {chance:.1%}",
                "Evaluate it alone: were its weights loaded, and do its inputs get the preprocessing that it was "
                "trained with? ModelTeacher(teacher, inputs=...) gives it one of its own.",
            )
        elif said.confidence.mean() - right.mean() > OVERCONFIDENT:
            finding = Finding(
                "teacher sure and wrong",
                f"The teacher at '{tap}' is sure of itself where the labels say otherwise.",
                f"{seen}, with a mean confidence of {said.confidence.mean():.1%}",
                "Compare the preprocessing with that of its training (scale, colour order, resolution, tokens), and "
                "the labels with its classes.",
            )
        elif _ahead(ours, right) > SURELY:
            finding = Finding(
                "teacher worse than student",
                f"The student is right more often than the teacher at '{tap}' before it learnt anything from it.",
                f"{seen}, the student on {ours.sum()} ({ours.mean():.1%})",
                "Exchange the two, or look for a fault in how the teacher is loaded and fed.",
            )
        else:
            continue
        found.append(finding)
    return found


def temperatures(probe, look):
    """Temperatures at which what the teacher says carries nothing."""
    found = []
    for answers in look.answers.values():
        for name, (outside, lack) in answers.softness.items():
            loss = type(probe.terms[name].loss).__name__
            seen = f"mean probability outside of its most probable class {outside:.2g}, of {answers.classes} classes"
            if lack < UNIFORM:
                found.append(
                    Finding(
                        "temperature too high",
                        f"At the temperature of {name} ({loss}) the teacher gives all classes the same probability.",
                        f"{seen}; {1 - 1 / answers.classes:.6g} would be evenly spread",
                        "Lower it: 2 to 8 is common. If its logits are small, look at whether the teacher was trained.",
                    )
                )
            elif outside < CERTAIN:
                found.append(
                    Finding(
                        "temperature too low",
                        f"At the temperature of {name} ({loss}) the teacher's soft targets are plain class numbers.",
                        seen,
                        "Raise it until the mean probability outside is a few hundredths: 2 to 8 is common.",
                    )
                )
    return found


def _supervised(distiller):
    """`(entry or None, Spec, loss)` of each output that is learnt from labels."""
    spec, loss = distiller._traced.student[OUTPUT], distiller.loss
    if loss is None:
        return []
    if isinstance(spec, Spec):
        return [(None, spec, loss[0] if isinstance(loss, (list, tuple)) and len(loss) == 1 else loss)]
    names = list(spec) if isinstance(spec, dict) else list(range(len(spec)))
    outputs = getattr(distiller.student, "output_names", None) or names
    specs = list(spec.values()) if isinstance(spec, dict) else list(spec)
    found = []
    for place, (name, output, each) in enumerate(zip(names, outputs, specs)):
        if isinstance(loss, dict):
            own = loss.get(name, loss.get(output))
        else:
            own = loss[place] if isinstance(loss, (list, tuple)) else loss
        found.append((name if isinstance(name, str) else output, each, own))
    return found


def _labels(labels, entry, place, spec):
    """The labels of an output that are there: of shape `[labels]` for class numbers, else `[labels, components]`."""
    if isinstance(labels, dict):
        labels = labels.get(entry)
    elif isinstance(labels, (list, tuple)):
        labels = labels[place]
    if labels is None:
        return
    present = np.asarray(label_mask(labels, spec))
    values = np.asarray(labels)
    if values.ndim == len(spec.shape) and values.shape[-1] == 1 and spec.shape[-1] != 1:
        values = values[..., 0]
    yield values[present]


def _is(loss, kind):
    name = {"CategoricalCrossentropy": "categorical_crossentropy", "BinaryCrossentropy": "binary_crossentropy"}[kind]
    return loss == name or isinstance(loss, getattr(keras.losses, kind))


def _by_chance(said):
    """How often guesses that know nothing of the example would be right, `(share, standard deviation of the count)`,
    and how many labels the most frequent ones would miss.
    """
    size = 1 + int(max(said.labels.max(), said.teacher.max()))
    labels, guesses = (np.bincount(x, minlength=size) / len(x) for x in (said.labels, said.teacher))
    chance = float(labels @ guesses)
    return chance, (len(said.labels) * chance * (1 - chance)) ** 0.5, len(said.labels) * (1 - labels.max())


def _order(said, classes):
    """Under which order of its classes the teacher is right, `(share, [its class for each label])`; None if there is
    none, or nothing to be gained.
    """
    # Found on one half of the examples, and judged on the other.
    found = np.arange(len(said.labels)) % 2 == 0
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (said.teacher[found], said.labels[found]), 1)
    meant = np.where(counts.any(1), counts.argmax(1), -1)
    used = meant[meant >= 0]
    if len(set(used)) < len(used) or len(used) < 2:
        return None
    other = said.teacher[~found], said.labels[~found]
    mapped, right = meant[other[0]] == other[1], other[0] == other[1]
    if mapped.mean() - right.mean() < REORDERED or _ahead(mapped, right) < SURELY:
        return None
    # Classes of which nothing was seen keep their places as far as these are free.
    order = {int(label): int(place) for place, label in enumerate(meant) if label >= 0}
    free = [place for place in range(classes) if place not in order.values()]
    for label in range(classes):
        if label not in order:
            order[label] = label if label in free else free[0]
            free.remove(order[label])
    return float(mapped.mean()), [order[label] for label in range(classes)]


def _ahead(first, second):
    """By how many standard deviations the first is right more often than the second, over those where they differ."""
    better, worse = (first & ~second).sum(), (second & ~first).sum()
    return (better - worse) / max((better + worse) ** 0.5, 1.0)
