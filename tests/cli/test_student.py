"""Command `keras-distill student`."""

import shlex

import keras
import numpy as np
import pytest

from keras_distill.cli import main
from keras_distill.utils.formatting import format_size
from tests.support.helpers import assert_same_weights


@pytest.fixture
def student(folder, tmp_path, capsys):
    """Run the command on a teacher, assert its exit status and return its output."""

    def run(*options, status=0, teacher="teacher.keras"):
        arguments = ["student", str(folder / teacher), f"--out={tmp_path / 'small' / 'student.keras'}", *options]
        assert main(arguments) == status
        return capsys.readouterr()

    return run


def test_writes_a_student_and_prints_its_size(student, folder, tmp_path):
    table, advice = student("--width=0.5", "--depth=0.5").out.split("\n\n")
    path = tmp_path / "small" / "student.keras"
    small, teacher = keras.saving.load_model(path), keras.saving.load_model(folder / "teacher.keras")
    # Layers of 8, 16, 16, 16, 16 and 3 units: two of the three equal ones are kept.
    assert [layer.name for layer in small.layers] == ["block_0", "block_1", "block_3", "logits"]
    parameters = (8 + 1) * 8 + 2 * (8 + 1) * 8 + (8 + 1) * 3
    assert small.count_params() == parameters
    headings, *rows = (line.split() for line in table.splitlines())
    assert headings == ["model", "file", "parameters", "size", "smaller", "by"]
    total = teacher.count_params()
    sizes = [format_size(file.stat().st_size).split() for file in (folder / "teacher.keras", path)]
    assert rows == [
        ["teacher", str(folder / "teacher.keras"), f"{total:,}", *sizes[0], "1.0x"],
        ["student", str(path), f"{parameters:,}", *sizes[1], f"{total / parameters:.1f}x"],
    ]
    assert (
        advice.startswith("Train the student; SOURCE is a dataset, such as an .npz file with the arrays x and y")
        and ":\n    keras-distill distill " in advice
    )


def test_the_printed_command_trains_the_student(student, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_distill.report.page.write_page", lambda results, path: None)
    command = student("--width=0.5").out.splitlines()[-1].replace("SOURCE", str(folder / "train.npz"))
    assert main([*shlex.split(command)[1:], "--epochs=1"]) == 0
    capsys.readouterr()
    trained = keras.saving.load_model(tmp_path / "run" / "student.keras")
    assert trained.get_layer("block_0").units == 8 and trained.output_shape == (None, 3)


def test_the_seed_determines_the_weights(student, tmp_path):
    weights = []
    for seed in ("3", "3", "4"):
        student("--width=0.5", f"--seed={seed}", "--force")
        weights.append(keras.saving.load_model(tmp_path / "small" / "student.keras").get_weights())
    assert_same_weights(weights[0], weights[1], rtol=0, atol=0)
    assert np.abs(weights[0][0] - weights[2][0]).max() > 0.01


def test_copies_weights(student, folder, tmp_path):
    student("--depth=0.5", "--copy-weights")
    small = keras.saving.load_model(tmp_path / "small" / "student.keras")
    teacher = keras.saving.load_model(folder / "teacher.keras")
    for layer in small.layers:
        assert_same_weights(layer.get_weights(), teacher.get_layer(layer.name).get_weights(), rtol=0, atol=0)


def test_nothing_is_overwritten(student, folder, tmp_path):
    student("--width=0.5")
    path = tmp_path / "small" / "student.keras"
    before = path.read_bytes()
    assert (
        f"{path} already exists. Choose another --out, or replace it with --force."
        in student("--width=0.25", status=1).err
    )
    assert path.read_bytes() == before
    student("--width=0.25", "--force")
    assert keras.saving.load_model(path).get_layer("block_0").units == 4
    teacher = folder / "teacher.keras"
    printed = student("--width=0.5", "--force", f"--out={teacher}", status=1)
    assert f"--out is the teacher, {teacher}. Choose another file name." in printed.err
    printed = student("--width=0.5", "--force", f"--out={folder / 'd.keras'}", status=0)
    (tmp_path / "folder.keras").mkdir()
    printed = student("--width=0.5", "--force", f"--out={tmp_path / 'folder.keras'}", status=1)
    assert "folder.keras is a directory. Choose a file name for --out." in printed.err


def test_a_teacher_that_cannot_be_shrunk(student, folder, tmp_path):
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="logits")]).save(folder / "linear.keras")
    printed = student("--width=0.5", teacher="linear.keras", status=1)
    assert "error: cannot shrink" in printed.err and "'logits'" in printed.err
    assert not (tmp_path / "small").exists()


def test_what_has_no_effect_is_a_warning(student, folder):
    layers = [keras.layers.Dense(16, name="hidden"), keras.layers.Dense(3, name="logits")]
    keras.Sequential([keras.Input((8,)), *layers]).save(folder / "flat.keras")
    printed = student("--width=0.5", "--depth=0.5", teacher="flat.keras")
    assert "keras-distill: warning: " in printed.err and "no repeated blocks" in printed.err
