"""Checks of gradients and of the learning rate, by a few trial training steps."""

import warnings
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _compat
from keras_distill.distribution import replicas
from keras_distill.preflight.finding import Finding, capitalize
from keras_distill.preflight.probe import STEPS_AHEAD, SUPERVISED, ForwardStats, Probe
from keras_distill.utils.formatting import format_percent

# Number of batches in the trial steps, and of passes over them.
NUM_BATCHES, NUM_EPOCHS = 4, 3
# Number of batches on which gradients of single losses are compared. Each loss takes a separate pass.
NUM_GRADIENT_BATCHES = 2
# Share of the gradient norm from which a loss dominates: leaving out all other losses then changes the direction of
# the gradient by less than a hundredth.
DOMINANT = 0.99
# Ratio of the loss after the trial steps to the loss before, on the same batches. A suitable learning rate may raise
# the loss a little, because optimizer moments and batch-norm statistics are still those of the first batches.
EXPLODED = 3.0
# Relative change of the weights from which a rise of the loss is attributed to the learning rate.
LARGE_CHANGE = 0.1
# Relative change of the weights per step below which the learning rate is too low. Training from scratch has about
# 1e-3, fine-tuning 1e-4; with this value the weights need 200,000 steps in one direction to change by their own norm.
SMALL_STEP = 5e-6


class TrialSteps:
    """A few training steps as in `fit`, but with every loss weight at the largest value of its schedule.

    Args:
        probe: The `Probe` of the distiller.
        stats: The `ForwardStats` before the steps.

    Attributes:
        probe: The `Probe`.
        stats: `ForwardStats` before the steps.
        stats_after: `ForwardStats` after the steps, on the batches used for training.
        loss_before: Mean weighted loss on these batches before the steps, in training mode.
        loss_after: The same after the steps.
        nonfinite_gradients: Paths of the weights whose gradient is not finite.
        gradient_norms: `{loss: norm of its weighted gradient with respect to the student's weights}`.
        relative_change: Norm of the change of the student's weights, divided by their norm.
        learning_rates: Learning rate of each step.
        peak_learning_rate: Largest learning rate of the schedule.
        num_steps: Number of steps.
    """

    def __init__(self, probe: Probe, stats: ForwardStats):
        self.probe, self.stats = probe, stats
        self._distiller, self._optimizer = probe.distiller, probe.distiller.optimizer
        self._accumulation_steps = replicas.innermost_optimizer(self._optimizer).gradient_accumulation_steps or 1
        self._weights = probe.loss_weights(stats.losses)
        self._batches = probe.batches[:NUM_BATCHES]
        self._student_ids = {id(variable) for variable in _trained(self._distiller)}
        first_steps = [probe.gradient(data, self._weights) for data in self._batches]
        self.loss_before = float(np.mean([total for _, total, _ in first_steps]))
        self.nonfinite_gradients = sorted(
            {path for _, _, gradients in first_steps for path in self._nonfinite_paths(gradients)}
        )
        self.gradient_norms = self._gradient_norms()
        self.peak_learning_rate, self.learning_rates, self.num_steps = self._peak_learning_rate(), [], 0
        with warnings.catch_warnings():
            # Keras warns of weights without gradient in each step. `check_gradients` reports them.
            warnings.simplefilter("ignore")
            self._train()
        self.stats_after = probe.forward_stats(len(self._batches))

    def _train(self):
        student_weights = _trained(self._distiller)
        before = [_copied(variable) for variable in student_weights]
        for data in self._batches * NUM_EPOCHS * self._accumulation_steps:
            _, total, gradients = self.probe.gradient(data, self._weights, float(self._optimizer.scale_loss(1.0)))
            if not np.isfinite(total) or all(gradient is None for gradient in gradients):
                break
            self.learning_rates.append(float(self._optimizer.learning_rate))
            replicas.apply_gradients(self._optimizer, gradients, self._distiller.trainable_variables)
            self.num_steps += 1
        after = [_copied(variable) for variable in student_weights]
        self.relative_change = _norm([new - old for new, old in zip(after, before)]) / max(_norm(before), 1e-12)
        self.loss_after = float(np.mean([self.probe.gradient(data, self._weights)[1] for data in self._batches]))

    def _gradient_norms(self):
        norms = {name: [] for name in self._weights}
        zero_weights = dict.fromkeys(self._weights, 0.0)
        for data in self._batches[:NUM_GRADIENT_BATCHES]:
            # The gradient of every loss includes that of the regularization losses, which is subtracted.
            regularization = self._student_gradients(self.probe.gradient(data, zero_weights)[2])
            for name, weight in self._weights.items():
                gradients = self._student_gradients(self.probe.gradient(data, {**zero_weights, name: weight})[2])
                norms[name].append(_norm([a - b for a, b in zip(gradients, regularization)]))
        return {name: float(np.mean(values)) for name, values in norms.items()}

    def _student_gradients(self, gradients):
        return [
            np.zeros(1, "float32") if gradient is None else _copied(gradient)
            for gradient, variable in zip(gradients, self._distiller.trainable_variables)
            if id(variable) in self._student_ids
        ]

    def _nonfinite_paths(self, gradients) -> Iterator[str]:
        for gradient, variable in zip(gradients, self._distiller.trainable_variables):
            if gradient is not None:
                values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
                if not np.isfinite(_copied(values)).all():
                    yield variable.path

    def _peak_learning_rate(self):
        # With gradient accumulation `_iterations` counts batches and `iterations` counts updates. Schedules read the
        # first one.
        counter = _compat.step_counter(replicas.innermost_optimizer(self._optimizer))
        step, rates = int(counter), []
        for ahead in STEPS_AHEAD:
            counter.assign(step + ahead * self._accumulation_steps)
            rates.append(float(self._optimizer.learning_rate))
        counter.assign(step)
        return max(rates)


