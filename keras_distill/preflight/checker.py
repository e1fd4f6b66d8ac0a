"""A few batches before hours of training: what is likely to spoil it."""

import keras

from keras_distill import _compat
from keras_distill.data.batch import unpack
from keras_distill.preflight import numeric_checks, optimization_checks, prediction_checks
from keras_distill.preflight.probe import Probe
from keras_distill.preflight.state_restoration import first_batches, state_restored
from keras_distill.training.distiller import Distiller


def check(distiller, data, y=None, batches=8, batch_size=32):
    """Looks for what is likely to spoil a distillation, in a few batches and a few trial steps.

    ```python
    for finding in check(distiller, dataset):
        print(finding)
    ```

    Looked for are: NaN and infinity in inputs, activations, losses and gradients; probabilities where logits are
    compared; labels out of range; a teacher that is no better than chance, or worse than the student, that is right
    under another order of the classes, or sure and wrong; temperatures at which a teacher's probabilities carry
    nothing; taps that are dead or the same for all examples; heads that explode; weights in unsuitable precision; a
    student that is frozen; a term that drowns the others, or reaches no weight; a learning rate far too high or far too
    low. What depends on numbers is told only where it is plain: no finding is no promise.

    The distiller is afterwards what it was before, weights, optimizer, metrics and random states alike, and so are the
    data: a shuffled data set begins with the same batch as if nobody had looked. Only a shuffle over more than half a
    gigabyte held in memory moves on by one epoch.

    Args:
        distiller: A compiled `Distiller` on one device.
        data: What `fit` takes: a `tf.data.Dataset` or `keras.utils.PyDataset` of batches `(x,)`, `(x, y)` or `(x, y,
            sample_weight)`; or arrays, of which examples from everywhere are taken.
        y: Labels beside arrays.
        batches: How many are looked at, at most. Default 8.
        batch_size: Examples of each, for arrays. Default 32.

    Returns:
        List of `Finding`; empty if nothing was found.

    Raises:
        ValueError: For a distiller that is none, not compiled or of several devices, and for data that can be read only
            once, or do not fit the models.
    """
    _accept(distiller)
    with state_restored(distiller):
        found = first_batches(data, y, batches, batch_size)
        _fit(found[0], distiller)
        probe = Probe(distiller, found)
        findings = numeric_checks.precision(distiller)
        # What comes first in the list would make all that follows meaningless.
        broken = numeric_checks.inputs(found) or prediction_checks.labels(distiller, found)
        if broken:
            return findings + broken
        look = probe.look()
        broken = numeric_checks.activations(look)
        if broken:
            return findings + broken
        findings += prediction_checks.probabilities(distiller, look) + prediction_checks.answers(probe, look)
        findings += prediction_checks.temperatures(probe, look)
        trial = optimization_checks.Trial(probe, look)
        findings += optimization_checks.gradients(trial) + optimization_checks.learning_rate(trial)
        return findings + numeric_checks.silence(trial) + numeric_checks.heads(trial)


def _accept(distiller):
    if not isinstance(distiller, Distiller):
        raise ValueError(
            f"`check` looks at a Distiller. Received: {type(distiller).__name__}. To check peers of a MutualDistiller, "
            "make a Distiller of two of them, with copies as student and teacher."
        )
    if not distiller.compiled:
        raise ValueError(
            "The distiller was not compiled: what would be checked is not there yet. Call `compile` first."
        )
    strategy = _compat.distribute_strategy(distiller)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`check` looks at one device. Make models and distiller once outside of the strategy's scope for it."
        )


def _fit(batch, distiller):
    """Refuses data that were not batched, or are those of other models."""
    given, taken = (keras.tree.flatten(x) for x in (unpack(batch, 0).inputs, distiller._traced.inputs))
    if [len(x.shape) for x in given] != [len(x.shape) for x in taken]:
        raise ValueError(
            f"The data's batches have inputs of the shapes {[tuple(x.shape) for x in given]}, the models take "
            f"{[tuple(x.shape) for x in taken]}. Was the data set batched?"
        )
