"""Numeric labels of examples, with and without a Transform."""

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from keras_distill.cache.packing import StoredTap
from keras_distill.pipelines.labelled_outputs import LabelledOutputs
from tests.support.tfx_running import serialized, write_schema, write_transform_graph

pytestmark = pytest.mark.tfx

SPECS = {"price": tf.io.FixedLenFeature([], tf.float32), "tags": tf.io.FixedLenFeature([3], tf.int64)}
ROWS = [{"price": 1.5, "tags": [0, 1, 1]}, {"price": 2.0, "tags": [1, 0, 0]}, {"price": 4.0, "tags": [0, 0, 1]}]


def parser(folder, label, size, graph=None, classes=None):
    write_schema(folder / "schema" / "schema.pbtxt", SPECS, {"output": StoredTap((size,), "float32")})
    artifacts = standard_artifacts.Schema(), standard_artifacts.TransformGraph() if graph else None
    artifacts[0].uri = str(folder / "schema")
    if graph:
        artifacts[1].uri = str(graph)
    return LabelledOutputs(artifacts[0], label, "output", artifacts[1], classes)


def batch(outputs):
    return tf.constant([serialized({**row, "teacher/output": list(x)}) for row, x in zip(ROWS, outputs)])


@pytest.mark.parametrize(("label", "size"), [("price", 1), ("tags", 3)])
def test_labels_and_outputs(label, size, tmp_path):
    outputs = np.arange(3.0 * size).reshape(3, size).astype("float32")
    made = parser(tmp_path, label, size)
    labels, teacher = made(batch(outputs))
    np.testing.assert_array_equal(labels, [row[label] for row in ROWS])
    np.testing.assert_array_equal(teacher, outputs)
    assert made.output_shape == (size,) and made.class_names == [str(number) for number in range(size)]


def test_a_label_that_a_transform_makes(tmp_path):
    def preprocessing(inputs):
        return {"log_price": tf.math.log(inputs["price"])}

    write_transform_graph(tmp_path / "graph", SPECS, ROWS, preprocessing)
    labels, _ = parser(tmp_path, "log_price", 1, tmp_path / "graph")(batch(np.zeros((3, 1))))
    np.testing.assert_allclose(labels, np.log([1.5, 2.0, 4.0]), rtol=1e-6)


def test_missing_features_raise(tmp_path):
    with pytest.raises(ValueError, match="The label 'cost' must be a number or a vector of fixed length"):
        parser(tmp_path, "cost", 1)
