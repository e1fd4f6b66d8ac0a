"""What is wrong with gradients and steps, seen in a few trial steps."""

import warnings

import numpy as np
import tensorflow as tf

from keras_distill import _compat
from keras_distill.distribution import replicas
from keras_distill.preflight.finding import Finding
from keras_distill.preflight.probe import SUPERVISED

# Batches that are learnt from in the trial, and how often.
BATCHES, VISITS = 4, 3
# Batches over which gradients of parts are compared: each part takes a pass of its own.
SHARED = 2
# A part with more of the gradient turns its direction by less than a hundredth when all others are left out.
DOMINATES = 0.99
# How many times its first value the loss must have, on the same batches. A good step may raise it a little, since
# moments and statistics of normalisation are still those of the first batches.
RISES = 3.0
# By what part of their length weights must have moved in all before a rise is laid at the learning rate's door.
FAR = 0.1
# Part of their length by which weights move a step. Trainings that learn have about 1e-3, fine-tunings 1e-4; at this
# one, 200,000 steps in one direction are needed for the first full length.
NEAR = 5e-6
_AHEAD = 0, 100, 1_000, 10_000, 100_000


class TrialSteps:
    """Some steps of training, as `fit` would make them, but with all weights of terms at the most they will be.

    Attributes:
        probe: The `Probe`.
        look: The `Look` before.
        then: The `Look` afterwards, at the batches that were learnt from.
        before, after: Weighted losses on these batches, in training.
        broken: Names of weights whose gradient is not finite.
        norms: `{part: norm of its weighted gradient over the student's weights}`.
        moved: How far the student's weights moved, over their length.
        rates: The learning rate of each step.
        peak: The highest one ahead.
        steps: How many steps were made.
    """

    def __init__(self, probe, look):
        self.probe, self.look = probe, look
        self._distiller, self._optimizer = probe.distiller, probe.distiller.optimizer
        self._accumulated = replicas.innermost_optimizer(self._optimizer).gradient_accumulation_steps or 1
        self._weights = probe.weights(look.parts)
        self._batches = probe.batches[:BATCHES]
        self._student = {id(variable) for variable in self._distiller.student.trainable_variables}
        first = [probe.gradient(data, self._weights) for data in self._batches]
        self.before = float(np.mean([total for _, total, _ in first]))
        self.broken = sorted({name for _, _, gradients in first for name in self._infinite(gradients)})
        self.norms = self._norms()
        self.peak, self.rates, self.steps = self._peak(), [], 0
        with warnings.catch_warnings():
            # Keras tells of weights without gradient at each step.
            warnings.simplefilter("ignore")
            self._go()
        self.then = probe.look(len(self._batches))

    def _go(self):
        student = self._distiller.student.trainable_variables
        old = [np.array(variable, "float32") for variable in student]
        for data in self._batches * VISITS * self._accumulated:
            _, total, gradients = self.probe.gradient(data, self._weights, float(self._optimizer.scale_loss(1.0)))
            if not np.isfinite(total) or all(gradient is None for gradient in gradients):
                break
            self.rates.append(float(self._optimizer.learning_rate))
            self._distiller._update(gradients)
            self.steps += 1
        new = [np.array(variable, "float32") for variable in student]
        self.moved = _length([a - b for a, b in zip(new, old)]) / max(_length(old), 1e-12)
        self.after = float(np.mean([self.probe.gradient(data, self._weights)[1] for data in self._batches]))

    def _norms(self):
        norms = {part: [] for part in self._weights}
        nothing = dict.fromkeys(self._weights, 0.0)
        for data in self._batches[:SHARED]:
            # That of the regularisers, which come with every part.
            added = self._dense(self.probe.gradient(data, nothing)[2])
            for part, weight in self._weights.items():
                alone = self._dense(self.probe.gradient(data, {**nothing, part: weight})[2])
                norms[part].append(_length([a - b for a, b in zip(alone, added)]))
        return {part: float(np.mean(lengths)) for part, lengths in norms.items()}

    def _dense(self, gradients):
        return [
            np.zeros(1, "float32") if gradient is None else np.array(tf.convert_to_tensor(gradient), "float32")
            for gradient, variable in zip(gradients, self._distiller.trainable_variables)
            if id(variable) in self._student
        ]

    def _infinite(self, gradients):
        for gradient, variable in zip(gradients, self._distiller.trainable_variables):
            if gradient is not None:
                values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
                if not np.isfinite(np.array(values, "float32")).all():
                    yield variable.path

    def _peak(self):
        # That which is shown goes up once in as many steps as are accumulated.
        counter = _compat.step_counter(replicas.innermost_optimizer(self._optimizer))
        now, rates = int(counter), []
        for ahead in _AHEAD:
            counter.assign(now + ahead * self._accumulated)
            rates.append(float(self._optimizer.learning_rate))
        counter.assign(now)
        return max(rates)


