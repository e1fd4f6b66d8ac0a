"""Knowledge distillation for Keras 3 on TensorFlow.

A `Distiller` trains a small student on labels and on a trained teacher. Each `Term` compares one activation of the
student with one of the teacher. `compile`, `fit`, `evaluate`, `predict` and callbacks are those of Keras.

```
losses, heads         catalogue: soft targets, features, relations; trained maps between layers of unequal shapes
teachers              models with other inputs or classes, ensembles, functions, mean teachers
cache                 store the teacher's outputs once, and train from them
data                  missing labels, transfer sets: examples that only the teacher labels
schedules, mapping    temperatures and weights that change; pairs of student and teacher layers
language              texts that student or teacher write during training, for language models
metrics, callbacks    agreement with the teacher; fault-tolerant training, TensorBoard
preflight             diagnostics before training
experiment, report    baselines, seeds, intervals, and a page with the results
tuning, compression   hyperparameter search; smaller, tied, quantized and exported students
pipelines             TFX components, labelling by Apache Beam
```

`keras-distill --help` lists the commands for trained `.keras` models, which need no Python.

Example:

>>> from keras_distill import Distiller, Term
>>> from keras_distill.losses import Hint, KLDivergence
>>> terms = [
...     Term(KLDivergence(temperature=4.0), weight=0.9),
...     Term(Hint(), student="block_2", teacher="block_4", head="auto", weight=0.1),
... ]
>>> distiller = Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=0.1)
>>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
>>> history = distiller.fit(x, y, epochs=1, verbose=0)
>>> student.save("student.keras")
"""

import importlib
import os
import sys

# `python -m keras_distill.cli` puts the current directory first in the search path. A file there, such as keras.py,
# must not be imported in place of a package.
if sys.argv[:1] == ["-m"] and "keras_distill.cli" in sys.orig_argv and sys.path[0] == os.getcwd():
    del sys.path[0]

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"keras_distill requires the TensorFlow backend of Keras, but the active backend is "
        f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow before the first import of keras."
    )

# Imported eagerly: they register the classes that a saved file may hold.
from keras_distill import (
    cache,
    callbacks,
    compression,
    data,
    heads,
    language,
    losses,
    mapping,
    metrics,
    models,
    schedules,
    teachers,
    training,
)
from keras_distill.callbacks import Backup
from keras_distill.models import OUTPUT, HiddenStates, MultiCrop, without_softmax
from keras_distill.saving import load_distiller
from keras_distill.training import (
    Balance,
    BaseDistiller,
    Confidence,
    Distiller,
    LossWeight,
    MutualDistiller,
    Term,
)

__version__ = "0.2.0"

# Imported at first use: they need optional packages, or are needed only before or after training.
_LAZY = ("experiment", "pipelines", "preflight", "report", "tuning")

__all__ = [
    "OUTPUT",
    "Backup",
    "Balance",
    "BaseDistiller",
    "Confidence",
    "Distiller",
    "HiddenStates",
    "LossWeight",
    "MultiCrop",
    "MutualDistiller",
    "Term",
    "cache",
    "callbacks",
    "compression",
    "data",
    "experiment",
    "heads",
    "language",
    "load_distiller",
    "losses",
    "mapping",
    "metrics",
    "models",
    "pipelines",
    "preflight",
    "report",
    "schedules",
    "teachers",
    "training",
    "tuning",
    "without_softmax",
]


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    return [*__all__, "__version__"]
