"""Each check of `check` on a distiller that it must find fault with; beside them those that it must not."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import Counter, compiled, crossentropy, features, mlp
from keras import ops

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.balance import Balance
from keras_distill.evaluation import Agreement, check
from keras_distill.losses import Hint, KullbackLeibler, SoftBinary
from keras_distill.schedules import WarmUp
from keras_distill.teachers import CachedTeacher, EMATeacher, Ensemble, ModelTeacher, with_activations


def clusters(examples=256, classes=4, seed=0):
    """Inputs of shape `[examples, 8]` around a centre for each class, and class numbers."""
    labels = np.random.default_rng(seed).integers(0, classes, examples)
    return (features(classes, 8, seed=5, scale=2)[labels] + features(examples, 8, seed=seed)).astype("float32"), labels


def network(width=8, name="student", **options):
    return mlp(width, 4, name, **options)


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(1)
    model = network(16, "teacher")
    model.compile(keras.optimizers.Adam(0.01), crossentropy())
    model.fit(*clusters(), epochs=8, verbose=0)
    return model


def terms(**options):
    return [
        Term(KullbackLeibler(2.0), weight=0.9),
        Term(Hint(), "features", "features", head="auto", weight=0.1, **options),
    ]


def healthy(teacher, student=None, given=None, optimizer=None, **options):
    model = Distiller(student or network(), teacher, terms() if given is None else given, 0.1)
    return compiled(model, optimizer or keras.optimizers.Adam(1e-3), **options)


def names(findings):
    return [finding.name for finding in findings]


def only(findings, name, *words):
    """The only finding, of this name, in which the words occur."""
    assert names(findings) == [name], [str(finding) for finding in findings]
    assert all(word in str(findings[0]) for word in words), str(findings[0])
    return findings[0]


def as_function(model, change):
    """A teacher of which nobody can tell what it ends in."""
    return lambda x: change(model(x))


# Nothing is wrong.


def test_nothing_is_found_where_nothing_is_wrong(teacher):
    x, y = clusters()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    assert check(healthy(teacher), dataset, batches=8) == []
    assert check(healthy(teacher), x, y, batches=4, batch_size=16) == []


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
def test_optimizers_as_they_are_used(optimizer, teacher):
    assert check(healthy(teacher, optimizer=optimizer()), *clusters()) == []


@pytest.mark.parametrize("kind", ["cached", "ensemble", "ema", "none", "function", "inputs"])
def test_any_teacher(kind, teacher):
    x, y = clusters()
    student, given, inputs = network(), [Term(KullbackLeibler(2.0))], x
    if kind == "cached":
        logits = np.array(teacher(x))
        taught_by, inputs = CachedTeacher({"output": logits}), with_activations(x, {"output": logits})
    elif kind == "ensemble":
        taught_by = Ensemble([teacher, keras.models.clone_model(teacher)], weights=[3, 1])
    elif kind == "ema":
        taught_by = EMATeacher(teacher)
        student = keras.models.clone_model(teacher)
        student.set_weights(teacher.get_weights())
    elif kind == "none":
        taught_by, given = None, []
    elif kind == "function":
        taught_by = as_function(teacher, lambda logits: logits)
    else:
        taught_by = ModelTeacher(teacher, inputs=lambda x: x * 1.0)
    assert check(healthy(taught_by, student, given), inputs, y) == []


def test_labels_may_be_missing(teacher):
    x, y = clusters()
    distiller = healthy(teacher)
    assert check(distiller, x) == []
    y[64:] = -1
    assert check(distiller, x, y) == []
    one_hot = np.eye(4, dtype="float32")[y]
    one_hot[y < 0] = np.nan
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    assert check(healthy(teacher, loss=loss), x, one_hot) == []
    unsupervised = healthy(teacher)
    unsupervised.compile("adam")
    assert check(unsupervised, x) == []


def test_sample_weights_metrics_balances_and_warm_ups(teacher):
    x, y = clusters()
    given = [
        Term(KullbackLeibler(2.0), weight=WarmUp(0.9, steps=500)),
        Term(Hint(), "features", "features", head="auto", weight=Balance(0.1)),
    ]
    distiller = healthy(teacher, given=given, metrics=["accuracy", Agreement()])
    weighted = tf.data.Dataset.from_tensor_slices((x, y, np.ones(256, "float32"))).batch(32)
    assert check(distiller, weighted) == []


def test_mixed_precision(teacher):
    keras.config.set_dtype_policy("mixed_float16")
    assert check(healthy(teacher), *clusters()) == []


def several(name, width=8):
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(width, activation="relu", name="features")(inputs)
    return keras.Model(
        inputs, {"kind": keras.layers.Dense(4)(hidden), "size": keras.layers.Dense(1)(hidden)}, name=name
    )


def test_several_outputs():
    x, y = clusters()
    teacher, student = several("teacher", 16), several("student")
    labels = {"kind": y, "size": x[:, :1]}
    losses = {"kind": crossentropy(), "size": "mse"}
    teacher.compile(keras.optimizers.Adam(0.01), losses)
    teacher.fit(x, labels, epochs=8, verbose=0)
    distiller = healthy(teacher, student, [Term(KullbackLeibler(2.0), "output[kind]", "output[kind]")], loss=losses)
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(32)
    assert check(distiller, dataset) == []
    labels["kind"] = labels["kind"] + 1
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(32)
    only(check(distiller, dataset), "labels out of range", "'kind'")


# Outputs, labels and teachers.


def test_a_teacher_that_gives_probabilities(teacher):
    x, y = clusters()
    by_function = as_function(teacher, lambda logits: ops.softmax(logits) * 1.0)
    only(check(healthy(by_function, given=[Term(KullbackLeibler(1.0))]), x, y), "probabilities", "teacher", "'output'")
    stored = {"output": np.array(ops.softmax(teacher(x)))}
    distiller = healthy(CachedTeacher(stored), given=[Term(KullbackLeibler(1.0))])
    only(check(distiller, with_activations(x, stored), y), "probabilities", "the logarithm")
    # Their logarithms are logits.
    by_function = as_function(teacher, lambda logits: ops.log_softmax(logits))
    assert check(healthy(by_function, given=[Term(KullbackLeibler(1.0))]), x, y) == []


def ending_in(function, name="student"):
    inputs = keras.Input((8,))
    features = keras.layers.Dense(8, activation="relu", name="features")(inputs)
    logits = keras.layers.Dense(4, name="logits")(features)
    return keras.Model(inputs, keras.layers.Lambda(function, output_shape=(4,))(logits), name=name)


def test_a_student_that_gives_probabilities(teacher):
    student = ending_in(lambda x: ops.softmax(x) * 1.0)
    given = [Term(KullbackLeibler(2.0), "logits", "output")]
    only(check(healthy(teacher, student, given), *clusters()), "probabilities", "student", "'output'")
    fit = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    assert check(healthy(teacher, student, given, loss=fit), *clusters()) == []


@pytest.mark.parametrize("wrong", [4, -2, 1.5])
def test_class_numbers_out_of_range(wrong, teacher):
    x, y = clusters()
    y = y.astype("float32")
    y[5] = wrong
    found = only(check(healthy(teacher), x, y), "labels out of range", "4 classes", "whole numbers from 0 to 3")
    assert f"1 of 256, such as [{float(wrong)}]" in found.seen


def test_one_hot_labels_that_are_none(teacher):
    x, y = clusters()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    only(check(healthy(teacher, loss=loss), x, 100 * one_hot), "labels out of range", "from 0 to 1")
    only(check(healthy(teacher, loss=loss), x, 0.5 * one_hot), "labels out of range", "rows of the sum 1")
    assert check(healthy(teacher, loss=loss), x, 0.9 * one_hot + 0.025) == []
    # To a loss that is none of classes, any number may be a label.
    regression = [Term(Hint(), "features", "features", head="auto")]
    assert check(healthy(teacher, given=regression, loss="mse"), x, 3 * one_hot) == []


def test_a_teacher_with_its_classes_in_another_order(teacher):
    x, y = clusters()
    turned = as_function(teacher, lambda logits: ops.take(logits, [2, 0, 3, 1], axis=-1))
    found = only(check(healthy(turned, given=[Term(KullbackLeibler(2.0))]), x, y), "class order", "'output'")
    # Class 0 of the labels stands second in the teacher.
    assert "classes=[1, 3, 0, 2]" in found.advice
    mended = ModelTeacher(turned, classes=[1, 3, 0, 2])
    assert check(healthy(mended, given=[Term(KullbackLeibler(2.0))]), x, y) == []


def test_two_classes_exchanged(teacher):
    turned = as_function(teacher, lambda logits: ops.take(logits, [1, 0, 2, 3], axis=-1))
    found = check(healthy(turned, given=[Term(KullbackLeibler(2.0))]), *clusters())
    assert "classes=[1, 0, 2, 3]" in only(found, "class order").advice


def test_a_teacher_no_better_than_chance():
    untrained = network(16, "teacher")
    x, y = clusters()
    # Of labels that have nothing to do with the inputs, any teacher knows as much as chance.
    shuffled = np.random.default_rng(3).permutation(y)
    only(
        check(healthy(untrained, given=[Term(KullbackLeibler(2.0))]), x, shuffled), "teacher by chance", "chance gives"
    )


def test_a_teacher_that_always_says_the_most_frequent_class():
    x, y = clusters()
    y = np.where(np.arange(256) % 10 < 8, 0, y)
    constant = as_function(network(), lambda logits: 0.01 * logits + np.float32([3, 0, 0, 0]))
    found = check(healthy(constant, given=[Term(KullbackLeibler(2.0))]), x, y)
    assert "teacher by chance" in names(found)


def test_few_labels_say_nothing_of_a_teacher():
    x, y = clusters()
    y[20:] = -1
    assert check(healthy(network(16, "teacher"), given=[Term(KullbackLeibler(2.0))]), x, y) == []


def test_data_that_come_class_by_class_say_nothing_of_chance(teacher):
    x, y = clusters()
    assert check(healthy(teacher), x[y == 0], y[y == 0]) == []


def test_inputs_that_were_scaled_otherwise_than_the_teacher_s(teacher):
    x, y = clusters()
    strange = ModelTeacher(teacher, inputs=lambda x: 8.0 * ops.abs(x))
    found = check(healthy(strange, given=[Term(KullbackLeibler(2.0))]), x, y)
    only(found, "teacher sure and wrong", "mean confidence", "preprocessing")


def test_a_teacher_worse_than_the_student(teacher):
    x, y = clusters()
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    blurred = as_function(teacher, lambda logits: 0.1 * logits + 0.8 * ops.roll(logits, 3, axis=0))
    found = check(healthy(blurred, student, [Term(KullbackLeibler(2.0))]), x, y)
    only(found, "teacher worse than student", "before it learnt")


@pytest.mark.parametrize("temperature, name", [(5000.0, "temperature too high"), (0.02, "temperature too low")])
def test_temperatures_that_leave_nothing(temperature, name, teacher):
    found = check(healthy(teacher, given=[Term(KullbackLeibler(temperature), name="soft")]), *clusters())
    assert name in names(found)
    assert "term 'soft' (KullbackLeibler)" in found[0].what


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_temperatures_as_they_are_used(temperature, teacher):
    assert check(healthy(teacher, given=[Term(KullbackLeibler(temperature))]), *clusters()) == []


def test_yes_or_no_logits_are_no_classes(teacher):
    x, y = clusters()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    assert check(healthy(teacher, given=[Term(SoftBinary(2.0))], loss=loss), x, one_hot) == []
    only(check(healthy(teacher, given=[Term(SoftBinary(2.0))], loss=loss), x, 2 * one_hot), "labels out of range")


# Numbers.


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
    distiller = healthy(CachedTeacher(stored), given=[Term(KullbackLeibler())])
    stored["output"][9] = np.inf
    only(check(distiller, with_activations(x, stored), y), "not finite", "stored activations 'output'")


def test_activations_that_are_not_finite(teacher):
    student = ending_in(lambda x: ops.log(ops.relu(x)))
    only(check(healthy(teacher, student), *clusters()), "not finite", "student puts out at 'output'")
    broken = as_function(teacher, lambda logits: logits / 0.0)
    only(check(healthy(broken, given=[Term(KullbackLeibler())]), *clusters()), "not finite", "teacher puts out")


def test_losses_that_are_not_finite(teacher):
    def loss(y_true, y_pred):
        return ops.sum(ops.log(y_pred - 1e6), axis=-1)

    found = only(check(healthy(teacher, loss=loss), *clusters()), "not finite", "The supervised loss is nan")
    assert "all activations are finite" in found.what


def test_gradients_that_are_not_finite(teacher):
    # The square root of 0 is 0, and its slope is not finite.
    student = ending_in(lambda x: x + ops.sqrt(ops.relu(x - 1e3)))
    only(check(healthy(teacher, student), *clusters()), "not finite", "gradient holds NaN", "kernel")


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


# Steps.


def test_a_frozen_student(teacher):
    student = network()
    student.trainable = False
    only(check(healthy(teacher, student), *clusters()), "frozen student", "'student'", "0 of 4 weights")
    cut = ending_in(lambda x: ops.stop_gradient(x))
    found = check(healthy(teacher, cut, [Term(KullbackLeibler())]), *clusters())
    only(found, "frozen student", "gradients of all are 0")
    part = network()
    part.get_layer("features").trainable = False
    assert check(healthy(teacher, part, [Term(KullbackLeibler())]), *clusters()) == []


def test_a_term_that_reaches_no_weight(teacher):
    student = network()
    student.get_layer("features").trainable = False
    only(check(healthy(teacher, student), *clusters()), "no gradient", "Term 'hint'")


def test_a_term_that_drowns_the_others(teacher):
    x, y = clusters()
    given = [Term(KullbackLeibler(2.0), weight=0.9), Term(Hint(), "features", "features", head="auto", weight=1e4)]
    found = check(healthy(teacher, given=given, optimizer=keras.optimizers.Adam(1e-3)), x, y)
    finding = only(found, "drowned terms", "Term 'hint' drowns", "Balance")
    assert "the supervised loss 0.0" in finding.seen
    given = [Term(KullbackLeibler(2.0), weight=1e-6)]
    only(
        check(healthy(teacher, given=given), x, y), "drowned terms", "The supervised loss drowns", "`supervised_weight`"
    )
    # Before its warm-up a term has no share, which is not what it will have.
    given = [Term(KullbackLeibler(2.0)), Term(Hint(), "features", "features", head="auto", weight=WarmUp(0.1, 500))]
    assert check(healthy(teacher, given=given), x, y) == []


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(30.0), lambda: keras.optimizers.SGD(1e3), lambda: keras.optimizers.SGD(1e18)],
)
def test_a_learning_rate_at_which_the_loss_explodes(optimizer, teacher):
    found = check(healthy(teacher, optimizer=optimizer()), *clusters())
    assert "learning rate too high" in names(found)
    assert "clipnorm" in found[0].advice


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(1e-9),
        lambda: keras.optimizers.SGD(1e-8),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-9, 100, 0.9)),
        lambda: keras.optimizers.SGD(0.0),
    ],
)
def test_a_learning_rate_at_which_nothing_moves(optimizer, teacher):
    only(check(healthy(teacher, optimizer=optimizer()), *clusters()), "learning rate too low", "hardly move")


# What it leaves behind, and what it refuses.


class Moody(keras.layers.Layer):
    """Draws from every source of random numbers, and counts."""

    def build(self, shape):
        self.seeds = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs, training=False):
        self.calls.assign_add(1.0)
        noise = keras.random.normal((8,), seed=self.seeds) + keras.random.normal((8,)) + tf.random.normal((8,))
        return inputs + (0.01 * noise if training else 0.0)


def moody():
    return keras.Sequential(
        [
            keras.Input((8,)),
            Moody(),
            keras.layers.Dense(8, "relu", name="features"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(4),
        ],
        name="student",
    )


def everything(distiller):
    """All numbers of a distiller, and what comes next of all random numbers."""
    variables = [
        *distiller.variables,
        *distiller.metrics_variables,
        *distiller.optimizer.variables,
        *distiller.teacher.weights,
    ]
    return [np.array(variable) for variable in variables]


def drawn():
    return [random.random(), np.random.random(), np.array(keras.random.normal(())), np.array(tf.random.normal(()))]


@pytest.mark.parametrize("begun", [False, True])
def test_changes_nothing(begun, teacher):
    x, y = clusters()

    def made():
        keras.utils.set_random_seed(3)
        given = [terms()[0], Term(Hint(), "features", "features", head="auto", weight=Balance(0.1))]
        student = moody()
        distiller = healthy(
            EMATeacher(student), student, given, keras.optimizers.Adam(1e-3), metrics=["accuracy", Agreement()]
        )
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(256, seed=1).batch(32)
        if begun:
            distiller.fit(dataset, epochs=1, verbose=0)
        return distiller, dataset

    distiller, dataset = made()
    before = everything(distiller)
    assert check(distiller, dataset) is not None
    assert len(before) == len(everything(distiller))
    for one, two in zip(before, everything(distiller)):
        np.testing.assert_array_equal(one, two)
    checked = distiller.fit(dataset, epochs=2, verbose=0).history, everything(distiller), drawn()
    other, other_dataset = made()
    unchecked = other.fit(other_dataset, epochs=2, verbose=0).history, everything(other), drawn()
    assert checked[0] == unchecked[0] and checked[2] == unchecked[2]
    for one, two in zip(checked[1], unchecked[1], strict=True):
        np.testing.assert_array_equal(one, two)


def test_gives_everything_back_when_something_fails(teacher):
    def fails(y_true, y_pred):
        raise RuntimeError("no loss")

    x, y = clusters()
    distiller = healthy(teacher, moody(), loss=fails)
    before = everything(distiller)
    with pytest.raises(RuntimeError, match="no loss"):
        check(distiller, x, y)
    for one, two in zip(before, everything(distiller), strict=True):
        np.testing.assert_array_equal(one, two)


def test_losses_of_several_outputs_count_as_before():
    x, y = clusters()
    distiller = Distiller(
        several("student"), several("teacher"), [Term(KullbackLeibler(), "output[kind]", "output[kind]")]
    )
    compiled(distiller, loss={"kind": crossentropy(), "size": "mse"})
    labels = {"kind": y, "size": x[:, :1]}
    distiller.train_on_batch(x, labels)
    before = everything(distiller), distiller.get_metrics_result()
    check(distiller, tf.data.Dataset.from_tensor_slices((x, labels)).batch(32))
    assert distiller.get_metrics_result() == before[1]
    for one, two in zip(before[0], everything(distiller), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_layer_s_own_count_is_given_back(teacher):
    counter = Counter()
    student = keras.Sequential([keras.Input((8,)), counter, *network().layers], name="student")
    assert check(healthy(teacher, student, [Term(KullbackLeibler())]), *clusters()) == []
    assert counter.counted() == (0, 0)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        x, y = clusters()
        return x[32 * index : 32 * index + 32], y[32 * index : 32 * index + 32]


def test_what_data_may_be(teacher):
    assert check(healthy(teacher), Batches()) == []
    x, y = clusters()
    for data, message in [
        (((x, y) for _ in range(3)), "iterator or generator gives once is gone.*generator"),
        (tf.data.Dataset.from_tensor_slices((x, y)), "inputs of the shapes .* Was the data set batched"),
        (tf.data.Dataset.from_tensor_slices((x, y)).batch(8).take(0), "hold no batch"),
    ]:
        with pytest.raises(ValueError, match=message):
            check(healthy(teacher), data)
    with pytest.raises(ValueError, match=r"same number of examples. Received: \[255, 256\]"):
        check(healthy(teacher), x, y[1:])


def test_what_is_no_compiled_distiller_is_refused(teacher):
    x, y = clusters()
    with pytest.raises(ValueError, match="Received: MutualDistiller. To check peers"):
        check(compiled(MutualDistiller([network(), network(16, "other")])), x, y)
    with pytest.raises(ValueError, match="Received: Sequential"):
        check(teacher, x, y)
    with pytest.raises(ValueError, match="not compiled.*Call `compile` first"):
        check(Distiller(network(), teacher, terms()), x, y)


def test_a_finding_reads_as_a_few_lines(teacher):
    finding = only(check(healthy(teacher, optimizer=keras.optimizers.SGD(0.0)), *clusters()), "learning rate too low")
    what, seen, advice = str(finding).split("\n")
    assert (what, seen, advice) == (finding.what, f"  Seen: {finding.seen}", f"  Do:   {finding.advice}")