def gradients(trial):
    """Gradients that are not finite, do not arrive, or come from one part alone."""
    student = trial.probe.distiller.student
    if trial.broken:
        return [
            Finding(
                "not finite",
                "The gradient holds NaN or infinity, though the losses are finite.",
                f"{len(trial.broken)} weights, such as '{trial.broken[0]}'",
                "Look for roots, divisions and logarithms at 0 in the student, in heads and in losses of your own.",
            )
        ]
    there = {
        part: weight * trial.look.parts[part]
        for part, weight in trial.probe.weights(trial.look.parts).items()
        if abs(weight * trial.look.parts[part]) > 1e-8
    }
    total = sum(trial.norms.values())
    if not student.trainable_variables or (there and not total):
        count = (
            f"{len(student.trainable_variables)} of {len(student.weights)} weights of '{student.name}' are trainable"
        )
        return [
            Finding(
                "frozen student",
                f"The student '{student.name}' cannot learn: no gradient reaches its weights.",
                count if not student.trainable_variables else f"{count}, and the gradients of all are 0",
                "Set `student.trainable = True` before the distiller is made; look for ops.stop_gradient, argmax and "
                "rounding in its layers.",
            )
        ]
    found = [
        Finding(
            "no gradient",
            f"{part[0].upper()}{part[1:]} teaches nothing: its gradient reaches none of the student's weights.",
            f"weighted value {there[part]:.3g}, gradient 0",
            "Tap a layer with trained weights at or before it, and look at activations that are saturated.",
        )
        for part in there
        if not trial.norms[part]
    ]
    largest = max(trial.norms, key=trial.norms.get, default=None)
    active = [part for part in there if trial.norms[part]]
    if len(active) > 1 and trial.norms[largest] > DOMINATES * total:
        shares = ", ".join(f"{part} {norm / total:.2%}" for part, norm in trial.norms.items())
        factor = trial.norms[largest] / max(total - trial.norms[largest], 1e-30)
        weight = "`supervised_weight`" if largest == SUPERVISED else f"the weight of {largest}"
        found.append(
            Finding(
                "drowned terms",
                f"{largest[0].upper()}{largest[1:]} drowns all others: the student learns from it alone.",
                f"shares of the gradient: {shares}",
                f"Divide {weight} by up to {factor:.2g}, or use Balance, which finds the weight of a term by itself.",
            )
        )
    return found


def learning_rate(trial):
    """A learning rate at which the loss rises at once, or nothing moves."""
    if trial.broken or not trial.norms or not sum(trial.norms.values()):
        return []
    rates = f"learning rate {trial.peak:.3g}, {trial.steps} steps"
    rises = not np.isfinite(trial.after) or trial.after - trial.before > (RISES - 1) * abs(trial.before)
    if rises and trial.moved > FAR or not np.isfinite(trial.moved):
        return [
            Finding(
                "learning rate too high",
                "The loss explodes within a few steps.",
                f"{trial.before:.3g} before and {trial.after:.3g} after; {rates}, weights moved by {trial.moved:.1%}",
                f"Try {trial.peak / 10:.1g} and less, `clipnorm=1.0`, or a learning rate that warms up.",
            )
        ]
    travelled = sum(trial.rates)
    a_step = trial.moved / travelled * trial.peak if travelled else float(trial.peak > 0)
    if a_step < NEAR:
        return [
            Finding(
                "learning rate too low",
                "The student's weights hardly move.",
                f"by {a_step:.1g} of their length a step; {rates}",
                f"Try {max(trial.peak, 1e-8) * 100:.1g}; Adam commonly starts at 1e-3 for new networks and 1e-5 to "
                "1e-4 for trained ones.",
            )
        ]
    return []


def _length(arrays):
    return float(np.sqrt(sum(np.square(array, dtype="float64").sum() for array in arrays)))
