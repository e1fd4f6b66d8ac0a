"""Distiller that passes all pre-flight checks. Each test of the checks adds one problem."""

import keras
import numpy as np

from keras_distill import Distiller, Term
from keras_distill.losses import Hint, KLDivergence
from tests.support.helpers import compiled, features, mlp


def clusters(examples=256, classes=4, seed=0):
    """Return inputs of shape `[examples, 8]` around one center per class, and class indices."""
    labels = np.random.default_rng(seed).integers(0, classes, examples)
    return (features(classes, 8, seed=5, scale=2)[labels] + features(examples, 8, seed=seed)).astype("float32"), labels


def network(width=8, name="student", **options):
    return mlp(width, 4, name, **options)


def default_terms(**options):
    return [
        Term(KLDivergence(2.0), weight=0.9),
        Term(Hint(), "features", "features", head="auto", weight=0.1, **options),
    ]


def healthy_distiller(teacher, student=None, terms=None, optimizer=None, **options):
    """Return a compiled distiller that passes the check, unless the arguments add a problem."""
    terms = default_terms() if terms is None else terms
    model = Distiller(student=student or network(), teacher=teacher, terms=terms, supervised_weight=0.1)
    return compiled(model, optimizer or keras.optimizers.Adam(1e-3), **options)


def names(findings):
    return [finding.name for finding in findings]


def only_finding(findings, name, *words):
    """Return the single finding, which must have this name and contain the words."""
    assert names(findings) == [name], [str(finding) for finding in findings]
    assert all(word in str(findings[0]) for word in words), str(findings[0])
    return findings[0]


def function_teacher(model, change):
    """Return a teacher function, whose last operation cannot be inspected."""
    return lambda x: change(model(x))


def student_ending_in(function, name="student"):
    inputs = keras.Input((8,))
    features = keras.layers.Dense(8, activation="relu", name="features")(inputs)
    logits = keras.layers.Dense(4, name="logits")(features)
    return keras.Model(inputs, keras.layers.Lambda(function, output_shape=(4,))(logits), name=name)
