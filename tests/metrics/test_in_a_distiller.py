"""Teacher-student metrics passed to `Distiller.compile`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, MutualDistiller, Term, load_distiller
from keras_distill.cache import label, open_cache
from keras_distill.losses import Hint, KLDivergence
from keras_distill.metrics import CKA, Agreement, ExpectedCalibrationError, TeacherDivergence
from keras_distill.models.taps import Taps
from keras_distill.teachers import CachedTeacher, EMATeacher, Ensemble, with_activations
from tests.support import replica_comparison
from tests.support.helpers import Counter, compiled, crossentropy, data, features, fitted, mlp, softened_kl


def all_metrics():
    return [Agreement(), Agreement(2), TeacherDivergence(2.0), CKA("features", "features"), ExpectedCalibrationError()]


def distiller(teacher=None, terms=None, **options):
    return Distiller(
        student=mlp(), teacher=teacher or mlp(16, name="teacher"), terms=terms or [Term(KLDivergence())], **options
    )


def standalone(model, x, y):
    """The metrics of the two models' predictions outside of the distiller, in batches of 8."""
    student, teacher = (Taps(m, ["features", "output"]) for m in (model.student, model.teacher.model))
    metrics = all_metrics()
    for start in range(0, len(x), 8):
        rows = slice(start, start + 8)
        student_taps, teacher_taps = student(x[rows], training=False), teacher(x[rows], training=False)
        for metric in metrics:
            if isinstance(metric, ExpectedCalibrationError):
                metric.update_state(y[rows], student_taps["output"])
            else:
                metric.update_state(student_taps[metric.student], teacher_taps[metric.teacher])
    return {metric.name: float(metric.result()) for metric in metrics}


def test_evaluate_matches_standalone_metrics():
    model = compiled(distiller(), metrics=["accuracy", *all_metrics()])
    x, y = data(20)
    logs = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    expected = standalone(model, x, y)
    assert set(logs) == {"loss", "supervised_loss", "kl_divergence_loss", "accuracy", *expected}
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name


def test_fit_logs_them_for_each_epoch():
    model = compiled(distiller(supervised_weight=0), keras.optimizers.Adam(0.03), metrics=all_metrics())
    history = fitted(model, *data(), validation_data=data(), epochs=8)
    for name in ("agreement", "top_2_agreement", "divergence", "cka"):
        assert len(history[name]) == len(history[f"val_{name}"]) == 8
    assert history["val_divergence"][-1] < history["val_divergence"][0] / 2
    expected = standalone(model, *data())
    logs = model.evaluate(*data(), batch_size=8, verbose=0, return_dict=True)
    assert logs["divergence"] == pytest.approx(expected["divergence"], rel=1e-5)


def test_no_model_runs_twice():
    def counting(name):
        inputs = keras.Input((8,))
        counter = Counter(name="features")
        return keras.Model(inputs, keras.layers.Dense(3)(counter(inputs)), name=name), counter

    student, student_counter = counting("student")
    teacher, teacher_counter = counting("teacher")
    model = compiled(Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())]), metrics=all_metrics())
    before = np.array([*student_counter.counted(), *teacher_counter.counted()])
    fitted(model, *data(24))
    model.evaluate(*data(24), batch_size=8, verbose=0)
    after = np.array([*student_counter.counted(), *teacher_counter.counted()])
    np.testing.assert_array_equal(after - before, [3, 3, 0, 6])


def test_taps_of_metrics_are_added_to_those_of_terms():
    x, y = data()
    model = distiller(terms=[Term(Hint(), "features", "features", head="auto")])
    for _ in range(2):
        compiled(model, metrics=[Agreement()])
        logs = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
        assert logs["agreement"] == pytest.approx(standalone(model, x, y)["agreement"])


def test_they_do_not_change_training():
    weights = []
    for metrics in (None, all_metrics()):
        keras.utils.set_random_seed(0)
        model = compiled(distiller(), metrics=metrics)
        fitted(model, *data(), epochs=2)
        weights.append(model.student.get_weights())
    for one, other in zip(*weights):
        np.testing.assert_array_equal(one, other)


def test_work_without_labels_and_count_unlabeled_examples():
    x, y = data()
    model = distiller()
    model.compile("sgd", metrics=[Agreement(), TeacherDivergence()])
    assert model.evaluate(x, batch_size=8, verbose=0, return_dict=True)["divergence"] > 0
    compiled(model, metrics=all_metrics())
    y[3:] = -1
    logs = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    expected = standalone(model, x, y)
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name


def test_sample_weights_apply_to_weighted_metrics_only():
    x, y = data()
    weight = np.arange(24, dtype="float32")
    model = distiller()
    compiled(model, metrics=[TeacherDivergence()], weighted_metrics=[TeacherDivergence(name="weighted_divergence")])
    logs = model.evaluate(x, y, sample_weight=weight, batch_size=8, verbose=0, return_dict=True)
    divergences = softened_kl(model.student(x), model.teacher.model(x), 1.0)
    assert logs["divergence"] == pytest.approx(divergences.mean(), rel=1e-5)
    assert logs["weighted_divergence"] == pytest.approx((divergences * weight).sum() / weight.sum(), rel=1e-5)


