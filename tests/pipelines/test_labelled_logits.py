"""Labels and class names of examples, with and without a Transform."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tfx.types import standard_artifacts

from keras_distill.cache.packing import StoredTap
from keras_distill.pipelines.labelled_logits import LabelledLogits
from tests.support.helpers import features
from tests.support.tfx_running import serialized, write_schema, write_transform_graph

pytestmark = [pytest.mark.tfx, pytest.mark.case("C10")]

TEXT, INTEGER, FLOAT = (tf.io.FixedLenFeature([], dtype) for dtype in (tf.string, tf.int64, tf.float32))
SPECS = {"income": TEXT, "sex": TEXT, "code": INTEGER}
ROWS = [
    {"income": income, "sex": sex, "code": code}
    for income, sex, code in [("low", "m", 1), ("low", "f", 1), ("high", "m", 0), ("low", "m", -1)]
]


def labelled_logits(folder, spec, graph=None, classes=None, label="income", num_classes=2):
    """Return `LabelledLogits` of a Schema with one feature and a teacher's logits."""
    stored_taps = {"output": StoredTap((num_classes,), "float32")}
    write_schema(folder / "schema" / "schema.pbtxt", {label: spec}, stored_taps)
    artifacts = standard_artifacts.Schema(), standard_artifacts.TransformGraph() if graph else None
    artifacts[0].uri = str(folder / "schema")
    if graph:
        artifacts[1].uri = str(graph)
    return LabelledLogits(artifacts[0], label, "output", artifacts[1], classes)


def batch(rows, num_classes=2):
    """Return serialized examples with a teacher's logits, and the logits."""
    logits = features(len(rows), num_classes)
    return tf.constant([serialized({**row, "teacher/output": x.tolist()}) for row, x in zip(rows, logits)]), logits


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (TEXT, ["high", "low", "", "high"]),
        (tf.io.FixedLenFeature([1], tf.string), ["high", "low", "", "high"]),
        (tf.io.VarLenFeature(tf.string), ["high", "low", None, "high"]),
        (INTEGER, [1, 0, -1, 1]),
        (tf.io.VarLenFeature(tf.int64), [1, 0, None, 1]),
    ],
)
def test_texts_and_indices_are_class_indices(tmp_path, spec, values):
    serialized_batch, expected = batch([{"income": value} for value in values])
    parser = labelled_logits(tmp_path, spec, classes=["low", "high"])
    labels, logits = parser(serialized_batch)
    np.testing.assert_array_equal(labels, [1, 0, -1, 1])
    np.testing.assert_array_equal(logits, expected)
    assert parser.class_names == ["low", "high"]
    # A batch without any label.
    np.testing.assert_array_equal(parser(serialized_batch[2:3])[0], [-1])


def preprocessing(inputs):
    """Return labels of several kinds, and features with vocabularies of two entries."""
    tft.vocabulary(inputs["income"], vocab_filename="frequencies", store_frequency=True)
    index = tft.compute_and_apply_vocabulary
    return {
        "index": index(inputs["income"]),
        "column": tf.reshape(index(inputs["income"], vocab_filename="income"), [-1, 1]),
        "named": index(tf.strings.join([inputs["sex"], inputs["sex"]]), vocab_filename="named"),
        "archive": index(inputs["sex"], file_format="tfrecord_gzip"),
        "code": inputs["code"],
        "comparison": tf.cast(inputs["income"] == "low", tf.int64),
        "equality": tf.cast(inputs["income"] == inputs["sex"], tf.int64),
        "text": inputs["income"],
    }


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph") / "graph"
    write_transform_graph(folder, SPECS, ROWS, preprocessing)
    return folder


@pytest.mark.parametrize(
    ("label", "classes", "expected", "labels"),
    [
        ("index", None, ["low", "high"], [0, 0, 1, 0]),
        ("column", None, ["low", "high"], [0, 0, 1, 0]),
        ("named", None, ["mm", "ff"], [0, 1, 0, 0]),
        ("archive", None, ["m", "f"], [0, 1, 0, 0]),
        ("index", ["poor", "rich"], ["poor", "rich"], [0, 0, 1, 0]),
        # An index that no vocabulary makes has no names, though other features have vocabularies of two texts.
        ("code", None, ["0", "1"], [1, 1, 0, -1]),
        ("comparison", None, ["0", "1"], [1, 1, 0, 1]),
        ("equality", None, ["0", "1"], [0, 0, 0, 0]),
        ("text", ["high", "low"], ["high", "low"], [1, 1, 0, 1]),
    ],
)
def test_class_names_are_those_of_the_vocabulary(tmp_path, graph, label, classes, expected, labels):
    parser = labelled_logits(tmp_path, INTEGER, graph, classes, label)
    assert parser.class_names == expected
    np.testing.assert_array_equal(parser(batch(ROWS)[0])[0], labels)


def test_vocabulary_of_other_size_is_not_used(tmp_path, graph):
    parser = labelled_logits(tmp_path, INTEGER, graph, label="named", num_classes=3)
    assert parser.class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("spec", "values", "options", "message"),
    [
        (TEXT, [], {}, "The feature 'income' holds text. Pass its 2 texts as DistillationReport(classes=...)"),
        (
            TEXT,
            ["low", "medium"],
            {"classes": ["low", "high"]},
            "The feature 'income' holds the text 'medium', which is not one of the classes ['low', 'high'].",
        ),
        (TEXT, [], {"classes": ["low", "low"]}, "`classes` must be different names of the teacher's 2 classes."),
        (INTEGER, [], {"classes": ["low"]}, "`classes` must be names of the teacher's 2 classes. Received: ['low']"),
        (FLOAT, [], {}, "The feature 'income' must hold class indices (integers) or class names (text). Received: flo"),
        (
            tf.io.FixedLenFeature([2], tf.int64),
            [[0, 1], [1, 0]],
            {},
            "The feature 'income' must hold one class per example. Received: values of shape (2, 2)",
        ),
        (
            tf.io.VarLenFeature(tf.int64),
            [[0, 1], [1]],
            {},
            "The feature 'income' must hold one class per example. Received: values of shape (2, 2)",
        ),
    ],
)
def test_invalid_labels_raise(tmp_path, spec, values, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        labelled_logits(tmp_path, spec, **options)(batch([{"income": value} for value in values])[0])


def test_label_that_only_the_transform_makes_raises(tmp_path, graph):
    message = "schema.pbtxt' has no feature 'index'.*pass DistillationReport\\(transform_graph="
    labelled_logits(tmp_path, TEXT, classes=["low", "high"])
    schema, artifact = standard_artifacts.Schema(), standard_artifacts.TransformGraph()
    schema.uri, artifact.uri = str(tmp_path / "schema"), str(graph)
    with pytest.raises(ValueError, match=message):
        LabelledLogits(schema, "index", "output")
    with pytest.raises(
        ValueError, match="The transform graph '.*graph' has no feature 'income'. Available: \\['archive"
    ):
        LabelledLogits(schema, "income", "output", artifact)
