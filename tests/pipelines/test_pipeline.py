"""One pipeline of real nodes, run once and looked at from all sides."""

import glob
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tfx.v1 import components, proto

from keras_distill.pipelines.labelling import TeacherLabeller
from keras_distill.pipelines.reading import read_schema
from keras_distill.pipelines.reporting import DistillationReport
from keras_distill.pipelines.settings import Settings
from tests.support.helpers import features, softened_kl
from tests.support.tfx_running import Pipeline, examples_of, serving, write_examples

pytestmark = pytest.mark.tfx

RUN_FN = "keras_distill.pipelines.training.run_fn"
TUNER_FN = "keras_distill.pipelines.training.tuner_fn"


def separable(examples, seed):
    """Inputs whose class is the largest of their first three numbers."""
    x = features(examples, 8, seed=seed)
    return x, x[:, :3].argmax(-1)


DATA = {"train": separable(400, 1), "eval": separable(100, 2)}


def settings(student, **values):
    values = {"label": "label", "preprocessing": "tests.support.tfx_project:halved", "batch_size": 50} | values
    return Settings(f"tests.support.tfx_project:{student}", **values).as_config()


def make(folder, student_epochs=3):
    source = folder / "examples"
    example_gen = components.ImportExampleGen(
        input_base=str(source),
        input_config=proto.Input(
            splits=[proto.Input.Split(name=name, pattern=f"Split-{name}/*") for name in DATA],
        ),
    )
    examples = example_gen.outputs["examples"]
    statistics = components.StatisticsGen(examples=examples)
    schema_gen = components.SchemaGen(statistics=statistics.outputs["statistics"])
    schema = schema_gen.outputs["schema"]

    def trainer(role, examples=examples, schema=schema, config=None, **inputs):
        return components.Trainer(
            run_fn=RUN_FN, examples=examples, schema=schema, custom_config=config, **inputs
        ).with_id(f"Trainer.{role}")

    def labeller(role, before=None, **options):
        before = before or {"labelled_examples": examples, "labelled_schema": schema}
        return TeacherLabeller(
            examples=before["labelled_examples"],
            schema=before["labelled_schema"],
            model=teacher.outputs["model"],
            **options,
        ).with_id(f"TeacherLabeller.{role}")

    teacher = trainer("teacher", config=settings("teacher", epochs=8, taps=("output", "features")))
    plain = labeller("plain")
    half = labeller("half", plain.outputs, teacher="half", dtype="float16", taps=["output"])
    top = labeller("top", half.outputs, teacher="top", top_k=1, taps=["output"], dtype="bfloat16")
    labelled = {"examples": plain.outputs["labelled_examples"], "schema": plain.outputs["labelled_schema"]}
    all_labelled = {"examples": top.outputs["labelled_examples"], "schema": top.outputs["labelled_schema"]}
    tuner = components.Tuner(
        tuner_fn=TUNER_FN,
        custom_config=settings("student", terms="tests.support.tfx_project:terms", trials=2),
        **labelled,
    )
    student = trainer(
        "student",
        **labelled,
        hyperparameters=tuner.outputs["best_hyperparameters"],
        config=settings("student", terms="tests.support.tfx_project:terms", epochs=student_epochs),
    )
    once = {"terms": "tests.support.tfx_project:output_term", "compile": "tests.support.tfx_project:slow_descent"}
    offline = trainer("offline", **labelled, config=settings("student", **once))
    online = trainer("online", base_model=teacher.outputs["model"], config=settings("student", **once))
    several = trainer(
        "several", **all_labelled, config=settings("student", terms="tests.support.tfx_project:several_teachers")
    )
    alone = trainer("alone", config=settings("student", epochs=student_epochs))
    report = DistillationReport(
        **labelled,
        model=student.outputs["model"],
        base_model=teacher.outputs["model"],
        baseline_model=alone.outputs["model"],
        label="label",
        temperature=2.0,
        classes=["a", "b", "c"],
    )
    evaluator = components.Evaluator(
        examples=examples,
        model=student.outputs["model"],
        baseline_model=teacher.outputs["model"],
        eval_config=tfma.EvalConfig(
            model_specs=[tfma.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="output")],
            slicing_specs=[tfma.SlicingSpec()],
            metrics_specs=[
                tfma.MetricsSpec(
                    metrics=[
                        tfma.MetricConfig(
                            class_name="SparseCategoricalAccuracy",
                            threshold=tfma.MetricThreshold(
                                value_threshold=tfma.GenericValueThreshold(lower_bound={"value": 0.0})
                            ),
                        )
                    ]
                )
            ],
        ),
    )
    blessed = {"model": student.outputs["model"], "model_blessing": evaluator.outputs["blessing"]}
    inferrer = components.BulkInferrer(examples=examples, **blessed, data_spec=proto.DataSpec(example_splits=["eval"]))
    pusher = components.Pusher(
        **blessed,
        push_destination=proto.PushDestination(
            filesystem=proto.PushDestination.Filesystem(base_directory=str(folder / "pushed"))
        ),
    )
    first = [example_gen, statistics, schema_gen, teacher, plain, half, top]
    return [*first, tuner, student, offline, online, several, alone, report, evaluator, inferrer, pusher]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    write_examples(folder / "examples", DATA)
    pipeline = Pipeline(folder)
    states = pipeline.run(make(folder))
    assert set(states.values()) == {"complete"}
    return pipeline


