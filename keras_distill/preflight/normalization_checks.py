"""Checks of what the supervised loss and the terms are divided by."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_distill import _compat
from keras_distill.data.batch import Batch
from keras_distill.data.labels import label_mask
from keras_distill.models.masking import expand_to_rank, joint_masks, mask_fits
from keras_distill.preflight.finding import Finding
from keras_distill.preflight.label_checks import entry_of_output, supervised_outputs
from keras_distill.preflight.probe import Probe
from keras_distill.training.labeled_losses import LabeledLoss, has_single_tensors, reads_class_indices
from keras_distill.training.positions import for_tap, split_weights
from keras_distill.training.term_activations import first_of
from keras_distill.types import Tensor

# Ratio of the divisors from which they are reported. Smaller ones change the balance of the losses less than their
# weights are usually chosen to.
DIFFERENT = 1.5
MEAN, WEIGHTED_MEAN = "sum_over_batch_size", "mean_with_sample_weight"
_OTHER = {"tokens": "examples", "examples": "tokens", MEAN: WEIGHTED_MEAN, WEIGHTED_MEAN: MEAN}


def check_normalization(probe: Probe) -> list[Finding]:
    """Report a term that is divided by another number of positions than the supervised loss of the same output.

    A loss of positions is a weighted sum of their values. Its divisor is their total weight divided by the value of the
    loss if each position had the value 1. Positions without a label count in neither divisor.
    """
    distiller, findings = probe.distiller, []
    if getattr(distiller, "supervised_weight", 1.0) == 0:
        return []
    for position, (entry, spec, loss) in enumerate(supervised_outputs(distiller)):
        terms = {
            title: term for title, term in probe.terms.items() if _compares_output(term, distiller, entry, position)
        }
        if loss is None or not terms or len(getattr(spec, "shape", ())) < 3:
            continue
        batch, student, teacher = probe.first_activations()
        outputs = next(student[tap] for tap in distiller.outputs)
        parts = (batch.labels, outputs, batch.sample_weight)
        labels, outputs, weights = (entry_of_output(part, entry, position) for part in parts)
        loss = _compat.resolved_loss(loss, labels, outputs)
        labeled = None if labels is None else _labeled(labels, outputs, loss)
        if labeled is None or not bool(ops.any(labeled)):
            continue
        for title, term in terms.items():
            pair = distiller.compared_activations(term, student, teacher)
            tapped = for_tap(batch, term.student, distiller.specs.student, term.student.partition("[")[0])
            divisors = {
                **{
                    reduction: _divisor_of_loss(loss, reduction, labels, outputs, weights)
                    for reduction in (MEAN, WEIGHTED_MEAN)
                },
                **{over: _divisor_of_term(term, over, pair, tapped, labeled) for over in ("tokens", "examples")},
            }
            findings += _finding(title, term, loss, divisors, labeled)
    return findings


class _Ones(keras.losses.Loss):
    """Loss whose value is 1 wherever the value of a given loss counts."""

    def __init__(self, loss, reduction):
        super().__init__(reduction=reduction)
        self._loss, self.reads_class_indices = loss, reads_class_indices(loss)

    def call(self, y_true, y_pred):
        values = self._loss.call(y_true, y_pred)
        ones = ops.ones_like(values)
        # The mask of `ignore_class`.
        if _compat.keras_mask(values) is not None:
            _compat.set_keras_mask(ones, _compat.keras_mask(values))
        return ones


def _compares_output(term, distiller, entry, position):
    """Return whether a term compares the logits of an output, with a weight of each position from masks or samples."""
    if not isinstance(term.student, str) or not term.logits or term.positions is not None:
        return False
    path, _, item = term.student.partition("[")
    return path in distiller.outputs and (
        not item if entry is None else item.strip("]'\"") in (str(entry), str(position))
    )


def _labeled(labels: Tensor, outputs: Tensor, loss: Any) -> Tensor | None:
    """Return which positions have a label that counts, `[batch, positions...]`; None if the loss has others."""
    known = loss.reduction in (MEAN, WEIGHTED_MEAN) and type(loss).call is not keras.losses.Loss.call
    if not known or not has_single_tensors(labels, outputs):
        return None
    labels = ops.convert_to_tensor(labels)
    present = label_mask(labels, reads_class_indices(loss))
    if getattr(loss, "ignore_class", None) is not None:
        present = ops.logical_and(present, labels != loss.ignore_class)
    if len(labels.shape) == len(outputs.shape):
        present = ops.all(present, axis=-1)
    return present if tuple(present.shape) == tuple(outputs.shape[:-1]) else None


def _divisor_of_loss(loss, reduction, labels, outputs, weights):
    # The value of a sum of ones is their total weight.
    total, value = (float(LabeledLoss(_Ones(loss, kind))(labels, outputs, weights)) for kind in ("sum", reduction))
    return total / value if value else 0.0


def _divisor_of_term(term, over, pair, batch: Batch, labeled: Tensor) -> float:
    student, teacher = (first_of(activation) for activation in pair)
    mask = None if term.mask is None else batch.inputs[term.mask]
    mask, _ = joint_masks(student, teacher, mask if mask is not None and mask_fits(mask, student) else None)
    mask = labeled if mask is None else ops.logical_and(mask, labeled)
    weights = split_weights(batch.sample_weight, mask, student)
    counts = np.asarray(weights.positions, "float64")
    outside = 1.0 if weights.outside is None else np.asarray(expand_to_rank(weights.outside, counts.ndim), "float64")
    total = float((counts * outside).sum())
    if over == "tokens" or weights.examples is None:
        return total
    # The mean over the examples that have a label.
    value = float(np.asarray(weights.examples, "float64")[np.asarray(labeled).reshape(len(labeled), -1).any(-1)].mean())
    return total / value if value else 0.0


def _finding(title, term, loss, divisors, labeled):
    of_loss, of_term = divisors[loss.reduction], divisors[term.over]
    if not _differ(of_loss, of_term):
        return []
    ratio = max(of_loss, of_term) / min(of_loss, of_term)
    heavier = title if of_loss > of_term else "the supervised loss"
    unit = "tokens" if len(labeled.shape) == 2 else "positions"
    cures = []
    if not _differ(of_loss, divisors[_OTHER[term.over]]):
        cures.append(f'`over="{_OTHER[term.over]}"` to {title}')
    if not _differ(divisors[_OTHER[loss.reduction]], of_term):
        cures.append(f'`reduction="{_OTHER[loss.reduction]}"` to the loss of `compile`')
    missing = "-1" if reads_class_indices(loss) else "NaN"
    return [
        Finding(
            "different normalization",
            f"The supervised loss and {title} are divided by different numbers of {unit}: one of them counts "
            f"{ratio:.3g} times as much in {heavier} as in the other.",
            f"In a batch of {len(labeled)} examples, the supervised loss divides by {of_loss:.5g} {unit}, {title} by "
            f"{of_term:.5g} {unit} with weight.",
            f"Pass {', or '.join(cures)}."
            if cures
            else f"Leave the same {unit} out of both: labels of {missing} where `mask` of {title} is 0.",
        )
    ]


def _differ(first, second):
    return bool(first and second) and not 1 / DIFFERENT < first / second < DIFFERENT