def check_gradients(trial: TrialSteps) -> list[Finding]:
    """Report gradients that are not finite or zero, and a loss that dominates all others."""
    if trial.nonfinite_gradients:
        return [
            Finding(
                "not finite",
                "The gradient contains NaN or infinity, although the losses are finite.",
                f"{len(trial.nonfinite_gradients)} weights, e.g. '{trial.nonfinite_gradients[0]}'.",
                "Look for roots, divisions and logarithms at 0 in the student, in heads and in custom losses.",
            )
        ]
    weighted = {
        name: weight * trial.stats.losses[name]
        for name, weight in trial.probe.loss_weights(trial.stats.losses).items()
        if abs(weight * trial.stats.losses[name]) > 1e-8
    }
    frozen = _frozen_student(trial, weighted)
    return frozen or _missing_gradients(trial, weighted) + _dominant_loss(trial, weighted)


def _copied(value):
    """Return a variable, tensor or gradient of an embedding as a float32 array that later updates do not change."""
    return np.array(keras.ops.convert_to_numpy(tf.convert_to_tensor(value)), "float32")


def _trained(distiller):
    """Return the trainable variables of the student, or of all peers."""
    return [variable for model in distiller.outputs.values() for variable in model.trainable_variables]


def _frozen_student(trial, weighted):
    frozen = [model for model in trial.probe.distiller.outputs.values() if not model.trainable_variables]
    if not frozen and (not weighted or any(trial.gradient_norms.values())):
        return []
    student = (frozen or list(trial.probe.distiller.outputs.values()))[0]
    counts = f"{len(student.trainable_variables)} of {len(student.weights)} weights of '{student.name}' are trainable"
    return [
        Finding(
            "frozen student",
            f"The student '{student.name}' is frozen: none of its weights receives a gradient.",
            f"{counts}, and all gradients are 0." if student.trainable_variables else f"{counts}.",
            "Set `student.trainable = True` before making the distiller, and look for ops.stop_gradient, argmax and "
            "rounding in its layers.",
        )
    ]


def _missing_gradients(trial, weighted):
    return [
        Finding(
            "no gradient",
            f"{capitalize(name)} has no effect: its gradient is 0 for all weights of the student.",
            f"Weighted value {value:.3g}, gradient norm 0.",
            "Tap a layer that has trainable weights or comes after such layers, and look for saturated activations.",
        )
        for name, value in weighted.items()
        if not trial.gradient_norms[name]
    ]


def _dominant_loss(trial, weighted):
    norms, total = trial.gradient_norms, sum(trial.gradient_norms.values())
    active = [name for name in weighted if norms[name]]
    largest = max(norms, key=norms.get, default=None)
    if len(active) < 2 or norms[largest] <= DOMINANT * total:
        return []
    shares = ", ".join(f"{name} {format_percent(norm / total, 2)}" for name, norm in norms.items())
    factor = norms[largest] / max(total - norms[largest], 1e-30)
    weight = "`supervised_weight`" if largest == SUPERVISED else f"the weight of {largest}"
    return [
        Finding(
            "dominant loss",
            f"{capitalize(largest)} dominates the gradient: all other losses have almost no effect.",
            f"Shares of the gradient norm: {shares}.",
            f"Divide {weight} by up to {factor:.2g}, or use Balance, which adapts the weight of a term.",
        )
    ]


def check_learning_rate(trial: TrialSteps) -> list[Finding]:
    """Report a learning rate at which the loss explodes or the weights hardly change."""
    if trial.nonfinite_gradients or not trial.gradient_norms or not sum(trial.gradient_norms.values()):
        return []
    before, after, peak = trial.loss_before, trial.loss_after, trial.peak_learning_rate
    setting = f"Learning rate {peak:.3g}, {trial.num_steps} steps"
    exploded = not np.isfinite(after) or after - before > (EXPLODED - 1) * abs(before)
    if exploded and trial.relative_change > LARGE_CHANGE or not np.isfinite(trial.relative_change):
        return [
            Finding(
                "learning rate too high",
                f"The learning rate is too high: the loss explodes within a few steps (from {before:.3g} to "
                f"{after:.3g}).",
                f"{setting}, weights changed by {format_percent(trial.relative_change)}.",
                f"Try {peak / 10:.1g} or less, `clipnorm=1.0`, or a learning-rate warm-up.",
            )
        ]
    sum_of_rates = sum(trial.learning_rates)
    change_per_step = trial.relative_change / sum_of_rates * peak if sum_of_rates else float(peak > 0)
    if change_per_step < SMALL_STEP:
        return [
            Finding(
                "learning rate too low",
                "The learning rate is too low: the student's weights hardly change.",
                f"{setting}, relative change per step {change_per_step:.1g}.",
                f"Try {max(peak, 1e-8) * 100:.1g}. Typical for Adam: 1e-3 for new networks, 1e-5 to 1e-4 for "
                "fine-tuning.",
            )
        ]
    return []


def _norm(arrays):
    return float(np.sqrt(sum(np.square(array, dtype="float64").sum() for array in arrays)))
