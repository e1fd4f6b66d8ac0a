"""Command `keras-distill check` of two models, and errors of `keras-distill distill` before training."""

import re

import keras
import numpy as np
import pytest

from keras_distill.cli import main
from tests.support.distill_command import labels_out_of_range
from tests.support.helpers import mlp

pytestmark = pytest.mark.everyday


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--hint=blok_1:block_1"], "No layer called 'blok_1' in 'student'. Closest: .*block_1"),
        (["--hint=bl_*:block_*"], "No layer of 'student' matches 'bl_\\*'"),
        (["--validation=test"], "--validation=test is neither a fraction"),
        (["--validation=0.001"], "There are 64 examples, of which a fraction of 0.001 leaves none"),
    ],
)
def test_options_that_do_not_fit_fail_before_training(options, expected, tmp_path, distill):
    printed = distill(*options, status=1)
    assert re.search(expected, printed.err) and len(printed.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_models_and_labels_that_do_not_fit_raise_errors(folder, distill):
    mlp(classes=4, name="other").save(folder / "other.keras")
    assert "3 student classes with 4 teacher classes" in distill(teacher="other.keras", status=1).err
    inputs = keras.Input((8,))
    outputs = [keras.layers.Dense(3)(inputs) for _ in range(2)]
    keras.Model(inputs, outputs, name="two").save(folder / "two.keras")
    assert "'two' must have one output" in distill(student="two.keras", status=1).err
    np.savez(folder / "wide.npz", x=np.zeros((64, 8), "float32"), y=np.zeros((64, 5)))
    assert "Labels must have the shape (3,) per example" in distill(dataset="wide.npz", status=1).err


def test_findings_are_printed_before_training(folder, tmp_path, distill, capsys):
    options = ("--optimizer=sgd", "--learning-rate=10000")
    models = [str(folder / name) for name in ("teacher.keras", "student.keras")]
    assert main(["check", *models, f"--dataset={folder / 'train.npz'}", *options]) == 3
    found = capsys.readouterr().out
    assert found.endswith(" found (4 batches checked).\n") and "Seen: " in found and "Do: " in found
    printed = distill("--strict", *options, f"--validation={folder / 'test.npz'}", status=1)
    first, *_, last = printed.err.splitlines()
    assert first.startswith("keras-distill: warning: ") and found.splitlines()[0] in first
    assert re.search(r"Training did not start: \d problems? of 'distilled' found with `strict` set\.$", last)
    assert not list((tmp_path / "run").rglob("*.keras"))


@pytest.mark.case("E11")
def test_labels_out_of_range_end_the_command(folder, tmp_path, distill):
    printed = distill(dataset=labels_out_of_range(folder), status=1)
    assert len(printed.err.splitlines()) == 1 and not (tmp_path / "run").exists()
    assert re.search("the label [7-9] of example 0 of .* is not a class of the student, .* 0 to 2", printed.err)


def test_check_uses_the_terms_and_the_learning_rate(folder, capsys):
    arguments = ["check", *(str(folder / name) for name in ("teacher.keras", "student.keras"))]
    arguments.append(f"--dataset={folder / 'train.npz'}")
    assert main([*arguments, "--hint=block_9:block_1"]) == 1
    assert "No layer called 'block_9'" in capsys.readouterr().err
    assert main([*arguments, "--hint=block_1:block_3", "--optimizer=sgd", "--learning-rate=10000"]) == 3
    assert "learning rate" in capsys.readouterr().out


def test_check_of_a_teacher_that_matches_the_labels_finds_nothing(folder, tmp_path, distill, capsys):
    teacher = keras.saving.load_model(folder / "teacher.keras")
    x = np.load(folder / "train.npz")["x"]
    np.savez(folder / "predicted.npz", x=x, y=np.argmax(teacher(x), -1))
    models = [str(folder / name) for name in ("teacher.keras", "student.keras")]
    assert main(["check", *models, f"--dataset={folder / 'predicted.npz'}", "--temperature=1"]) == 0
    assert capsys.readouterr().out == "No problems found (4 batches checked).\n"
