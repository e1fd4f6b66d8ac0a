"""Entry point of the pre-flight diagnostics."""

import keras

from keras_distill import _compat
from keras_distill.data.batch import unpack
from keras_distill.preflight import (
    label_checks,
    logit_checks,
    normalization_checks,
    numeric_checks,
    optimization_checks,
    teacher_checks,
    weight_checks,
)
from keras_distill.preflight.finding import Finding
from keras_distill.preflight.probe import Probe
from keras_distill.preflight.state_restoration import first_batches, state_restored
from keras_distill.training.base import BaseDistiller
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_integer


def check(
    distiller: BaseDistiller, data: Structure, y: Structure | None = None, batches: int = 8, batch_size: int = 32
) -> list[Finding]:
    """Diagnose a distillation setup with a few batches and a few trial training steps.

    Run it before a long training. It looks for:

    - NaN and infinity in inputs, activations, losses and gradients
    - probabilities where logits are required, labels out of range, and a supervised loss without any label
    - sample weights that are NaN, negative or all 0
    - a term that is divided by another number of tokens or pixels than the supervised loss
    - a teacher at chance level, less accurate than the student, confidently wrong, or with another class order
    - temperatures at which the soft targets are uniform or equal to hard labels
    - dead or constant features, exploding heads, unsuitable weight precision
    - random augmentation in the student that the teacher does not see
    - a frozen student, terms without gradient, a loss that dominates the gradient
    - a learning rate that is far too high or far too low

    Thresholds are conservative, so an empty result does not guarantee a good training.

    Afterwards the distiller is in the same state as before: weights, optimizer, metrics and random states. So are the
    data: a shuffled `tf.data.Dataset` starts with the same batch as without the check. The exception is a dataset of
    more than 512 MB in memory: its shuffle advances by one epoch.

    Args:
        distiller: A compiled `Distiller` or `MutualDistiller` on one device.
        data: Training data as for `fit`: a `tf.data.Dataset` or `keras.utils.PyDataset` with batches `(x,)`, `(x, y)`
            or `(x, y, sample_weight)`, or arrays of inputs. Of arrays, examples at equal distances are used.
        y: Labels, if `data` are arrays. Defaults to None.
        batches: Maximum number of batches to use, >= 1. 4 to 16 is typical. Defaults to 8.
        batch_size: Batch size for arrays, >= 1. Defaults to 32.

    Returns:
        List of `Finding`, empty without problems. A problem that makes later checks meaningless, such as NaN in the
        inputs, ends the list.

    Raises:
        ValueError: If `distiller` is not a distiller, is not compiled or runs on several devices; if `batches` or
            `batch_size` is not an integer >= 1; if `data` can be read only once, are empty, or do not match the inputs
            of the models.

    Example:

    >>> distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> findings = preflight.check(distiller, x, y)
    >>> print(*findings)  # doctest: +SKIP
    """
    _check_distiller(distiller)
    check_integer(batches, "batches")
    check_integer(batch_size, "batch_size")
    with state_restored(distiller), distiller.untracked():
        data_batches = first_batches(data, y, batches, batch_size)
        _check_inputs_match(data_batches[0], distiller)
        findings = numeric_checks.check_weight_precision(distiller) + numeric_checks.check_random_layers(distiller)
        # Each of the next two steps ends the check: with these problems, later measurements are meaningless.
        invalid = (
            numeric_checks.check_inputs(data_batches)
            or weight_checks.check_sample_weights(data_batches)
            or label_checks.check_labels(distiller, data_batches)
        )
        if invalid:
            return findings + invalid
        findings += label_checks.check_missing_labels(distiller, data_batches)
        probe = Probe(distiller, data_batches)
        stats = probe.forward_stats()
        invalid = numeric_checks.check_activations(distiller, stats)
        if invalid:
            return findings + invalid
        findings += logit_checks.check_logits(distiller, stats)
        findings += normalization_checks.check_normalization(probe)
        if distiller.teacher is not None:
            # The targets of peers are their own predictions, which are at chance level before training.
            findings += teacher_checks.check_teacher_accuracy(stats, data_batches)
        # A teacher that has memorized the examples has hard targets at every usual temperature.
        memorized = any(finding.name == teacher_checks.MEMORIZED for finding in findings)
        temperatures = logit_checks.check_temperatures(probe, stats)
        findings += [finding for finding in temperatures if not (memorized and finding.name == logit_checks.TOO_LOW)]
        trial = optimization_checks.TrialSteps(probe, stats)
        findings += optimization_checks.check_gradients(trial)
        findings += optimization_checks.check_learning_rate(trial)
        findings += numeric_checks.check_constant_features(trial)
        return findings + numeric_checks.check_heads(trial)


def _check_distiller(distiller):
    if not isinstance(distiller, BaseDistiller):
        raise ValueError(f"`distiller` must be a Distiller or a MutualDistiller. Received: {type(distiller).__name__}")
    if not distiller.compiled:
        raise ValueError("`distiller` is not compiled. Call `distiller.compile(optimizer, loss)` before `check`.")
    strategy = _compat.distribute_strategy(distiller)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"`check` runs on one device, but `distiller` was made under a strategy with "
            f"{strategy.num_replicas_in_sync} replicas. Make models and distiller outside of `strategy.scope()` to "
            "check them."
        )


def _check_inputs_match(batch, distiller):
    """Raise an error if the data are not batched or belong to other models."""
    inputs = keras.tree.flatten(unpack(batch, 0).inputs)
    expected = keras.tree.flatten(distiller.specs.inputs)
    if [len(x.shape) for x in inputs] != [len(x.shape) for x in expected]:
        raise ValueError(
            f"The batches of `data` have inputs of shapes {[tuple(x.shape) for x in inputs]}, but the models expect "
            f"{[tuple(x.shape) for x in expected]}. Call `.batch(32)` on a dataset that is not batched."
        )
