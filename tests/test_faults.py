"""Regression tests for the faults D1 to D25 of `keras.distillation` in Keras 3.15, listed in docs/migrating.

One file, so that the faults can be read in the order of their numbers. The values of single losses are also tested in
`tests/losses`.
"""

import os
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.losses import Hint, KLDivergence
from keras_distill.models.taps import Taps
from keras_distill.schedules import Linear
from keras_distill.teachers import CachedTeacher, ModelTeacher, with_activations
from tests.support.helpers import (
    Counter,
    assert_same_weights,
    compiled,
    crossentropy,
    data,
    features,
    fitted,
    mlp,
    softened_kl,
    softmax,
    weights_of,
    zero_rate_sgd,
)


def test_d1_loss_is_the_kl_divergence_of_softmaxes():
    (x, y), student, teacher = data(), mlp(), mlp(16, name="teacher")
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(2.0))]), zero_rate_sgd())
    logged = fitted(distiller, x, y)["kl_divergence_loss"][0]
    reference = softened_kl(student.predict(x, verbose=0), teacher.predict(x, verbose=0), 2.0).mean()
    np.testing.assert_allclose(logged, reference, rtol=1e-5)


def test_d1_distillation_without_labels_gives_high_agreement():
    x = features(512, 8)
    student, teacher = mlp(32), mlp(32, name="teacher")
    teacher.get_layer("logits").kernel.assign(teacher.get_layer("logits").kernel * 4)
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(1.0))])
    distiller.compile(keras.optimizers.Adam(0.01))
    fitted(distiller, x, epochs=40, batch_size=64)
    predictions = [model.predict(x, verbose=0).argmax(axis=-1) for model in (student, teacher)]
    assert np.mean(predictions[0] == predictions[1]) > 0.97


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "kl_divergence", keras.losses.KLDivergence()])
def test_d2_keras_losses_raise(loss):
    with pytest.raises(ValueError, match=r"Use keras_distill.losses.KLDivergence\(\), which compares logits"):
        Term(loss)


def model_with_counter(width, name):
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, name="features"),
            Counter(name="counter"),
            keras.layers.Dense(3, name="logits"),
        ],
        name=name,
    )


def test_d3_one_forward_pass_per_model_and_step():
    (x, y), student, teacher = data(32), model_with_counter(8, "student"), model_with_counter(16, "teacher")
    terms = [Term(KLDivergence()), Term(Hint(), "features", "features", "auto"), Term(Hint(), "logits", "logits")]
    fitted(compiled(Distiller(student=student, teacher=teacher, terms=terms)), x, y)
    assert student.get_layer("counter").counted() == (4, 0)
    assert teacher.get_layer("counter").counted() == (0, 4)


def stateful_model(name="student"):
    inputs = keras.Input((8,))
    x = keras.layers.BatchNormalization(name="normalized")(keras.layers.Dense(8, name="features")(inputs))
    x = keras.layers.Dropout(0.5, seed=3, name="dropped")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name=name)


def test_d4_moving_statistics_are_updated_once_per_step():
    (x, y), student, teacher = data(), stateful_model(), mlp(16, name="teacher")
    baseline = keras.models.clone_model(student)
    baseline.set_weights(weights_of(student))
    terms = [Term(KLDivergence()), Term(Hint(), "features", "features", "auto")]
    fitted(compiled(Distiller(student=student, teacher=teacher, terms=terms), zero_rate_sgd()), x, y)
    baseline.compile(zero_rate_sgd(), crossentropy())
    fitted(baseline, x, y)
    for name in ("moving_mean", "moving_variance"):
        ours, plain = (getattr(model.get_layer("normalized"), name).numpy() for model in (student, baseline))
        np.testing.assert_allclose(ours, plain, rtol=1e-6)
        assert np.abs(ours).max() > 0


