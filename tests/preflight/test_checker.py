"""`check` on setups without problems, its restoration of all state, and its errors."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.metrics import Agreement
from keras_distill.preflight import check
from keras_distill.schedules import WarmUp
from keras_distill.teachers import CachedTeacher, EMATeacher, Ensemble, ModelTeacher, with_activations
from keras_distill.training.balance import Balance
from tests.support.checked_models import (
    clusters,
    default_terms,
    function_teacher,
    healthy_distiller,
    network,
    only_finding,
)
from tests.support.helpers import Counter, compiled, crossentropy


def test_no_findings_without_problems(teacher):
    x, y = clusters()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    assert check(healthy_distiller(teacher), dataset, batches=8) == []
    assert check(healthy_distiller(teacher), x, y, batches=4, batch_size=16) == []


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.Adam(1e-2),
        lambda: keras.optimizers.Adam(1e-5),
        lambda: keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.0, 1000, warmup_target=1e-3, warmup_steps=500)
        ),
        lambda: keras.optimizers.Adam(1e-3, gradient_accumulation_steps=3),
        lambda: keras.optimizers.AdamW(1e-3, clipnorm=1.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3)),
    ],
)
def test_common_optimizers_and_learning_rates_give_no_findings(optimizer, teacher):
    assert check(healthy_distiller(teacher, optimizer=optimizer()), *clusters()) == []


@pytest.mark.parametrize("kind", ["cached", "ensemble", "ema", "none", "function", "inputs"])
def test_every_kind_of_teacher(kind, teacher):
    x, y = clusters()
    student, terms, inputs = network(), [Term(KLDivergence(2.0))], x
    if kind == "cached":
        logits = np.array(teacher(x))
        distilled_from, inputs = CachedTeacher({"output": logits}), with_activations(x, {"output": logits})
    elif kind == "ensemble":
        distilled_from = Ensemble([teacher, keras.models.clone_model(teacher)], weights=[3, 1])
    elif kind == "ema":
        distilled_from = EMATeacher(teacher)
        student = keras.models.clone_model(teacher)
        student.set_weights(teacher.get_weights())
    elif kind == "none":
        distilled_from, terms = None, []
    elif kind == "function":
        distilled_from = function_teacher(teacher, lambda logits: logits)
    else:
        distilled_from = ModelTeacher(teacher, inputs=lambda x: x * 1.0)
    assert check(healthy_distiller(distilled_from, student, terms), inputs, y) == []


def test_labels_may_be_missing(teacher):
    x, y = clusters()
    y[64:] = -1
    assert check(healthy_distiller(teacher), x, y) == []
    one_hot = np.eye(4, dtype="float32")[y]
    one_hot[y < 0] = np.nan
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    assert check(healthy_distiller(teacher, loss=loss), x, one_hot) == []
    unsupervised = healthy_distiller(teacher)
    unsupervised.compile("adam")
    assert check(unsupervised, x) == []


def test_sample_weights_metrics_balances_and_warm_ups(teacher):
    x, y = clusters()
    terms = [
        Term(KLDivergence(2.0), weight=WarmUp(0.9, steps=500)),
        Term(Hint(), "features", "features", head="auto", weight=Balance(0.1)),
    ]
    distiller = healthy_distiller(teacher, terms=terms, metrics=["accuracy", Agreement()])
    weighted = tf.data.Dataset.from_tensor_slices((x, y, np.ones(256, "float32"))).batch(32)
    assert check(distiller, weighted) == []


def test_mixed_precision(teacher):
    keras.config.set_dtype_policy("mixed_float16")
    assert check(healthy_distiller(teacher), *clusters()) == []


def two_outputs(name, width=8):
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(width, activation="relu", name="features")(inputs)
    return keras.Model(
        inputs, {"kind": keras.layers.Dense(4)(hidden), "size": keras.layers.Dense(1)(hidden)}, name=name
    )


def test_several_outputs():
    x, y = clusters()
    teacher, student = two_outputs("teacher", 16), two_outputs("student")
    labels = {"kind": y, "size": x[:, :1]}
    losses = {"kind": crossentropy(), "size": "mse"}
    teacher.compile(keras.optimizers.Adam(0.01), losses)
    teacher.fit(x, labels, epochs=8, verbose=0)
    distiller = healthy_distiller(
        teacher, student, [Term(KLDivergence(2.0), "output[kind]", "output[kind]")], loss=losses
    )
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(32)
    assert check(distiller, dataset) == []
    labels["kind"] = labels["kind"] + 1
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(32)
    only_finding(check(distiller, dataset), "labels out of range", "'kind'")


class Stochastic(keras.layers.Layer):
    """Draws from every source of random numbers and counts its calls."""

    def build(self, shape):
        self.seeds = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs, training=False):
        self.calls.assign_add(1.0)
        if not training:
            return inputs
        random.random(), np.random.random()
        with tf.init_scope():
            tf.random.normal(())
        return inputs + 0.01 * (keras.random.normal((8,), seed=self.seeds) + keras.random.normal((8,)))


def stochastic_student():
    return keras.Sequential(
        [
            keras.Input((8,)),
            Stochastic(),
            keras.layers.Dense(8, "relu", name="features"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(4),
        ],
        name="student",
    )


def all_values(distiller):
    """The values of all variables of a distiller."""
    variables = [
        *distiller.variables,
        *distiller.metrics_variables,
        *distiller.optimizer.variables,
        *distiller.teacher.weights,
    ]
    return [np.array(variable) for variable in variables]


def random_draws():
    """The next value of every source of random numbers."""
    return [random.random(), np.random.random(), np.array(keras.random.normal(())), np.array(tf.random.normal(()))]


@pytest.mark.parametrize("trained", [False, True])
def test_restores_all_state(trained, teacher):
    x, y = clusters()

    def setup():
        keras.utils.set_random_seed(3)
        terms = [default_terms()[0], Term(Hint(), "features", "features", head="auto", weight=Balance(0.1))]
        student = stochastic_student()
        distiller = healthy_distiller(
            EMATeacher(student), student, terms, keras.optimizers.Adam(1e-3), metrics=["accuracy", Agreement()]
        )
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(256, seed=1).batch(32)
        if trained:
            distiller.fit(dataset, epochs=1, verbose=0)
        return distiller, dataset

    distiller, dataset = setup()
    before = all_values(distiller)
    assert check(distiller, dataset) is not None
    assert len(before) == len(all_values(distiller))
    for one, two in zip(before, all_values(distiller)):
        np.testing.assert_array_equal(one, two)
    checked = distiller.fit(dataset, epochs=2, verbose=0).history, all_values(distiller), random_draws()
    other, other_dataset = setup()
    unchecked = other.fit(other_dataset, epochs=2, verbose=0).history, all_values(other), random_draws()
    assert checked[0] == unchecked[0] and checked[2] == unchecked[2]
    for one, two in zip(checked[1], unchecked[1], strict=True):
        np.testing.assert_array_equal(one, two)


def test_restores_all_state_after_an_error(teacher):
    def fails(y_true, y_pred):
        raise RuntimeError("no loss")

    x, y = clusters()
    distiller = healthy_distiller(teacher, stochastic_student(), loss=fails)
    before = all_values(distiller)
    with pytest.raises(RuntimeError, match="no loss"):
        check(distiller, x, y)
    for one, two in zip(before, all_values(distiller), strict=True):
        np.testing.assert_array_equal(one, two)


def test_restores_the_loss_metrics_of_several_outputs():
    x, y = clusters()
    distiller = Distiller(
        student=two_outputs("student"),
        teacher=two_outputs("teacher"),
        terms=[Term(KLDivergence(), "output[kind]", "output[kind]")],
    )
    compiled(distiller, loss={"kind": crossentropy(), "size": "mse"})
    labels = {"kind": y, "size": x[:, :1]}
    names = [metric.name for metric in distiller.metrics]
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(32)
    check(distiller, dataset)
    assert [metric.name for metric in distiller.metrics] == names
    distiller.train_on_batch(x, labels)
    before = all_values(distiller), distiller.get_metrics_result()
    check(distiller, dataset)
    assert distiller.get_metrics_result() == before[1]
    for one, two in zip(before[0], all_values(distiller), strict=True):
        np.testing.assert_array_equal(one, two)


def test_restores_non_trainable_counters_of_layers(teacher):
    counter = Counter()
    student = keras.Sequential([keras.Input((8,)), counter, *network().layers], name="student")
    assert check(healthy_distiller(teacher, student, [Term(KLDivergence())]), *clusters()) == []
    assert counter.counted() == (0, 0)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        x, y = clusters()
        return x[32 * index : 32 * index + 32], y[32 * index : 32 * index + 32]


def test_kinds_of_data(teacher):
    assert check(healthy_distiller(teacher), Batches()) == []
    x, y = clusters()
    for data, message in [
        (((x, y) for _ in range(3)), "must be readable more than once.*from_generator.*Received: generator"),
        (
            tf.data.Dataset.from_tensor_slices((x, y)),
            r"inputs of shapes \[\(8,\)\], but the models expect .*\.batch\(32\)",
        ),
        (tf.data.Dataset.from_tensor_slices((x, y)).batch(8).take(0), "has no batches"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(healthy_distiller(teacher), data)
    with pytest.raises(ValueError, match=r"same number of examples. Received: \[255, 256\]"):
        check(healthy_distiller(teacher), x, y[1:])


def test_rejects_other_models_and_uncompiled_distillers(teacher):
    x, y = clusters()
    with pytest.raises(ValueError, match="Received: Sequential"):
        check(teacher, x, y)
    with pytest.raises(ValueError, match="`distiller` is not compiled. Call `distiller.compile"):
        check(Distiller(student=network(), teacher=teacher, terms=default_terms()), x, y)


@pytest.mark.parametrize("argument", ["batches", "batch_size"])
def test_rejects_zero_batches(argument, teacher):
    with pytest.raises(ValueError, match=f"`{argument}` must be an integer >= 1. Received: 0"):
        check(healthy_distiller(teacher), *clusters(), **{argument: 0})


def test_a_finding_prints_as_three_lines(teacher):
    finding = only_finding(
        check(healthy_distiller(teacher, optimizer=keras.optimizers.SGD(0.0)), *clusters()), "learning rate too low"
    )
    what, seen, advice = str(finding).split("\n")
    assert (what, seen, advice) == (finding.what, f"  Seen: {finding.seen}", f"  Do:   {finding.advice}")