def test_padded_tokens_do_not_count():
    def tagger(width, name):
        inputs = keras.Input((None,), dtype="int32")
        tokens = keras.layers.Embedding(9, width, mask_zero=True, name="features")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(tokens), name=name)

    student, teacher = tagger(4, "student"), tagger(6, "teacher")
    model = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    metrics = [Agreement(), TeacherDivergence(), CKA("features", "features")]
    model.compile("sgd", weighted_metrics=metrics)
    tokens = np.random.default_rng(0).integers(1, 9, (8, 5))
    tokens[:, 3:] = 0
    weight = np.float32([0, 1, 2, 1, 1, 1, 1, 1])
    logs = model.evaluate(tokens, tokens % 3, sample_weight=weight, batch_size=8, verbose=0, return_dict=True)
    student_logits, teacher_logits = student(tokens[1:, :3]), teacher(tokens[1:, :3])
    divergences = softened_kl(student_logits, teacher_logits, 1.0)
    assert logs["divergence"] == pytest.approx(np.average(divergences.mean(-1), weights=weight[1:]), rel=1e-5)
    assert logs["agreement"] == pytest.approx(
        np.average((np.argmax(student_logits, -1) == np.argmax(teacher_logits, -1)).mean(-1), weights=weight[1:]),
        rel=1e-5,
    )
    cka = CKA("features", "features")
    cka.update_state(student.get_layer("features")(tokens[1:, :3]), teacher.get_layer("features")(tokens[1:, :3]))
    assert logs["cka"] == pytest.approx(float(cka.result()), rel=1e-4)


def test_a_mask_among_the_inputs():
    inputs = {"x": keras.Input((4, 8), name="x"), "padding": keras.Input((4,), name="padding")}

    def tagger(name):
        return keras.Model(inputs, keras.layers.Dense(3, name="features")(inputs["x"]), name=name)

    model = Distiller(student=tagger("student"), teacher=tagger("teacher"), terms=[Term(KLDivergence())])
    model.compile("sgd", metrics=[TeacherDivergence(mask="padding")])
    x, padding = features(6, 4, 8), np.ones((6, 4), "float32")
    padding[:, 1:] = 0
    logs = model.evaluate({"x": x, "padding": padding}, verbose=0, return_dict=True)
    batch = {"x": x, "padding": padding}
    divergences = softened_kl(model.student(batch)[:, :1], model.teacher.model(batch)[:, :1], 1.0)
    assert logs["divergence"] == pytest.approx(divergences.mean(), rel=1e-5)
    with pytest.raises(ValueError, match="The mask of metric 'divergence' is the input 'pad', which does not exist"):
        model.compile("sgd", metrics=[TeacherDivergence(mask="pad")])


def test_one_of_several_outputs():
    def two_outputs(name):
        inputs = keras.Input((8,))
        return keras.Model(
            inputs, {key: keras.layers.Dense(3, name=f"{name}_{key}")(inputs) for key in "ab"}, name=name
        )

    student, teacher = two_outputs("student"), two_outputs("teacher")
    model = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(), "output[a]", "output[a]")])
    taps = {"student": "output[b]", "teacher": "output[b]"}
    model.compile("sgd", crossentropy(), metrics={"a": ["accuracy"], "b": ["accuracy", Agreement(**taps)]})
    x, y = data()
    logs = model.evaluate(x, {"a": y, "b": y}, verbose=0, return_dict=True)
    expected = np.argmax(student(x)["b"], -1) == np.argmax(teacher(x)["b"], -1)
    assert logs["agreement"] == pytest.approx(expected.mean())
    assert {"a_accuracy", "b_accuracy"} < set(logs)
    with pytest.raises(ValueError, match=r"Metric 'agreement' taps student 'output', .* Choose one: 'output\[a\]'"):
        model.compile("sgd", metrics={"a": Agreement()})


@pytest.mark.parametrize("kind", ["cached", "top", "ensemble", "ema", "function"])
def test_every_kind_of_teacher(kind, tmp_path):
    x, y = data()
    teacher, student = mlp(16, name="teacher"), mlp()
    logits, inputs = np.array(teacher(x)), x
    if kind == "cached":
        inputs, distilled_from = with_activations(x, {"output": logits}), CachedTeacher({"output": logits})
    elif kind == "top":
        label(teacher, x, tmp_path, top_k=2)
        stored = open_cache(tmp_path)
        inputs, distilled_from = stored.load(x), stored.teacher
    elif kind == "ensemble":
        distilled_from = Ensemble([teacher, teacher])
    elif kind == "ema":
        distilled_from, logits = EMATeacher(student), np.array(student(x))
    else:
        distilled_from = lambda x: teacher(x)  # noqa: E731
    model = compiled(
        Distiller(student=student, teacher=distilled_from, terms=[Term(KLDivergence())]), metrics=[Agreement()]
    )
    logs = model.evaluate(inputs, y, verbose=0, return_dict=True)
    assert logs["agreement"] == pytest.approx((np.argmax(student(x), -1) == logits.argmax(-1)).mean())


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 2}], ids=str)
def test_execution_modes(options):
    model = compiled(distiller(), metrics=all_metrics(), **options)
    x, y = data()
    logs = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    for name, value in standalone(model, x, y).items():
        assert logs[name] == pytest.approx(value, rel=1e-4), name
    fitted(model, x, y)


