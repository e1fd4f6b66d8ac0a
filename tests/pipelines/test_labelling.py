"""TeacherLabeller on Beam workers, and the encoding of activations in examples."""

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import shared
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from keras_distill.cache.packing import StoredTap
from keras_distill.pipelines import activations, labelling
from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.settings import Settings
from tests.support.helpers import data, features, mlp
from tests.support.tfx_running import SCHEMA, examples_of, write_examples

pytestmark = pytest.mark.tfx

STORED_TAPS = {
    "output": StoredTap((4,), "float32"),
    "map": StoredTap((2, 3), "float16"),
    "wide/map": StoredTap((2, 3), "bfloat16"),
    "wide/output": StoredTap((4,), "float32", top_k=2),
}


def teacher_outputs():
    shapes = {tap: stored.shape for tap, stored in STORED_TAPS.items()}
    return {tap: tf.constant(features(5, *shape, seed=number)) for number, (tap, shape) in enumerate(shapes.items())}


def test_decode_inverts_encode():
    outputs = teacher_outputs()
    serialized = [
        tf.train.Example(features=tf.train.Features(feature=row)).SerializeToString()
        for row in activations.encode(outputs, STORED_TAPS)
    ]
    decoded = activations.decode(tf.io.parse_example(serialized, activations.parsing_specs(STORED_TAPS)), STORED_TAPS)
    np.testing.assert_array_equal(decoded["output"], outputs["output"])
    np.testing.assert_array_equal(decoded["map"], tf.cast(outputs["map"], "float16"))
    np.testing.assert_array_equal(
        tf.cast(decoded["wide/map"], "float32"), tf.cast(tf.cast(outputs["wide/map"], "bfloat16"), "float32")
    )
    log_probabilities = np.float64(tf.nn.log_softmax(outputs["wide/output"]))
    order = np.argsort(-log_probabilities)
    np.testing.assert_array_equal(decoded["wide/output"]["classes"], order[:, :2])
    ordered = np.take_along_axis(log_probabilities, order, -1)
    expected = np.concatenate([ordered[:, :2], np.log(np.exp(ordered[:, 2:]).sum(-1, keepdims=True))], -1)
    np.testing.assert_allclose(decoded["wide/output"]["top"], expected, rtol=1e-5)


def test_schema_round_trip_of_stored_taps():
    schema = activations.extend_schema(schema_pb2.Schema(), STORED_TAPS)
    assert activations.stored_taps_from_schema(schema_pb2.Schema.FromString(schema.SerializeToString())) == STORED_TAPS


def test_values_too_large_for_half_precision_raise():
    outputs = teacher_outputs() | {"map": tf.fill((5, 2, 3), 1e6)}
    with pytest.raises(ValueError, match="teacher output 'map' has values that are not finite in float16."):
        activations.encode(outputs, STORED_TAPS)


def test_threads_of_a_worker_share_one_teacher(tmp_path, monkeypatch):
    write_examples(tmp_path, {"train": data(200)})
    (tmp_path / "schema.pbtxt").write_text(SCHEMA)
    reader = Reader(str(tmp_path / "schema.pbtxt"), Settings("tests.support.tfx_project:teacher", label="label"))
    export(mlp(), reader, str(tmp_path / "teacher"))
    loads, setups = [], []
    load, setup = labelling.Signature, labelling._AddTeacherOutputs.setup
    monkeypatch.setattr(labelling, "Signature", lambda *arguments: loads.append(1) or load(*arguments))
    monkeypatch.setattr(labelling._AddTeacherOutputs, "setup", lambda self: setups.append(1) or setup(self))
    add_outputs = labelling._AddTeacherOutputs(
        str(tmp_path / "teacher"),
        "activations",
        {"output": StoredTap((3,), "float32")},
        "",
        shared.Shared(),
    )
    options = ["--runner=FnApiRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=3"]
    batches = [[e.SerializeToString() for e in examples_of(tmp_path, "train")[first::20]] for first in range(20)]
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        labeled = pipeline | beam.Create(batches) | beam.Reshuffle() | beam.ParDo(add_outputs)
        labeled | beam.combiners.Count.Globally() | beam.Map(lambda count: _assert_equal(count, 200))
    assert len(setups) > 1 and len(loads) == 1


def test_runtime_parameters_are_passed_on():
    types = {"splits": str, "top_k": str, "batch_size": int, "teacher": str}
    parameters = {name: tfx.dsl.experimental.RuntimeParameter(name=name, ptype=ptype) for name, ptype in types.items()}
    artifacts = tfx.types.standard_artifacts
    channels = {
        "examples": tfx.dsl.Channel(type=artifacts.Examples),
        "model": tfx.dsl.Channel(type=artifacts.Model),
        "schema": tfx.dsl.Channel(type=artifacts.Schema),
    }
    properties = labelling.TeacherLabeller(**channels, **parameters, dtype={"output": "float16"}).exec_properties
    assert {name: properties[name] for name in parameters} == parameters
    assert properties["dtype"] == '{"output": "float16"}'


def _assert_equal(actual, expected):
    assert actual == expected