def test_d4_features_and_logits_come_from_one_pass():
    student, x = stateful_model(), features(16, 8)
    activations = Taps(student, ["dropped", "output"])(x, training=True)
    assert (activations["dropped"].numpy() == 0).any()
    np.testing.assert_array_equal(student.get_layer("logits")(activations["dropped"]), activations["output"])


def test_d5_evaluate_changes_nothing():
    (x, y), student, teacher = data(), stateful_model(), stateful_model("teacher")
    terms = [Term(KLDivergence()), Term(Hint(), "dropped", "dropped")]
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=terms))
    before = weights_of(student), weights_of(teacher)
    first, second = (distiller.evaluate(x, y, verbose=0, return_dict=True) for _ in range(2))
    assert first == second
    assert_same_weights(before[0] + before[1], weights_of(student) + weights_of(teacher), rtol=0, atol=0)


def test_d6_sample_weights_apply_to_all_losses():
    (x, y), teacher = data(8), mlp(16, name="teacher")
    weight = np.arange(8, dtype="float32")
    distiller = compiled(
        Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence(2.0)), Term(Hint(), "logits", "logits")]),
        zero_rate_sgd(),
    )
    logged = fitted(distiller, x, y, sample_weight=weight)
    student_logits, teacher_logits = distiller.predict(x, verbose=0), teacher.predict(x, verbose=0)
    kl, hint = softened_kl(student_logits, teacher_logits, 2.0), ((student_logits - teacher_logits) ** 2).mean(axis=-1)
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], np.mean(kl * weight), rtol=1e-5)
    np.testing.assert_allclose(logged["hint_loss"][0], np.mean(hint * weight), rtol=1e-5)


def test_d6_zero_sample_weights_change_nothing():
    (x, y), student = data(), mlp()
    distiller = compiled(Distiller(student=student, teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())]))
    before = weights_of(student)
    assert fitted(distiller, x, y, sample_weight=np.zeros(24))["loss"] == [0.0]
    assert_same_weights(before, weights_of(student), rtol=0, atol=0)


def test_d6_class_weights_equal_sample_weights():
    (x, y), teacher = data(), mlp(16, name="teacher")
    weight = {0: 0.5, 1: 2.0, 2: 3.0}
    results = []
    for options in ({"class_weight": weight}, {"sample_weight": np.vectorize(weight.get)(y)}):
        keras.utils.set_random_seed(0)
        results.append(
            fitted(compiled(Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())])), x, y, **options)
        )
    assert results[0] == results[1]
    assert results[0]["kl_divergence_loss"][0] != results[0]["supervised_loss"][0]


def test_d7_regularizers_and_added_losses_are_included():
    class Added(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(0.25 * keras.ops.mean(inputs**2))
            return inputs

    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1), name="regular")(inputs)
    student = keras.Model(inputs, keras.layers.Dense(3)(Added()(x)), name="student")
    (x, y), kernel = data(8), student.get_layer("regular").kernel.numpy()
    hidden = x @ kernel
    distiller = Distiller(
        student=student,
        teacher=mlp(16, name="teacher"),
        terms=[Term(KLDivergence(), weight=2.0)],
        supervised_weight=0.5,
    )
    logged = fitted(compiled(distiller, zero_rate_sgd()), x, y)
    extra = 0.1 * (kernel**2).sum() + 0.25 * (hidden**2).mean()
    parts = 0.5 * logged["supervised_loss"][0] + 2.0 * logged["kl_divergence_loss"][0]
    np.testing.assert_allclose(logged["loss"][0], parts + extra, rtol=1e-5)
    compiled(distiller, keras.optimizers.SGD(0.5))
    fitted(distiller, x, y, epochs=60)
    assert np.linalg.norm(student.get_layer("regular").kernel) < 0.3 * np.linalg.norm(kernel)