def model_of(ran, role):
    """The Keras model that a Trainer left beside what is served."""
    return keras.saving.load_model(pathlib.Path(ran.uri(f"Trainer.{role}", "model_run"), "student.keras"))


def column(examples, key, kind="float_list"):
    return np.array([getattr(example.features.feature[key], kind).value for example in examples])


def predicted(ran, role, x):
    return model_of(ran, role).predict(x / 2, verbose=0)


@pytest.mark.parametrize("split", list(DATA))
def test_examples_are_labelled_with_what_the_keras_teacher_says_of_them(ran, split):
    labelled = examples_of(ran.uri("TeacherLabeller.plain", "labelled_examples"), split)
    x = column(labelled, "x")
    assert sorted(map(tuple, x)) == sorted(map(tuple, np.float64(DATA[split][0])))
    np.testing.assert_array_equal(column(labelled, "label", "int64_list")[:, 0], x[:, :3].argmax(-1))
    teacher = model_of(ran, "teacher")
    np.testing.assert_allclose(
        column(labelled, "teacher/output"), teacher.predict(x / 2, verbose=0), rtol=1e-5, atol=1e-6
    )
    hidden = keras.Model(teacher.inputs, teacher.get_layer("features").output).predict(x / 2, verbose=0)
    np.testing.assert_allclose(column(labelled, "teacher/features"), hidden, rtol=1e-5, atol=1e-6)


def test_several_teachers_in_half_precision_and_by_their_top(ran):
    labelled = examples_of(ran.uri("TeacherLabeller.top", "labelled_examples"), "eval")
    logits = predicted(ran, "teacher", column(labelled, "x"))
    np.testing.assert_allclose(column(labelled, "teacher/output"), logits, rtol=1e-5, atol=1e-6)
    halves = [np.frombuffer(value[0], "<f2") for value in column(labelled, "teacher/half/output", "bytes_list")]
    np.testing.assert_allclose(halves, logits, rtol=1e-3, atol=1e-3)
    classes = column(labelled, "teacher/top/output.classes", "int64_list")
    np.testing.assert_array_equal(classes[:, 0], logits.argmax(-1))
    bits = [np.frombuffer(value[0], "<u2") for value in column(labelled, "teacher/top/output.top", "bytes_list")]
    kept = (np.uint32(bits) << 16).view("float32")
    probabilities = np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    expected = np.log(np.stack([probabilities[:, -1], probabilities[:, :-1].sum(-1)], -1))
    np.testing.assert_allclose(kept, expected, rtol=2e-2, atol=2e-2)


def test_labelled_examples_are_serialized_in_a_fixed_order(ran):
    (file,) = glob.glob(ran.uri("TeacherLabeller.top", "labelled_examples") + "/Split-eval/*.gz")
    for record in tf.data.TFRecordDataset(file, "GZIP").take(5).as_numpy_iterator():
        keys = list(tf.train.Example.FromString(record).features.feature)
        places = {key: record.index(b"\n" + bytes([len(key)]) + key.encode()) for key in keys}
        assert sorted(places, key=places.get) == sorted(keys)


def test_the_schema_tells_of_the_new_features(ran):
    schema = read_schema(ran.uri("TeacherLabeller.top", "labelled_schema") + "/schema.pbtxt")
    kinds = {feature.name: schema_pb2.FeatureType.Name(feature.type) for feature in schema.feature}
    assert kinds == {
        "x": "FLOAT",
        "label": "INT",
        "teacher/output": "FLOAT",
        "teacher/features": "FLOAT",
        "teacher/half/output": "BYTES",
        "teacher/top/output.top": "BYTES",
        "teacher/top/output.classes": "INT",
    }
    sizes = {feature.name: [dim.size for dim in feature.shape.dim] for feature in schema.feature}
    assert sizes["teacher/output"] == [3] and sizes["teacher/features"] == [16]


