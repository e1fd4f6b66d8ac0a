"""Errors of nodes with invalid inputs, which name the artifact and the key."""

import pathlib
import re

import keras
import pytest
import tensorflow as tf
from tfx import v1 as tfx

from keras_distill.pipelines.exporting import export
from keras_distill.pipelines.labelling import TeacherLabeller
from keras_distill.pipelines.reading import Reader
from keras_distill.pipelines.reporting import DistillationReport
from keras_distill.pipelines.settings import Settings
from tests.support.helpers import data, features, mlp
from tests.support.tfx_running import SCHEMA, Pipeline, import_artifacts, serving, write_examples

pytestmark = pytest.mark.tfx

SPLITS = ["train", "eval"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with valid and invalid examples and teachers, a Schema, and labeled examples."""
    folder = tmp_path_factory.mktemp("errors")
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
    for classes, name in ((3, "teacher"), (5, "five_classes"), (2, "two_classes")):
        export(mlp(classes=classes, name="teacher"), reader, serving(folder / name))
    tensors_only = keras.export.ExportArchive()
    tensors_only.track(student)
    tensors_only.add_endpoint("activations", student.call, [tf.TensorSpec((None, 8))])
    tensors_only.write_out(serving(folder / "tensors_only"), verbose=False)
    infinite = mlp(name="teacher")
    infinite.get_layer("logits").bias.assign([1.0, float("inf"), 0.0])
    export(infinite, reader, serving(folder / "infinite"))
    for name in ("teacher", "five_classes", "two_classes"):
        pipeline = Pipeline(folder / f"labelling_{name}")
        pipeline.run(labeling_nodes(folder, model=name))
        for key in ("labelled_examples", "labelled_schema"):
            pathlib.Path(pipeline.uri("TeacherLabeller", key)).rename(folder / f"{key}_{name}")
    return folder


def labeling_nodes(folder, examples="examples", schema="schema", model="teacher", **options):
    nodes, channels = import_artifacts(folder, SPLITS, examples=examples, schema=schema, model=model)
    return [*nodes, TeacherLabeller(**channels, **options)]


def training_nodes(
    folder, examples="labelled_examples_teacher", schema="labelled_schema_teacher", steps=None, split="train", **values
):
    nodes, channels = import_artifacts(folder, SPLITS, examples=examples, schema=schema)
    values = {"label": "label", "terms": "tests.support.tfx_project:output_term", "features": ("x",)} | values
    trainer = tfx.components.Trainer(
        run_fn="keras_distill.pipelines.training.run_fn",
        train_args=tfx.proto.TrainArgs(splits=[split], num_steps=steps),
        custom_config=Settings("tests.support.tfx_project:student", **values).as_config(),
        **channels,
    )
    return [*nodes, trainer]


def reporting_nodes(folder, label="label", split="eval", tap="output", teacher="teacher", **models):
    names = {"model": "student", "base_model": "teacher"} | models
    names |= {"examples": f"labelled_examples_{teacher}", "schema": f"labelled_schema_{teacher}"}
    nodes, channels = import_artifacts(folder, SPLITS, **names)
    return [*nodes, DistillationReport(**channels, label=label, split=split, tap=tap)]


INVALID = {
    "a missing split": (
        labeling_nodes,
        {"splits": ["train", "test"]},
        "The examples at '{}/examples' have no splits ['test']. Available: ['train', 'eval'].",
    ),
    "a split without examples": (
        labeling_nodes,
        {"examples": "empty"},
        "There are no examples at ['{}/empty/Split-eval/*']: the files are empty.",
    ),
    "a missing signature": (
        labeling_nodes,
        {"signature": "serving"},
        "The SavedModel '{}/teacher/Format-Serving' has no signature 'serving'. Available: ['activations', "
        "'serving_default', 'tensors'].",
    ),
    "a signature that takes tensors": (
        labeling_nodes,
        {"model": "tensors_only"},
        "The signature 'activations' of the SavedModel '{}/tensors_only/Format-Serving' must take serialized examples, "
        "a single string tensor. Received: {{'inputs': ((None, 8), 'float32')}}",
    ),
    "a tap that the teacher does not output": (
        labeling_nodes,
        {"taps": ["output", "features"]},
        "The SavedModel '{}/teacher/Format-Serving' does not output the taps ['features']. Available: ['output'].",
    ),
    "the same teacher twice": (
        labeling_nodes,
        {"examples": "labelled_examples_teacher", "schema": "labelled_schema_teacher"},
        "The Schema already has the feature 'teacher/output'.",
    ),
    "a teacher that outputs infinity": (
        labeling_nodes,
        {"model": "infinite"},
        "The teacher output 'output' has values that are not finite in float32.",
    ),
    "more classes than there are": (
        labeling_nodes,
        {"top_k": 3},
        "`top_k` must be less than the number of classes",
    ),
    "examples that the teacher cannot parse": (
        labeling_nodes,
        {"examples": "other"},
        "The SavedModel '{}/teacher/Format-Serving' cannot parse the examples at '{}/other/Split-train/*': ",
    ),
    "a label that is not in the Schema": (
        training_nodes,
        {"label": "klass"},
        "'{}/labelled_schema_teacher/schema.pbtxt' has no features ['klass']. Available: ",
    ),
    "examples without the label": (
        training_nodes,
        {"examples": "unlabelled", "schema": "schema", "terms": None},
        "The examples at ['{}/unlabelled/Split-train/*'] have no features ['label']. Available: ['x'].",
    ),
    "examples without the activations": (
        training_nodes,
        {"examples": "examples"},
        "The examples at ['{}/examples/Split-train/*'] have no features ['teacher/output']. Available: ['label', 'x'].",
    ),
    "terms without a teacher": (
        training_nodes,
        {"examples": "examples", "schema": "schema"},
        "The settings have terms, but the Schema '{}/schema/schema.pbtxt' has no teacher activations.",
    ),
    "a training split without examples": (
        training_nodes,
        {"examples": "empty", "schema": "schema", "terms": None},
        "There are no examples at ['{}/empty/Split-eval/*']: the files are empty.",
    ),
    "a teacher with other classes": (
        training_nodes,
        {"examples": "labelled_examples_five_classes", "schema": "labelled_schema_five_classes"},
        "Term 'kl_divergence' compares 3 student classes with 5 teacher classes: student 'output' has shape "
        "(None, 3), teacher 'output' has (None, 5). Both need the same classes in the same order; see "
        "ModelTeacher(teacher, classes=...). If only the last ones differ, such as the padding of a vocabulary, pass "
        "Term(words=3). Teacher activations: {{'teacher/output': [5]}}, from "
        "['{}/labelled_examples_five_classes/Split-train/*'].",
    ),
    "a tap that was not stored": (
        training_nodes,
        {"terms": "tests.support.tfx_project:terms"},
        "The activations ['features'] were not stored. Stored: ['output']. Run `label` into another directory with "
        "taps=['output', 'features'], or let the terms compare what is stored.",
    ),
    "steps that are not a multiple of the epochs": (
        training_nodes,
        {"steps": 5, "epochs": 2},
        "`train_args.num_steps` must be a multiple of the number of epochs, 2. Received: 5",
    ),
    "a report without the label": (
        reporting_nodes,
        {"label": "klass"},
        "The Schema '{}/labelled_schema_teacher/schema.pbtxt' has no feature 'klass'. Available: ['label', ",
    ),
    "a report on a missing split": (
        reporting_nodes,
        {"split": "test"},
        "The examples at '{}/labelled_examples_teacher' have no splits ['test']. Available: ['train', 'eval'].",
    ),
    "training on a missing split": (
        training_nodes,
        {"split": "test"},
        "Split does not exist over all example artifacts: test",
    ),
    "a report on a tap that is not stored": (
        reporting_nodes,
        {"tap": "features"},
        "The Schema '{}/labelled_schema_teacher/schema.pbtxt' has no teacher activations at 'features'. Available: "
        "['output'].",
    ),
    "a report on labels that are not classes of the teacher": (
        reporting_nodes,
        {"teacher": "two_classes"},
        "The feature 'label' must hold class indices from 0 to 1, because the teacher has 2 classes, or -1 for a "
        "missing label. Received: 2",
    ),
    "a report on a student with other classes": (
        reporting_nodes,
        {"teacher": "five_classes"},
        "The model 'distilled' must have outputs like the teacher's, 'output' of shape (None, 5). Received: "
        "{{'output': (None, 3)}}",
    ),
}


@pytest.mark.parametrize("case", list(INVALID))
def test_invalid_inputs_raise(case, folder, tmp_path):
    nodes, options, message = INVALID[case]
    with pytest.raises(ValueError, match=re.escape(message.format(*[folder] * 2))):
        Pipeline(tmp_path).run(nodes(folder, **options))