@pytest.mark.parametrize("width", [16, 1])
def test_d8_shape_mismatch_raises_before_training(width):
    with pytest.raises(ValueError, match=r"student 'features' of shape \(None, 8\).*teacher 'features'.*head='auto'"):
        Distiller(student=mlp(8), teacher=mlp(width, name="teacher"), terms=[Term(Hint(), "features", "features")])


def cnn(channels, stride, name):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(channels, 3, stride, padding="same", name="map"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ],
        name=name,
    )


def test_d8_default_head_adapts_width_and_resolution():
    student, teacher = cnn(4, 2, "student"), cnn(6, 1, "teacher")
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "map", "map", head="auto")]))
    assert distiller.heads[0].trainable_variables
    before = weights_of(distiller.heads[0])
    history = fitted(distiller, features(24, 8, 8, 1), data()[1], epochs=3)
    assert history["hint_loss"][-1] < history["hint_loss"][0]
    assert any((one != other).any() for one, other in zip(before, weights_of(distiller.heads[0])))


class Subclassed(keras.Model):
    def __init__(self, width, name):
        super().__init__(name=name)
        self.backbone = keras.Sequential([keras.layers.Dense(width, name="hidden")], name="backbone")
        self.top = keras.layers.Dense(3, name="top")

    def call(self, inputs):
        return self.top(self.backbone(inputs))


def nested(width, name):
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(width, name="hidden")], name="backbone")
    return keras.Model(inputs, keras.layers.Dense(3)(inner(inputs)), name=name)


def unbuilt(width, name):
    return keras.Sequential(
        [keras.Sequential([keras.layers.Dense(width, name="hidden")], name="backbone"), keras.layers.Dense(3)],
        name=name,
    )


@pytest.mark.parametrize("make", [Subclassed, nested, unbuilt])
def test_d9_taps_of_subclassed_nested_and_unbuilt_models(make):
    x, y = data()
    terms = [Term(Hint(), "hidden", "backbone/hidden"), Term(Hint(), "backbone", "hidden")]
    distiller = compiled(Distiller(student=make(4, "student"), teacher=make(4, "teacher"), terms=terms, inputs=x[:1]))
    history = fitted(distiller, x, y, epochs=2)
    assert history["hint_loss"] == history["hint_2_loss"]
    assert history["hint_loss"][1] < history["hint_loss"][0]


def test_d10_named_layer_is_compared():
    (x, y), student, teacher = data(), mlp(3), mlp(16, name="teacher")
    logged = fitted(
        compiled(
            Distiller(student=student, teacher=teacher, terms=[Term(Hint(), student="features")]), zero_rate_sgd()
        ),
        x,
        y,
    )
    hidden = Taps(student, ["features"])(x, training=False)["features"].numpy()
    reference = ((hidden - teacher.predict(x, verbose=0)) ** 2).mean()
    np.testing.assert_allclose(logged["hint_loss"][0], reference, rtol=1e-5)


def two_outputs(name, kind):
    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    first, second = keras.layers.Dense(3, name="topic")(x), keras.layers.Dense(2, name="tone")(x)
    return keras.Model(inputs, {"topic": first, "tone": second} if kind == "dict" else [first, second], name=name)


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_d11_models_with_several_outputs(kind):
    (x, topic), tone = data(), np.arange(24) % 2
    terms = [Term(KLDivergence(), "output[tone]", "output[tone]", weight=0.5)]
    student, teacher = two_outputs("student", kind), two_outputs("teacher", kind)
    losses = {"topic": crossentropy(), "tone": crossentropy()}
    labels = {"topic": topic, "tone": tone}
    if kind == "list":
        losses, labels = list(losses.values()), list(labels.values())
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=terms), loss=losses, metrics=[["accuracy"], ["accuracy"]]
    )
    history = fitted(distiller, x, labels, epochs=3)
    assert history["loss"][-1] < history["loss"][0]
    assert {"topic_loss", "tone_loss", "topic_accuracy", "tone_accuracy", "kl_divergence_loss"} <= set(history)
    np.testing.assert_allclose(
        history["supervised_loss"], np.add(history["topic_loss"], history["tone_loss"]), rtol=1e-5
    )