def test_the_student_is_made_of_the_best_hyperparameters(ran):
    (file,) = pathlib.Path(ran.uri("Tuner", "best_hyperparameters")).iterdir()
    best = json.loads(file.read_text())["values"]
    assert set(best) == {"width", "temperature"}
    assert model_of(ran, "student").get_layer("features").units == best["width"]
    trials = json.loads(pathlib.Path(ran.uri("Tuner", "tuner_results"), "tuner_results.json").read_text())
    assert len(trials) == 2
    assert max(trials, key=lambda trial: trial["score"])["width"] == best["width"]


def test_a_teacher_that_runs_online_teaches_the_same(ran):
    offline, online, alone = (model_of(ran, role).get_weights() for role in ("offline", "online", "alone"))
    for one, other in zip(offline, online, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # Not because nothing was learnt.
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(offline, alone))


def test_what_is_served_is_the_student(ran):
    x = DATA["eval"][0][:5]
    served = tf.saved_model.load(serving(ran.uri("Trainer.student", "model")))
    examples = []
    for row in x:
        # Without label and activations.
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.extend(row)
        examples.append(example.SerializeToString())
    expected = predicted(ran, "student", x)
    of_examples = served.signatures["serving_default"](examples=tf.constant(examples))
    assert list(of_examples) == ["output"]
    np.testing.assert_allclose(of_examples["output"], expected, rtol=1e-5, atol=1e-6)
    (name,) = served.signatures["tensors"].structured_input_signature[1]
    of_tensors = served.signatures["tensors"](**{name: tf.constant(x / 2)})
    np.testing.assert_allclose(of_tensors["output"], expected, rtol=1e-5, atol=1e-6)
    student = model_of(ran, "student")
    assert len(served.variables) == len(student.variables)


def test_a_run_is_shown_by_tensorboard_and_leaves_no_backup(ran):
    run = pathlib.Path(ran.uri("Trainer.student", "model_run"))
    for part in ("train", "validation", "distillation"):
        assert list(run.glob(f"{part}/events*")), part
    assert not list(run.rglob("*backup*"))


def test_the_report_counts_right(ran):
    x, labels = DATA["eval"]
    teacher, student, alone = (predicted(ran, role, x) for role in ("teacher", "student", "alone"))
    expected = {}
    for name, logits in {"teacher": teacher, "student distilled": student, "student alone": alone}.items():
        expected[f"{name}, accuracy"] = np.mean(logits.argmax(-1) == labels)
        expected[f"{name}, agreement"] = np.mean(logits.argmax(-1) == teacher.argmax(-1))
        # `softened_kl` has a factor of T^2.
        expected[f"{name}, divergence"] = softened_kl(logits, teacher, 2.0).mean() / 4
    folder = pathlib.Path(ran.uri("DistillationReport", "report"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5), name
    properties = ran.artifact("DistillationReport", "report").custom_properties
    found = properties["student distilled, agreement"].double_value
    # As float32 has it.
    assert found == pytest.approx(metrics["student distilled, agreement"], rel=1e-6)
    page = (folder / "report.html").read_text()
    assert f"{100 * metrics['student distilled, agreement']:.1f} %" in page and "<img" in page


def test_evaluator_bulk_inferrer_and_pusher_take_the_student(ran):
    assert ran.artifact("Evaluator", "blessing").custom_properties["blessed"].int_value == 1
    (file,) = glob.glob(ran.uri("BulkInferrer", "inference_result") + "/*.gz")
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(file, "GZIP")
    ]
    assert len(logs) == len(DATA["eval"][0])
    for log in logs[:5]:
        (serialized,) = log.predict_log.request.inputs["examples"].string_val
        x = tf.train.Example.FromString(serialized).features.feature["x"].float_list.value
        logits = tf.make_ndarray(log.predict_log.response.outputs["output"])
        np.testing.assert_allclose(logits, predicted(ran, "student", np.float32([x])), rtol=1e-4, atol=1e-5)
    (pushed,) = (ran.folder / "pushed").iterdir()
    assert "serving_default" in tf.saved_model.load(str(pushed)).signatures


def test_a_second_run_does_again_only_what_has_changed(ran):
    states = ran.run(make(ran.folder, student_epochs=4))
    again = {node for node, state in states.items() if state == "complete"}
    assert again == {"Trainer.student", "Trainer.alone", "DistillationReport", "Evaluator", "BulkInferrer", "Pusher"}
    assert {state for node, state in states.items() if node not in again} == {"cached"}
