"""Run one pipeline of TFX nodes, and check all its outputs."""

import glob
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_serving.apis import prediction_log_pb2

from keras_distill.pipelines.reading import read_schema
from tests.support.helpers import softened_kl
from tests.support.tfx_nodes import DATA, make_nodes
from tests.support.tfx_running import Pipeline, examples_of, serving, write_examples

pytestmark = pytest.mark.tfx


@pytest.fixture(scope="module")
def finished_pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    write_examples(folder / "examples", DATA)
    pipeline = Pipeline(folder)
    states = pipeline.run(make_nodes(folder))
    assert set(states.values()) == {"complete"}
    return pipeline


def model_of(finished_pipeline, role):
    """Return the Keras model that a Trainer wrote."""
    return keras.saving.load_model(pathlib.Path(finished_pipeline.uri(f"Trainer.{role}", "model_run"), "student.keras"))


def column(examples, key, kind="float_list"):
    return np.array([getattr(example.features.feature[key], kind).value for example in examples])


def predicted(finished_pipeline, role, x):
    return model_of(finished_pipeline, role).predict(x / 2, verbose=0)


@pytest.mark.parametrize("split", list(DATA))
def test_examples_have_the_outputs_of_the_keras_teacher(finished_pipeline, split):
    labeled = examples_of(finished_pipeline.uri("TeacherLabeller.plain", "labelled_examples"), split)
    x = column(labeled, "x")
    assert sorted(map(tuple, x)) == sorted(map(tuple, np.float64(DATA[split][0])))
    np.testing.assert_array_equal(column(labeled, "label", "int64_list")[:, 0], x[:, :3].argmax(-1))
    teacher = model_of(finished_pipeline, "teacher")
    np.testing.assert_allclose(
        column(labeled, "teacher/output"), teacher.predict(x / 2, verbose=0), rtol=1e-5, atol=1e-6
    )
    hidden = keras.Model(teacher.inputs, teacher.get_layer("features").output).predict(x / 2, verbose=0)
    np.testing.assert_allclose(column(labeled, "teacher/features"), hidden, rtol=1e-5, atol=1e-6)


def test_several_teachers_in_half_precision_and_with_top_k(finished_pipeline):
    labeled = examples_of(finished_pipeline.uri("TeacherLabeller.top", "labelled_examples"), "eval")
    logits = predicted(finished_pipeline, "teacher", column(labeled, "x"))
    np.testing.assert_allclose(column(labeled, "teacher/output"), logits, rtol=1e-5, atol=1e-6)
    halves = [np.frombuffer(value[0], "<f2") for value in column(labeled, "teacher/half/output", "bytes_list")]
    np.testing.assert_allclose(halves, logits, rtol=1e-3, atol=1e-3)
    classes = column(labeled, "teacher/top/output.classes", "int64_list")
    np.testing.assert_array_equal(classes[:, 0], logits.argmax(-1))
    bits = [np.frombuffer(value[0], "<u2") for value in column(labeled, "teacher/top/output.top", "bytes_list")]
    stored = (np.uint32(bits) << 16).view("float32")
    probabilities = np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    expected = np.log(np.stack([probabilities[:, -1], probabilities[:, :-1].sum(-1)], -1))
    np.testing.assert_allclose(stored, expected, rtol=2e-2, atol=2e-2)


def test_labeled_examples_are_serialized_in_a_fixed_order(finished_pipeline):
    (file,) = glob.glob(finished_pipeline.uri("TeacherLabeller.top", "labelled_examples") + "/Split-eval/*.gz")
    for record in tf.data.TFRecordDataset(file, "GZIP").take(5).as_numpy_iterator():
        keys = list(tf.train.Example.FromString(record).features.feature)
        places = {key: record.index(b"\n" + bytes([len(key)]) + key.encode()) for key in keys}
        assert sorted(places, key=places.get) == sorted(keys)


def test_schema_describes_the_new_features(finished_pipeline):
    schema = read_schema(finished_pipeline.uri("TeacherLabeller.top", "labelled_schema") + "/schema.pbtxt")
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


def test_student_has_the_best_hyperparameters(finished_pipeline):
    (file,) = pathlib.Path(finished_pipeline.uri("Tuner", "best_hyperparameters")).iterdir()
    best = json.loads(file.read_text())["values"]
    assert set(best) == {"width", "temperature"}
    assert model_of(finished_pipeline, "student").get_layer("features").units == best["width"]
    trials = json.loads(pathlib.Path(finished_pipeline.uri("Tuner", "tuner_results"), "tuner_results.json").read_text())
    assert len(trials) == 2
    assert max(trials, key=lambda trial: trial["score"])["width"] == best["width"]


