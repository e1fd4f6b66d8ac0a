"""The commands of the quick start on the command line, end to end, in processes that are killed and resumed."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_distill.experiment import Results

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = pathlib.Path(sys.executable).parent / "keras-distill"
PAGE = (ROOT / "docs" / "start" / "command_line.md").read_text()
PRINTED = re.search(r"^```sh\n(keras-distill inspect.*?)```", PAGE, re.DOTALL | re.MULTILINE)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
COMMANDS = {line.split()[1]: shlex.split(line)[1:] for line in PRINTED[1].splitlines()}


def network(width, name):
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(width, activation="relu", name="hidden"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(10, activation="softmax", name="classes"),
    ]
    return keras.Sequential(layers, name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Handwritten digits, a trained teacher and an untrained student."""
    folder = tmp_path_factory.mktemp("walk")
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    np.savez(folder / "train.npz", x=images[:1297], y=labels[:1297])
    np.savez(folder / "test.npz", x=images[1297:], y=labels[1297:])
    teacher = network(64, "teacher")
    teacher.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    teacher.fit(images[:1297], labels[:1297], epochs=10, verbose=0)
    teacher.save(folder / "teacher.keras")
    return folder


def start(folder, *arguments):
    return subprocess.Popen(
        [SCRIPT, *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


def output_of(folder, *arguments, status=0):
    process = start(folder, *arguments)
    out, err = process.communicate()
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out


def stopped(folder, number, marker, *arguments):
    """Send a signal to a process as soon as a checkpoint exists, and return its exit status."""
    process = start(folder, *arguments)
    while process.poll() is None and not any(folder.glob(f"killed/models/distilled_0_*/checkpoints/{marker}")):
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    return process.returncode


def test_the_commands_as_printed(folder):
    assert list(COMMANDS) == ["inspect", "student", "check", "label", "distill", "export", "report"]
    assert "hidden" in output_of(folder, *COMMANDS["inspect"])
    assert "student.keras" in output_of(folder, *COMMANDS["student"])
    assert "No problems found" in output_of(folder, *COMMANDS["check"])
    assert "1,297 examples" in output_of(folder, *COMMANDS["label"])
    printed = output_of(folder, *COMMANDS["distill"], "--learning-rate=0.01")
    student = keras.saving.load_model(folder / "run" / "student.keras")
    arrays = np.load(folder / "test.npz")
    accuracy = np.mean(np.argmax(student(arrays["x"]), -1) == arrays["y"])
    assert accuracy > 0.7 and f"distilled: accuracy {100 * accuracy:.2f} %" in printed
    assert Results.load(folder / "run" / "results.json").models[-1].runs[0].score == pytest.approx(accuracy)
    assert "litert_int8" in output_of(folder, *COMMANDS["export"])
    assert (folder / "files" / "student_int8.tflite").exists()
    page = folder / "run" / "report.html"
    written = page.read_text()
    page.unlink()
    assert "Wrote" in output_of(folder, *COMMANDS["report"])
    assert page.read_text() == written


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(folder):
    names = ["teacher.keras", "student.keras", "--dataset=train.npz"]
    command = ["distill", *names, "--epochs=12", "--backup-every=4", "--similarity=hidden:hidden"]
    command += ["--no-baseline"]
    output_of(folder, *command, "--out=uninterrupted")
    assert stopped(folder, signal.SIGKILL, "00000003.json", *command, "--out=killed") == -signal.SIGKILL
    assert stopped(folder, signal.SIGTERM, "00000016.json", *command, "--out=killed") == 75
    assert not (folder / "killed" / "student.keras").exists()
    output_of(folder, *command, "--out=killed")
    assert not list((folder / "killed").rglob("checkpoints"))
    one, other = (keras.saving.load_model(folder / name / "student.keras") for name in ("uninterrupted", "killed"))
    for weight, same in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
    assert (folder / "killed" / "history.csv").read_text() == (folder / "uninterrupted" / "history.csv").read_text()