def test_d12_saved_files_do_not_contain_the_teacher(tmp_path):
    student, teacher = mlp(), mlp(4000, name="giant")
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())]))
    fitted(distiller, *data(), callbacks=[keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))])
    distiller.save(tmp_path / "distiller.keras")
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    student.save(tmp_path / "student.keras")
    distiller.export(tmp_path / "exported", verbose=False)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert sum(path.stat().st_size for path in files) < 4 * teacher.count_params()
    for path in files:
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = b"".join(archive.read(name) for name in archive.namelist())
        assert b"giant" not in content, path


def test_d13_resumed_training_is_bit_exact(tmp_path):
    (x, y), teacher = data(), mlp(16, name="teacher")
    terms = [
        Term(KLDivergence(Linear(8.0, 1.0, 12)), weight=Linear(1.0, 0.2, 10)),
        Term(Hint(), "features", "features", head="auto"),
    ]
    distiller = compiled(
        Distiller(student=stateful_model(), teacher=teacher, terms=terms),
        keras.optimizers.Adam(0.01),
        metrics=["accuracy"],
    )
    fitted(distiller, x, y, epochs=2)
    distiller.save(tmp_path / "distiller.keras")
    uninterrupted = fitted(distiller, x, y, epochs=2)
    resumed = load_distiller(tmp_path / "distiller.keras", teacher)
    assert resumed.optimizer.iterations.numpy() == 6
    assert fitted(resumed, x, y, epochs=2) == uninterrupted
    assert_same_weights(weights_of(distiller), weights_of(resumed), rtol=0, atol=0)


def test_d14_hyperparameter_search_saves_only_students(tmp_path):
    import keras_tuner

    (x, y), teacher = data(), mlp(4000, name="teacher")

    def build(hp):
        temperature = hp.Float("temperature", 1.0, 8.0)
        return compiled(
            Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence(temperature))]), metrics=["accuracy"]
        )

    tuner = keras_tuner.RandomSearch(
        build, keras_tuner.Objective("val_loss", "min"), max_trials=2, seed=0, directory=tmp_path, project_name="search"
    )
    tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
    best = tuner.get_best_models(1)[0]
    score = tuner.oracle.get_best_trials(1)[0].score
    np.testing.assert_allclose(best.evaluate(x, y, verbose=0, return_dict=True)["loss"], score, rtol=1e-5)
    checkpoints = list(tmp_path.rglob("*.h5"))
    assert len(checkpoints) == 2
    assert max(os.path.getsize(path) for path in checkpoints) < 60_000