def test_online_and_offline_teachers_train_the_same_student(finished_pipeline):
    offline, online, baseline = (
        model_of(finished_pipeline, role).get_weights() for role in ("offline", "online", "baseline")
    )
    for one, other in zip(offline, online, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # The terms had an effect.
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(offline, baseline))


def test_served_model_is_the_student(finished_pipeline):
    x = DATA["eval"][0][:5]
    served = tf.saved_model.load(serving(finished_pipeline.uri("Trainer.student", "model")))
    examples = []
    for row in x:
        # Serving examples have no label and no teacher activations.
        example = tf.train.Example()
        example.features.feature["x"].float_list.value.extend(row)
        examples.append(example.SerializeToString())
    expected = predicted(finished_pipeline, "student", x)
    from_examples = served.signatures["serving_default"](examples=tf.constant(examples))
    assert list(from_examples) == ["output"]
    np.testing.assert_allclose(from_examples["output"], expected, rtol=1e-5, atol=1e-6)
    (name,) = served.signatures["tensors"].structured_input_signature[1]
    from_tensors = served.signatures["tensors"](**{name: tf.constant(x / 2)})
    np.testing.assert_allclose(from_tensors["output"], expected, rtol=1e-5, atol=1e-6)
    student = model_of(finished_pipeline, "student")
    assert len(served.variables) == len(student.variables)


def test_training_writes_tensorboard_logs_and_deletes_its_checkpoints(finished_pipeline):
    run = pathlib.Path(finished_pipeline.uri("Trainer.student", "model_run"))
    for part in ("train", "validation", "distillation"):
        assert list(run.glob(f"{part}/events*")), part
    assert not list(run.rglob("*backup*"))


def test_report_metrics(finished_pipeline):
    x, labels = DATA["eval"]
    teacher, student, baseline = (predicted(finished_pipeline, role, x) for role in ("teacher", "student", "baseline"))
    expected = {}
    for name, logits in {"teacher": teacher, "distilled": student, "baseline": baseline}.items():
        expected[f"{name}, accuracy"] = np.mean(logits.argmax(-1) == labels)
        if name == "teacher":
            continue
        expected[f"{name}, agreement"] = np.mean(logits.argmax(-1) == teacher.argmax(-1))
        # `softened_kl` has a factor of T^2.
        expected[f"{name}, divergence"] = softened_kl(logits, teacher, 2.0).mean() / 4
    folder = pathlib.Path(finished_pipeline.uri("DistillationReport", "report"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5), name
    properties = finished_pipeline.artifact("DistillationReport", "report").custom_properties
    agreement = properties["distilled, agreement"].double_value
    # ML Metadata stores it in float32.
    assert agreement == pytest.approx(metrics["distilled, agreement"], rel=1e-6)
    page = (folder / "report.html").read_text()
    assert f"{100 * metrics['distilled, agreement']:.2f} %" in page and "<svg" in page


def test_evaluator_bulk_inferrer_and_pusher_accept_the_student(finished_pipeline):
    assert finished_pipeline.artifact("Evaluator", "blessing").custom_properties["blessed"].int_value == 1
    (file,) = glob.glob(finished_pipeline.uri("BulkInferrer", "inference_result") + "/*.gz")
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(file, "GZIP")
    ]
    assert len(logs) == len(DATA["eval"][0])
    for log in logs[:5]:
        (serialized,) = log.predict_log.request.inputs["examples"].string_val
        x = tf.train.Example.FromString(serialized).features.feature["x"].float_list.value
        logits = tf.make_ndarray(log.predict_log.response.outputs["output"])
        np.testing.assert_allclose(
            logits, predicted(finished_pipeline, "student", np.float32([x])), rtol=1e-4, atol=1e-5
        )
    (pushed,) = (finished_pipeline.folder / "pushed").iterdir()
    assert "serving_default" in tf.saved_model.load(str(pushed)).signatures


def test_second_run_reruns_only_changed_nodes(finished_pipeline):
    states = finished_pipeline.run(make_nodes(finished_pipeline.folder, student_epochs=4))
    rerun = {node for node, state in states.items() if state == "complete"}
    assert rerun == {"Trainer.student", "Trainer.baseline", "DistillationReport", "Evaluator", "BulkInferrer", "Pusher"}
    assert {state for node, state in states.items() if node not in rerun} == {"cached"}
