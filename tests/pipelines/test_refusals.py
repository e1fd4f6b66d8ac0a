"""What cannot work fails in its node, with a sentence that names the artifact and the key."""

import json
import re

import keras
import pytest
import tensorflow as tf
from google.protobuf import text_format
from helpers import data, mlp
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx.types import standard_artifacts
from tfx_running import Pipeline, serving, write_examples

from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.labelling import TeacherLabeller
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.settings import Settings

pytestmark = pytest.mark.tfx

SCHEMA = """
    feature { name: "x" type: FLOAT presence { min_fraction: 1.0 } shape { dim { size: 8 } } }
    feature { name: "label" type: INT presence { min_fraction: 1.0 } shape { dim { size: 1 } } }
"""


def importer(kind, uri, name, **properties):
    return tfx.dsl.Importer(source_uri=str(uri), artifact_type=kind, properties=properties).with_id(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Examples of several kinds, their Schema, and two teachers."""
    folder = tmp_path_factory.mktemp("refusals")
    x, labels = data()
    write_examples(folder / "examples", {"train": (x, labels), "eval": (x, labels)})
    write_examples(folder / "unlabelled", {"train": (x, None), "eval": (x, None)})
    write_examples(folder / "empty", {"train": (x, labels), "eval": ([], [])})
    schema = text_format.Parse(SCHEMA, schema_pb2.Schema())
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    reader = Reader(schema, Settings("tfx_project:teacher", label="label"))
    export(mlp(name="teacher"), reader, serving(str(folder / "teacher")))
    export(mlp(classes=5, name="teacher"), reader, serving(str(folder / "teacher_of_five")))
    keras.export.ExportArchive
    return folder


def labeller(folder, examples="examples", model="teacher", splits=("train", "eval"), **options):
    nodes = {
        "examples": importer(
            standard_artifacts.Examples, folder / examples, "examples", split_names=json.dumps(["train", "eval"])
        ),
        "model": importer(standard_artifacts.Model, folder / model, "model"),
        "schema": importer(standard_artifacts.Schema, folder / "schema", "schema"),
    }
    node = TeacherLabeller(**{key: node.outputs["result"] for key, node in nodes.items()}, splits=splits, **options)
    return [*nodes.values(), node]