def test_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(distiller(), metrics=all_metrics())
    logs = model.evaluate(*data(), batch_size=8, verbose=0, return_dict=True)
    assert {metric.dtype for metric in model.metrics if metric.name in logs} == {"float32"}
    assert 0 < logs["divergence"] < 10


def test_are_restored_with_a_saved_distiller(tmp_path):
    model = compiled(distiller(), metrics=["accuracy", *all_metrics()])
    fitted(model, *data())
    model.save(tmp_path / "d.keras")
    restored = load_distiller(tmp_path / "d.keras", teacher=model.teacher.model)
    first, second = (m.evaluate(*data(), batch_size=8, verbose=0, return_dict=True) for m in (model, restored))
    assert second == pytest.approx(first)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (lambda: [Agreement(student="featurs")], r"No layer called 'featurs' in 'student'. Closest: \['features'\]"),
        (lambda: [CKA("features", "block")], "No layer called 'block' in 'teacher'"),
        (lambda: [Agreement(student="features")], r"same classes. Received: student 'features' of shape \(None, 8\)"),
        (lambda: [Agreement(), Agreement()], r"names \['agreement'\] more than once. Pass each metric a"),
        (lambda: [Agreement(name="supervised_loss")], r"names \['supervised_loss'\] more than once"),
    ],
)
def test_rejects_invalid_metrics_and_compiles_again(metrics, message):
    model = distiller()
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", crossentropy(), metrics=metrics())
    compiled(model, metrics=[Agreement()])
    fitted(model, *data())


def test_models_that_end_in_a_softmax_are_compared_by_their_logits():
    student, teacher = mlp(), mlp(16, name="teacher")
    probabilities = [
        keras.Sequential([keras.Input((8,)), model, keras.layers.Softmax()]) for model in (student, teacher)
    ]
    logs = []
    for first, second in ((student, teacher), probabilities):
        distiller = Distiller(student=first, teacher=second, terms=[Term(KLDivergence())])
        distiller.compile(keras.optimizers.SGD(0.0), metrics=[TeacherDivergence(temperature=2.0), Agreement()])
        logs.append(fitted(distiller, data()[0]))
    for name in ("divergence", "agreement"):
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=1e-5)


def test_rejects_a_sigmoid():
    teacher = keras.Sequential([mlp(16, name="inner"), keras.layers.Activation("sigmoid")])
    model = Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence(), "output", "inner")])
    message = (
        r"Metric 'divergence' compares the logits of a softmax, but teacher 'output' ends in a sigmoid\. Tap another"
    )
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", metrics=[TeacherDivergence()])


def test_need_a_teacher():
    with pytest.raises(ValueError, match=r"metrics \['agreement'\] compare the student .* but `teacher` is None"):
        Distiller(student=mlp(), teacher=None, terms=[]).compile("sgd", metrics=[Agreement()])
    peers = MutualDistiller([mlp(), mlp(16, name="other")])
    with pytest.raises(ValueError, match=r"metrics \['agreement'\] compare a student with its teacher"):
        peers.compile("sgd", crossentropy(), weighted_metrics=[Agreement()])


@pytest.mark.replicas
def test_are_equal_on_several_replicas():
    logs = {}
    for count in (1, 2, 4):
        with replica_comparison.strategy(count).scope():
            keras.utils.set_random_seed(0)
            model = distiller()
            model.compile(
                replica_comparison.sgd(),
                replica_comparison.from_logits,
                metrics=all_metrics(),
                weighted_metrics=[Agreement(name="weighted_agreement")],
            )
            x, y = data(18)
            weight = np.arange(18, dtype="float32")
            dataset = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(7)
            model.fit(dataset, epochs=2, verbose=0)
            logs[count] = model.evaluate(dataset, verbose=0, return_dict=True)
    for count in (2, 4):
        assert logs[count] == pytest.approx(logs[1], rel=1e-4)


def test_weights_of_shape_batch_and_one_count():
    student, teacher = features(6, 3), features(6, 3, seed=1)
    weight = np.array([1, 0, 0, 2, 0, 1], "float32")
    results = []
    for shaped in (weight, weight[:, None]):
        metric = Agreement()
        metric.update_state(student, teacher, sample_weight=shaped)
        results.append(float(metric.result()))
    agrees = student.argmax(-1) == teacher.argmax(-1)
    np.testing.assert_allclose(results, np.average(agrees, weights=weight), rtol=1e-6)
    assert results[0] != agrees.mean()