def test_d15_cached_activations_are_reused_in_every_epoch():
    (x, y), teacher = data(), model_with_counter(16, "teacher")
    logits = teacher.predict(x, batch_size=8, verbose=0)
    histories = []
    for source, inputs in (
        (CachedTeacher({"output": logits}), with_activations(x, {"output": logits})),
        (teacher, x),
    ):
        keras.utils.set_random_seed(0)
        before = teacher.get_layer("counter").counted()[1]
        distiller = compiled(Distiller(student=mlp(), teacher=source, terms=[Term(KLDivergence())]))
        histories.append(fitted(distiller, inputs, y, epochs=10, shuffle=True))
        passes = teacher.get_layer("counter").counted()[1] - before
        assert passes == (0 if inputs is not x else 30)
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_d16_large_logit_differences_are_not_clipped(dtype):
    logits = tf.constant([[0.0, -40.0, 0.0]], dtype)
    teacher = tf.constant([[-80.0, 0.0, -80.0]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        (loss,) = KLDivergence(1.0).compare(tf.cast(logits, "float32"), tf.cast(teacher, "float32"), Batch(None))
    np.testing.assert_allclose(loss, 40 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(tf.cast(tape.gradient(loss, logits), "float32"), [[0.5, -1.0, 0.5]], atol=1e-6)


@pytest.mark.parametrize(
    "policies", [("mixed_float16", "float32"), ("float32", "mixed_bfloat16"), ("mixed_bfloat16",) * 2]
)
def test_d17_student_and_teacher_with_different_dtype_policies(policies):
    models = []
    for policy, name in zip(policies, ("student", "teacher")):
        keras.config.set_dtype_policy(policy)
        models.append(mlp(8 if name == "student" else 16, name=name))
    keras.config.set_dtype_policy("float32")
    terms = [Term(KLDivergence()), Term(Hint(), "features", "features", head="auto")]
    distiller = compiled(Distiller(student=models[0], teacher=models[1], terms=terms), keras.optimizers.SGD(0.05))
    history = fitted(distiller, *data(), epochs=4)
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    scaled = type(distiller.optimizer).__name__ == "LossScaleOptimizer"
    assert scaled == (policies[0] == "mixed_float16")


@pytest.fixture(scope="module")
def replicas():
    # One strategy for the whole module, because a second one would break the collective operations of the first.
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy()])
def test_d18_two_replicas_match_one(replicas, loss):
    (x, y), results = data(), []
    for strategy in (tf.distribute.get_strategy(), replicas):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            student, teacher = mlp(kernel_regularizer=keras.regularizers.L2(0.01)), mlp(16, name="teacher")
            student.add(keras.layers.Softmax())
            terms = [Term(KLDivergence(), "logits"), Term(Hint(), "features", "features", head="auto")]
            distiller = compiled(
                Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=0.5),
                loss=loss,
                metrics=["accuracy"],
            )
        results.append((fitted(distiller, x, y, epochs=3), weights_of(student)))
    (one, weights), (two, other) = results
    assert_same_weights(weights, other)
    assert set(one) == set(two) and "accuracy" in one
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, err_msg=name)


def tokens(width, name):
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(20, width, mask_zero=True),
            keras.layers.Dense(width, name="features"),
            keras.layers.Dense(4, name="logits"),
        ],
        name=name,
    )


PADDED = np.array([[3, 4, 5, 6, 7], [8, 9, 0, 0, 0], [1, 2, 3, 0, 0]])


def test_d19_padded_tokens_are_excluded():
    student, teacher = tokens(6, "student"), tokens(6, "teacher")
    terms = [Term(KLDivergence(2.0)), Term(Hint(), "features", "features")]
    distiller = compiled(Distiller(student=student, teacher=teacher, terms=terms), zero_rate_sgd())
    logged = fitted(distiller, PADDED, np.zeros((3, 5), int))
    outputs = [Taps(model, ["features", "logits"])(PADDED, training=False) for model in (student, teacher)]
    valid = PADDED != 0
    hint = ((outputs[0]["features"].numpy() - outputs[1]["features"].numpy()) ** 2).mean(axis=-1)
    kl = softened_kl(outputs[0]["logits"], outputs[1]["logits"], 2.0)
    for name, values in (("kl_divergence_loss", kl), ("hint_loss", hint)):
        reference = np.mean([row[row_valid].mean() for row, row_valid in zip(values, valid)])
        np.testing.assert_allclose(logged[name][0], reference, rtol=1e-5)


def test_d19_teacher_outputs_at_padding_have_no_effect():
    student, teacher = tokens(6, "student"), tokens(6, "teacher")
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence()), Term(Hint(), "features", "features")]),
        zero_rate_sgd(),
    )
    before = fitted(distiller, PADDED, np.zeros((3, 5), int))
    embeddings = teacher.layers[0].embeddings
    embeddings.assign(tf.tensor_scatter_nd_update(embeddings, [[0]], [[100.0] * 6]))
    assert fitted(distiller, PADDED, np.zeros((3, 5), int)) == before


