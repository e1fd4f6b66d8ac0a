"""What cannot work fails in its node, with a sentence that names the artifact and the key."""

import json
import pathlib
import re

import keras
import pytest
import tensorflow as tf
from tfx import v1 as tfx
from tfx.types import standard_artifacts

from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.labelling import TeacherLabeller
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.reporting import DistillationReport
from keras_distill.pipelines.settings import Settings
from tests.support.helpers import data, features, mlp
from tests.support.tfx_running import SCHEMA, Pipeline, serving, write_examples

pytestmark = pytest.mark.tfx

SPLITS = ["train", "eval"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Examples, some of them lacking something; their Schema; teachers, some of them no use; labelled examples."""
    folder = tmp_path_factory.mktemp("refusals")
    x, labels = data()
    write_examples(folder / "examples", dict.fromkeys(SPLITS, (x, labels)))
    write_examples(folder / "unlabelled", dict.fromkeys(SPLITS, (x, None)))
    write_examples(folder / "empty", {"train": (x, labels), "eval": ([], [])})
    write_examples(folder / "other", dict.fromkeys(SPLITS, (features(24, 5), labels)))
    schema = folder / "schema" / "schema.pbtxt"
    schema.parent.mkdir()
    schema.write_text(SCHEMA)
    reader = Reader(str(schema), Settings("tests.support.tfx_project:student", label="label"))
    student = mlp()
    export(student, reader, serving(folder / "student"))
    for classes, name in ((3, "teacher"), (5, "of_five"), (2, "of_two")):
        export(mlp(classes=classes, name="teacher"), reader, serving(folder / name))
    of_tensors = keras.export.ExportArchive()
    of_tensors.track(student)
    of_tensors.add_endpoint("activations", student.call, [tf.TensorSpec((None, 8))])
    of_tensors.write_out(serving(folder / "of_tensors"), verbose=False)
    burst = mlp(name="teacher")
    burst.get_layer("logits").bias.assign([1.0, float("inf"), 0.0])
    export(burst, reader, serving(folder / "burst"))
    for name in ("teacher", "of_five", "of_two"):
        pipeline = Pipeline(folder / f"labelling_{name}")
        pipeline.run(labelling(folder, model=name))
        for key in ("labelled_examples", "labelled_schema"):
            pathlib.Path(pipeline.uri("TeacherLabeller", key)).rename(folder / f"{key}_{name}")
    return folder


def imported(folder, examples="examples", schema="schema", **models):
    """Nodes that give artifacts in the folder, and their channels."""
    kinds = {"examples": (standard_artifacts.Examples, examples), "schema": (standard_artifacts.Schema, schema)}
    kinds |= {key: (standard_artifacts.Model, name) for key, name in models.items()}
    nodes = {
        key: tfx.dsl.Importer(
            source_uri=str(folder / name),
            artifact_type=kind,
            properties={"split_names": json.dumps(SPLITS)} if key == "examples" else {},
        ).with_id(key)
        for key, (kind, name) in kinds.items()
    }
    return list(nodes.values()), {key: node.outputs["result"] for key, node in nodes.items()}


def labelling(folder, examples="examples", schema="schema", model="teacher", **options):
    nodes, channels = imported(folder, examples, schema, model=model)
    return [*nodes, TeacherLabeller(**channels, **options)]


def training(
    folder, examples="labelled_examples_teacher", schema="labelled_schema_teacher", steps=None, split="train", **values
):
    nodes, channels = imported(folder, examples, schema)
    values = {"label": "label", "terms": "tests.support.tfx_project:output_term", "features": ("x",)} | values
    trainer = tfx.components.Trainer(
        run_fn="keras_distill.pipelines.training.run_fn",
        train_args=tfx.proto.TrainArgs(splits=[split], num_steps=steps),
        custom_config=Settings("tests.support.tfx_project:student", **values).as_config(),
        **channels,
    )
    return [*nodes, trainer]


def reporting(folder, label="label", split="eval", tap="output", kept="teacher", **models):
    models = {"model": "student", "base_model": "teacher"} | models
    nodes, channels = imported(folder, f"labelled_examples_{kept}", f"labelled_schema_{kept}", **models)
    return [*nodes, DistillationReport(**channels, label=label, split=split, tap=tap)]


REFUSED = {
    "a split that is not there": (
        labelling,
        {"splits": ["train", "test"]},
        "The examples at '{}/examples' have no splits ['test']. There: ['train', 'eval'].",
    ),
    "a split without examples": (
        labelling,
        {"examples": "empty"},
        "There are no examples at ['{}/empty/Split-eval/*']: the files are empty.",
    ),
    "a signature that is not there": (
        labelling,
        {"signature": "serving"},
        "The SavedModel '{}/teacher/Format-Serving' has no signature 'serving'. There: ['activations', "
        "'serving_default', 'tensors'].",
    ),
    "a signature of tensors": (
        labelling,
        {"model": "of_tensors"},
        "The signature 'activations' of the SavedModel '{}/of_tensors/Format-Serving' must take serialized examples.",
    ),
    "a tap that is not shown": (
        labelling,
        {"taps": ["output", "features"]},
        "The SavedModel '{}/teacher/Format-Serving' does not show the taps ['features']. There: ['output'].",
    ),
    "the same teacher twice": (
        labelling,
        {"examples": "labelled_examples_teacher", "schema": "labelled_schema_teacher"},
        "The Schema has a feature 'teacher/output' already.",
    ),
    "a teacher that says infinity": (labelling, {"model": "burst"}, "What the teacher says at 'output' is not finite"),
    "more classes than there are": (labelling, {"top_k": 3}, "`top_k` must be less than the number of classes"),
    "examples that the teacher cannot read": (
        labelling,
        {"examples": "other"},
        "The SavedModel '{}/teacher/Format-Serving' cannot read the examples at '{}/other/Split-train/*': ",
    ),
    "a label that the Schema lacks": (
        training,
        {"label": "klass"},
        "'{}/labelled_schema_teacher/schema.pbtxt' has no features ['klass']. There: ",
    ),
    "examples without the label": (
        training,
        {"examples": "unlabelled", "schema": "schema", "terms": None},
        "The examples at ['{}/unlabelled/Split-train/*'] have no features ['label']. There: ['x'].",
    ),
    "examples without the activations": (
        training,
        {"examples": "examples"},
        "The examples at ['{}/examples/Split-train/*'] have no features ['teacher/output']. There: ['label', 'x'].",
    ),
    "terms without a teacher": (
        training,
        {"examples": "examples", "schema": "schema"},
        "There are terms, but no teacher: the Schema '{}/schema/schema.pbtxt' knows of no activations.",
    ),
    "a training split without examples": (
        training,
        {"examples": "empty", "schema": "schema", "terms": None},
        "There are no examples at ['{}/empty/Split-eval/*']: the files are empty.",
    ),
    "a teacher of other classes": (
        training,
        {"examples": "labelled_examples_of_five", "schema": "labelled_schema_of_five"},
        "Term 'kl_divergence' compares 3 student classes with 5 teacher classes: student 'output' has shape "
        "(None, 3), teacher 'output' has (None, 5). Give both the same classes in the same order, such as by "
        "ModelTeacher(teacher, classes=...). The teacher's activations are {{'teacher/output': [5]}}, from "
        "['{}/labelled_examples_of_five/Split-train/*'].",
    ),
    "a tap that was not stored": (
        training,
        {"terms": "tests.support.tfx_project:terms"},
        "The activations ['features'] were not stored. There: ['output'].",
    ),
    "steps that epochs do not divide": (
        training,
        {"steps": 5, "epochs": 2},
        "train_args.num_steps must be a multiple of the 2 epochs. Received: 5",
    ),
    "a report without the label": (
        reporting,
        {"label": "klass"},
        "The Schema '{}/labelled_schema_teacher/schema.pbtxt' has no feature 'klass'. There: ['label', ",
    ),
    "a report on a split that is not there": (
        reporting,
        {"split": "test"},
        "The examples at '{}/labelled_examples_teacher' have no splits ['test']. There: ['train', 'eval'].",
    ),
    "a training on a split that is not there": (
        training,
        {"split": "test"},
        "Split does not exist over all example artifacts: test",
    ),
    "a report on another tap": (
        reporting,
        {"tap": "features"},
        "The Schema '{}/labelled_schema_teacher/schema.pbtxt' knows of no activations at 'features', but at",
    ),
    "a report on labels that the teacher does not know": (
        reporting,
        {"kept": "of_two"},
        "The feature 'label' has the label 2, but the teacher has 2 classes, the first being 0.",
    ),
    "a report on a student of other classes": (
        reporting,
        {"kept": "of_five"},
        "The model of 'student distilled' gives {{'output': (None, 3)}}, but the teacher's logits are of 5 classes",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_work_is_refused(case, folder, tmp_path):
    nodes, options, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(sentence.format(*[folder] * 2))):
        Pipeline(tmp_path).run(nodes(folder, **options))
