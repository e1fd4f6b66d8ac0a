"""Run recipes/tfx_pipeline.py from the command line."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.support.prepared import prepare

pytestmark = [pytest.mark.tfx, pytest.mark.processes]

ROOT = pathlib.Path(__file__).parent.parent.parent
NODES = {
    "CsvExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer.teacher",
    "TeacherLabeller",
    "Tuner",
    "Trainer.student",
    "Trainer.baseline",
    "DistillationReport",
    "Resolver.previous",
    "Evaluator.previous",
    "Evaluator.teacher",
    "BulkInferrer",
    "Pusher",
}


def run(*flags, check=True):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "recipes.tfx_pipeline", *map(str, flags)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not check or process.returncode == 0, process.stderr[-3000:]
    return process


def states(output):
    return dict(re.findall(r"^([\w.]+) +(complete|cached)$", output, re.MULTILINE))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return the folder of a run, and its output."""
    folder = tmp_path_factory.mktemp("digits")
    return folder, run("--smoke", f"--workdir={folder}").stdout


def test_every_node_runs(digits):
    folder, output = digits
    assert states(output) == dict.fromkeys(NODES, "complete")
    assert pathlib.Path(re.search(r"Report: (\S+report\.html)", output)[1]).exists()


def test_pushed_model_takes_the_columns_of_the_csv_file(digits):
    folder, _ = digits
    (pushed,) = (folder / "pushed").iterdir()
    (student,) = (folder / "artifacts" / "Trainer.student" / "model_run").glob("*/student.keras")
    header, *rows = (folder / "examples" / "test.csv").read_text().split()
    numbers = np.array([row.split(",") for row in rows[:20]], int)
    examples = []
    for row in numbers:
        example = tf.train.Example()
        for name, number in zip(header.split(",")[:-1], row):
            example.features.feature[name].int64_list.value.append(number)
        examples.append(example.SerializeToString())
    served = tf.saved_model.load(str(pushed)).signatures["serving_default"](examples=tf.constant(examples))["output"]
    # The pixel values are in [0, 16].
    expected = keras.saving.load_model(student).predict(numbers[:, :-1] / 16, verbose=0)
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-5)


def test_second_run_only_compares_with_the_previous_student(digits):
    folder, _ = digits
    second = states(run("--smoke", f"--workdir={folder}").stdout)
    rerun = {"Resolver.previous", "Evaluator.previous", "BulkInferrer", "Pusher"}
    assert second == {node: "complete" if node in rerun else "cached" for node in NODES}


def test_every_node_runs_on_images(tmp_path):
    prepare(tmp_path / "tfds", "fashion_mnist", {"train": 240, "test": 40})
    output = run(
        "--dataset=fashion_mnist", "--smoke", f"--data_dir={tmp_path / 'tfds'}", f"--workdir={tmp_path}"
    ).stdout
    assert states(output) == dict.fromkeys(NODES - {"CsvExampleGen", "Transform"} | {"ImportExampleGen"}, "complete")


@pytest.mark.parametrize("runner", ["kubeflow", "vertex"])
def test_specification_has_every_node(runner, tmp_path):
    run(f"--runner={runner}", f"--workdir={tmp_path}", "--image=example/image:1", "--root=gs://bucket/distill")
    (path,) = tmp_path.iterdir()
    specification = yaml.safe_load(path.read_text())
    specification = specification.get("pipelineSpec", specification)
    tasks = specification["root"]["dag"]["tasks"]
    assert NODES - {"Resolver.previous"} == {task for task in tasks if not task.startswith("Resolver")}
    labeller = specification["deploymentSpec"]["executors"]["TeacherLabeller_executor"]["container"]
    assert labeller["image"] == "example/image:1"
    assert "keras_distill.pipelines.labelling.Executor" in " ".join(labeller["args"])


def test_specification_requires_an_image_and_a_root(tmp_path):
    process = run("--runner=vertex", f"--workdir={tmp_path}", check=False)
    assert process.returncode != 0 and "--runner=vertex requires --image and --root" in process.stderr