def test_d20_loss_is_the_weighted_sum_of_the_logged_terms():
    (x, y), teacher = data(21), mlp(16, name="teacher")
    terms = [Term(KLDivergence(), weight=0.7), Term(Hint(), "logits", "logits", weight=0.2, name="like")]
    student = mlp()
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=0.3), zero_rate_sgd()
    )
    logged = {name: values[0] for name, values in fitted(distiller, x, y).items()}
    assert set(logged) == {"loss", "supervised_loss", "kl_divergence_loss", "like_loss"}
    parts = 0.3 * logged["supervised_loss"] + 0.7 * logged["kl_divergence_loss"] + 0.2 * logged["like_loss"]
    np.testing.assert_allclose(logged["loss"], parts, rtol=1e-6)
    # The last batch has 5 examples instead of 8, so it must have a smaller weight in the mean.
    kl = softened_kl(student.predict(x, verbose=0), teacher.predict(x, verbose=0), 1.0).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"], kl, rtol=1e-5)


def test_d21_training_without_labels():
    x, _ = data()
    distiller = compiled(
        Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())]), metrics=["accuracy"]
    )
    history = fitted(distiller, x, epochs=3)
    assert history["supervised_loss"] == [0.0] * 3
    assert history["kl_divergence_loss"][-1] < history["kl_divergence_loss"][0]
    assert "accuracy" not in history
    assert distiller.evaluate(x, verbose=0, return_dict=True)["loss"] > 0


@pytest.mark.parametrize("metrics", [["accuracy"], "accuracy", [keras.metrics.CategoricalAccuracy()]])
def test_d21_metrics_without_a_supervised_loss(metrics):
    x, y = data()
    distiller = Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])
    if metrics == "accuracy":
        # Keras raises the same error for any of its models.
        with pytest.raises(ValueError, match="list, tuple, or dict"):
            distiller.compile("sgd", metrics=metrics)
        return
    distiller.compile("sgd", metrics=metrics)
    one_hot = isinstance(metrics, list) and not isinstance(metrics[0], str)
    history = fitted(distiller, x, keras.utils.to_categorical(y, 3) if one_hot else y)
    assert "supervised_loss" not in history
    accuracy = np.mean(distiller.predict(x, verbose=0).argmax(axis=-1) == y)
    name = next(name for name in history if "accuracy" in name)
    results = distiller.evaluate(x, keras.utils.to_categorical(y, 3) if one_hot else y, verbose=0, return_dict=True)
    assert float(results[name]) == pytest.approx(accuracy)


@pytest.mark.parametrize("labels", ["numbers", "column", "one_hot"])
def test_d21_labeled_and_unlabeled_examples_in_one_batch(labels):
    (x, y), labeled = data(16), np.arange(16) % 4 != 0
    partial_labels = {
        "numbers": np.where(labeled, y, -1),
        "column": np.where(labeled, y, -1)[:, None],
        "one_hot": np.where(labeled[:, None], np.eye(3)[y], np.nan),
    }[labels]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True) if labels == "one_hot" else crossentropy()
    student, teacher = mlp(), mlp(16, name="teacher")
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())]),
        zero_rate_sgd(),
        loss,
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
    )
    logged = {name: values[0] for name, values in fitted(distiller, x, partial_labels, batch_size=16).items()}
    logits = student.predict(x, verbose=0)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(logged["supervised_loss"], -log_p[np.arange(16), y][labeled].mean(), rtol=1e-5)
    np.testing.assert_allclose(logged["accuracy"], np.mean((logits.argmax(axis=-1) == y)[labeled]), rtol=1e-6)
    assert logged["accuracy"] == logged["weighted_accuracy"]
    kl = softened_kl(logits, teacher.predict(x, verbose=0), 1.0).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"], kl, rtol=1e-5)


