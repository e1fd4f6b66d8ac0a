"""NaN and infinity, constant features, exploding heads and weight precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill import Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.teachers import CachedTeacher, with_activations
from tests.support.checked_models import (
    clusters,
    function_teacher,
    healthy_distiller,
    names,
    network,
    only_finding,
    student_ending_in,
)


def test_nonfinite_inputs(teacher):
    x, y = clusters()
    x[3, 2] = np.nan
    only_finding(check(healthy_distiller(teacher), x, y), "not finite", "The inputs contain NaN", "1 non-finite values")
    x, y = clusters()
    weight = np.ones(256, "float32")
    weight[7] = np.inf
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(32)
    only_finding(check(healthy_distiller(teacher), dataset), "not finite", "sample weights")
    stored = {"output": np.array(teacher(x))}
    distiller = healthy_distiller(CachedTeacher(stored), terms=[Term(KLDivergence())])
    stored["output"][9] = np.inf
    only_finding(check(distiller, with_activations(x, stored), y), "not finite", "cached teacher activations 'output'")


def test_nonfinite_activations(teacher):
    student = student_ending_in(lambda x: ops.log(ops.relu(x)))
    only_finding(
        check(healthy_distiller(teacher, student), *clusters()),
        "not finite",
        "student outputs NaN or infinity at 'output'",
    )
    broken = function_teacher(teacher, lambda logits: logits / 0.0)
    only_finding(
        check(healthy_distiller(broken, terms=[Term(KLDivergence())]), *clusters()),
        "not finite",
        "teacher outputs NaN or infinity",
    )


def test_nonfinite_losses(teacher):
    def loss(y_true, y_pred):
        return ops.sum(ops.log(y_pred - 1e6), axis=-1)

    finding = only_finding(
        check(healthy_distiller(teacher, loss=loss), *clusters()), "not finite", "The supervised loss is nan"
    )
    assert "all activations are finite" in finding.what


def test_nonfinite_gradients(teacher):
    # The square root is finite at 0, its derivative is not.
    student = student_ending_in(lambda x: x + ops.sqrt(ops.relu(x - 1e3)))
    only_finding(
        check(healthy_distiller(teacher, student), *clusters()), "not finite", "gradient contains NaN", "features/"
    )


def test_dead_features(teacher):
    dead_model = network(bias_initializer=keras.initializers.Constant(-100.0))
    findings = check(healthy_distiller(teacher, dead_model), *clusters())
    assert "dead features" in names(findings)
    dead = findings[names(findings).index("dead features")]
    assert "student outputs 0 for all examples at 'features'" in dead.what and "100 % of 8 channels" in dead.seen
    dead_model = keras.models.clone_model(teacher)
    dead_model.set_weights([w if i != 1 else w - 1e3 for i, w in enumerate(teacher.get_weights())])
    findings = check(healthy_distiller(dead_model), *clusters()[:1])
    assert "The teacher outputs 0 for all examples at 'features'." in [finding.what for finding in findings]


def test_a_zero_initialized_last_layer_gives_no_findings(teacher):
    student = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, "relu", name="features"),
            keras.layers.Dense(4, kernel_initializer="zeros"),
        ]
    )
    assert check(healthy_distiller(teacher, student), *clusters()) == []


def test_constant_features(teacher):
    constant = keras.Sequential(
        [keras.Input((8,)), keras.layers.Lambda(lambda x: 0.0 * x + 2.0, name="features"), keras.layers.Dense(4)]
    )
    findings = check(healthy_distiller(constant), *clusters()[:1])
    what = [finding.what for finding in findings if finding.name == "constant features"]
    assert "The teacher outputs the same activation for all examples at 'features'." in what


def test_exploding_heads(teacher):
    large = keras.layers.Dense(16, kernel_initializer=keras.initializers.RandomNormal(stddev=1e3))
    findings = check(
        healthy_distiller(teacher, terms=[Term(Hint(), "features", "features", head=large, weight=1e-9)]), *clusters()
    )
    only_finding(findings, "exploding head", "term 'hint'", "'features'")


def test_unsuitable_weight_precision(teacher):
    x, y = clusters()
    mixed = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, "relu", name="features", dtype="float64"), keras.layers.Dense(4)]
    )
    only_finding(
        check(healthy_distiller(teacher, mixed), x, y), "precision", "several precisions", "2 in float64", "features"
    )
    half = network(dtype="bfloat16")
    findings = check(healthy_distiller(teacher, half), x, y)
    assert {"precision"} == set(names(findings)) and any("mixed_bfloat16" in finding.advice for finding in findings)


@pytest.mark.case("E8")
@pytest.mark.parametrize("cached", [False, True])
def test_logits_may_mask_classes(teacher, cached):
    def masked(logits):
        return ops.where([True, True, True, False], logits, -np.inf)

    x, y = clusters()
    x, y = x[y < 3], y[y < 3]
    if cached:
        stored = {"output": np.array(masked(teacher(x)))}
        x, teacher = with_activations(x, stored), CachedTeacher(stored)
    else:
        teacher = function_teacher(teacher, masked)
    distiller = healthy_distiller(teacher, student_ending_in(masked), terms=[Term(KLDivergence(2.0))])
    assert check(distiller, x, y) == []


@pytest.mark.case("E8")
def test_features_may_not_be_infinite(teacher):
    x, y = clusters()
    stored = {"features": np.array(x)}
    stored["features"][0, 0] = -np.inf
    terms = [Term(Hint(), "features", "features", head="auto")]
    distiller = healthy_distiller(CachedTeacher(stored), terms=terms)
    findings = check(distiller, with_activations(x, stored), y, batches=1, batch_size=len(x))
    only_finding(findings, "not finite", "The teacher outputs NaN or infinity at 'features'", "1 non-finite values")
