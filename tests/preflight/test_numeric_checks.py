"""Numbers that are not finite, dead, constant, too large or too coarse."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill import Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.teachers import CachedTeacher, with_activations
from tests.support.sound import as_function, clusters, ending_in, healthy, names, network, only


def test_inputs_that_are_not_finite(teacher):
    x, y = clusters()
    x[3, 2] = np.nan
    only(check(healthy(teacher), x, y), "not finite", "The inputs hold NaN", "1 such numbers")
    x, y = clusters()
    weight = np.ones(256, "float32")
    weight[7] = np.inf
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(32)
    only(check(healthy(teacher), dataset), "not finite", "sample weights")
    stored = {"output": np.array(teacher(x))}
    distiller = healthy(CachedTeacher(stored), given=[Term(KLDivergence())])
    stored["output"][9] = np.inf
    only(check(distiller, with_activations(x, stored), y), "not finite", "stored activations 'output'")


def test_activations_that_are_not_finite(teacher):
    student = ending_in(lambda x: ops.log(ops.relu(x)))
    only(check(healthy(teacher, student), *clusters()), "not finite", "student puts out at 'output'")
    broken = as_function(teacher, lambda logits: logits / 0.0)
    only(check(healthy(broken, given=[Term(KLDivergence())]), *clusters()), "not finite", "teacher puts out")


def test_losses_that_are_not_finite(teacher):
    def loss(y_true, y_pred):
        return ops.sum(ops.log(y_pred - 1e6), axis=-1)

    found = only(check(healthy(teacher, loss=loss), *clusters()), "not finite", "The supervised loss is nan")
    assert "all activations are finite" in found.what


def test_gradients_that_are_not_finite(teacher):
    # The square root of 0 is 0, and its slope is not finite.
    student = ending_in(lambda x: x + ops.sqrt(ops.relu(x - 1e3)))
    only(check(healthy(teacher, student), *clusters()), "not finite", "gradient holds NaN", "features/")


def test_dead_taps(teacher):
    silent = network(bias_initializer=keras.initializers.Constant(-100.0))
    found = check(healthy(teacher, silent), *clusters())
    assert "dead tap" in names(found)
    dead = found[names(found).index("dead tap")]
    assert "student is 0 for every example at 'features'" in dead.what and "100% of 8 channels" in dead.seen
    silent = keras.models.clone_model(teacher)
    silent.set_weights([w if i != 1 else w - 1e3 for i, w in enumerate(teacher.get_weights())])
    found = check(healthy(silent), *clusters()[:1])
    assert "The teacher is 0 for every example at 'features'." in [finding.what for finding in found]


def test_a_new_last_layer_of_zeros_is_not_dead(teacher):
    student = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, "relu", name="features"),
            keras.layers.Dense(4, kernel_initializer="zeros"),
        ]
    )
    assert check(healthy(teacher, student), *clusters()) == []


def test_features_that_are_the_same_for_all_examples(teacher):
    constant = keras.Sequential(
        [keras.Input((8,)), keras.layers.Lambda(lambda x: 0.0 * x + 2.0, name="features"), keras.layers.Dense(4)]
    )
    found = check(healthy(constant), *clusters()[:1])
    what = [finding.what for finding in found if finding.name == "constant features"]
    assert "The teacher says the same of every example at 'features'." in what


def test_heads_that_explode(teacher):
    loud = keras.layers.Dense(16, kernel_initializer=keras.initializers.RandomNormal(stddev=1e3))
    found = check(healthy(teacher, given=[Term(Hint(), "features", "features", head=loud, weight=1e-9)]), *clusters())
    only(found, "exploding head", "term 'hint'", "'features'")


def test_weights_in_unsuitable_precision(teacher):
    x, y = clusters()
    mixed = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, "relu", name="features", dtype="float64"), keras.layers.Dense(4)]
    )
    only(check(healthy(teacher, mixed), x, y), "precision", "several precisions", "2 in float64", "features")
    half = network(dtype="bfloat16")
    found = check(healthy(teacher, half), x, y)
    assert {"precision"} == set(names(found)) and any("mixed_bfloat16" in finding.advice for finding in found)