def test_d22_schedules_change_within_an_epoch():
    (x, y), student, teacher = data(), mlp(), mlp(16, name="teacher")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 2.0, 8.0])
    distiller = compiled(
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(schedule), weight=Linear(0.0, 1.0, 2))]),
        zero_rate_sgd(),
    )
    logits = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    logged = fitted(distiller, x, y)
    temperatures, weights = np.repeat([1.0, 2.0, 8.0], 8)[:, None], np.repeat([0.0, 0.5, 1.0], 8)
    kl = np.array([softened_kl(s[None], t[None], T)[0] for s, t, T in zip(*logits, temperatures)])
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], kl.mean(), rtol=1e-5)
    weighted_terms = logged["loss"][0] - logged["supervised_loss"][0]
    np.testing.assert_allclose(weighted_terms, (kl * weights).mean(), rtol=1e-4)


def test_d23_teacher_is_unchanged():
    (x, y), student, teacher = data(), stateful_model(), stateful_model("teacher")
    teacher.layers[1].trainable = False
    before, flags = weights_of(teacher), [layer.trainable for layer in teacher.layers]
    attributes = [sorted(vars(layer)) for layer in teacher.layers]
    fitted(
        compiled(Distiller(student=student, teacher=teacher, terms=[Term(Hint(), "features", "features")])),
        x,
        y,
        epochs=2,
    )
    assert teacher.trainable and [layer.trainable for layer in teacher.layers] == flags
    assert [sorted(vars(layer)) for layer in teacher.layers] == attributes
    assert_same_weights(before, weights_of(teacher), rtol=0, atol=0)


def test_d23_student_that_shares_weights_with_its_teacher_raises():
    student, shared = mlp(), keras.layers.Dense(8, name="shared")
    with pytest.raises(ValueError, match="same model, 'student'"):
        Distiller(student=student, teacher=student, terms=[Term(KLDivergence())])
    models = []
    for name in ("student", "teacher"):
        inputs = keras.Input((8,))
        models.append(keras.Model(inputs, keras.layers.Dense(3)(shared(inputs)), name=name))
    with pytest.raises(ValueError, match="'student' shares the weights.*kernel"):
        Distiller(student=models[0], teacher=models[1], terms=[Term(KLDivergence())])


BAD_NUMBERS = [float("nan"), float("inf"), 0, -1.0, True, "4", None]


@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_d24_invalid_numbers_raise(number):
    with pytest.raises(ValueError, match="temperature"):
        KLDivergence(number)
    if number != 0:
        with pytest.raises(ValueError, match="weight"):
            Term(KLDivergence(), weight=number)
        with pytest.raises(ValueError, match="supervised_weight"):
            Distiller(
                student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())], supervised_weight=number
            )


def test_d24_numpy_scalars_are_accepted():
    assert KLDivergence(np.float32(3.0)).temperature == 3.0
    assert Term(KLDivergence(), weight=np.int64(2)).weight == 2.0


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "`terms` is empty"),
        ([3], "The loss of a Term must be a loss of keras_distill.losses.*Received: 3"),
        ([keras.losses.KLDivergence()], r"keras_distill.losses.KLDivergence\(\), which compares logits"),
        (["categorical_crossentropy"], r"keras_distill.losses.KLDivergence\(\), which compares logits"),
        ([keras.losses.binary_crossentropy], r"keras_distill.losses.BinaryKD\(\), which compares logits"),
    ],
)
def test_d24_invalid_terms_raise(terms, message):
    with pytest.raises(ValueError, match=message):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=terms)


def test_d24_teacher_with_nan_weights_raises():
    teacher = mlp(name="teacher")
    teacher.get_layer("logits").kernel.assign(np.full((8, 3), np.nan))
    with pytest.raises(ValueError, match="logits/kernel.*NaN"):
        Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())])


class SoftmaxOutput(Subclassed):
    def call(self, inputs):
        return keras.ops.softmax(super().call(inputs))


ENDINGS = {
    "activation": lambda name: keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(3, activation="softmax")], name=name
    ),
    "layer": lambda name: keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(3), keras.layers.Softmax(dtype="float32")], name=name
    ),
    "operation": lambda name: SoftmaxOutput(4, name=name),
}


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_d24_probabilities_are_converted_to_logits(side, ending, run_eagerly):
    x, with_softmax = data()[0], ENDINGS[ending](side)
    student, teacher = (with_softmax, mlp(name="teacher")) if side == "student" else (mlp(), with_softmax)
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(1.0))], inputs=x)
    distiller.compile(zero_rate_sgd(), None, run_eagerly=run_eagerly)
    logged = fitted(distiller, x)
    log_q, log_p = (
        np.log(p if p.min() > 0 and np.allclose(p.sum(1), 1, atol=1e-5) else softmax(p))
        for p in (student.predict(x, verbose=0), teacher.predict(x, verbose=0))
    )
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], expected, rtol=1e-5)


def test_d25_function_as_teacher():
    (x, y), first, second = data(), mlp(name="first"), mlp(name="second")
    student = mlp()
    distiller = Distiller(
        student=student, teacher=lambda inputs: (first(inputs) + second(inputs)) / 2, terms=[Term(KLDivergence(1.0))]
    )
    logged = fitted(compiled(distiller, zero_rate_sgd()), x, y)
    mean = (first.predict(x, verbose=0) + second.predict(x, verbose=0)) / 2
    reference = softened_kl(student.predict(x, verbose=0), mean, 1.0).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], reference, rtol=1e-5)


def test_d25_saved_model_as_teacher(tmp_path):
    (x, y), student, teacher = data(), mlp(), mlp(16, name="teacher")
    teacher.export(tmp_path / "teacher", verbose=False)
    layer = keras.layers.TFSMLayer(str(tmp_path / "teacher"), call_endpoint="serve")
    logged = fitted(
        compiled(Distiller(student=student, teacher=layer, terms=[Term(KLDivergence(1.0))]), zero_rate_sgd()), x, y
    )
    reference = softened_kl(student.predict(x, verbose=0), teacher.predict(x, verbose=0), 1.0).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], reference, rtol=1e-5)


def test_d25_teacher_with_other_inputs():
    (x, y), student = data(), mlp()
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")], name="teacher")
    sliced_teacher = ModelTeacher(teacher, inputs=lambda inputs: inputs[:, :4])
    logged = fitted(
        compiled(
            Distiller(student=student, teacher=sliced_teacher, terms=[Term(KLDivergence(1.0), teacher="logits")]),
            zero_rate_sgd(),
        ),
        x,
        y,
    )
    reference = softened_kl(student.predict(x, verbose=0), teacher.predict(x[:, :4], verbose=0), 1.0).mean()
    np.testing.assert_allclose(logged["kl_divergence_loss"][0], reference, rtol=1e-5)


def test_d25_different_classes_raise_with_advice():
    teacher = mlp(16, classes=5, name="teacher")
    with pytest.raises(ValueError, match="3 student classes with 5 teacher classes.*ModelTeacher.teacher, classes="):
        Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())])
    Distiller(
        student=mlp(),
        teacher=lambda inputs: keras.ops.take(teacher(inputs), [0, 2, 4], axis=-1),
        terms=[Term(KLDivergence())],
    )


def test_d25_teacher_with_several_outputs():
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)], name="student")
    teacher = two_outputs("teacher", "dict")
    with pytest.raises(ValueError, match=r"structure with the entries \['topic', 'tone'\].*'output\[topic\]'"):
        Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    fitted(
        compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(), teacher="output[topic]")])),
        *data(),
    )


def test_d25_list_of_teachers_raises_with_advice():
    with pytest.raises(ValueError, match=r"for several teachers, use keras_distill.teachers.Ensemble"):
        Distiller(student=mlp(), teacher=[mlp(name="first"), mlp(name="second")], terms=[Term(KLDivergence())])
