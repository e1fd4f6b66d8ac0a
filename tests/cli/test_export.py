"""Command `keras-distill export`."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cli import main
from keras_distill.cli.export import EXAMPLES, sample_inputs
from keras_distill.compression import exporting, profiling
from keras_distill.utils.formatting import format_size
from tests.support.helpers import data, mlp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    mlp(name="net").save(folder / "student.keras")
    x, y = data(600)
    order = np.argsort(y)
    np.savez(folder / "by_class.npz", x=x[order], y=y[order])
    return folder


@pytest.fixture
def export(folder, tmp_path, capsys):
    def run(*options, status=0):
        arguments = ["export", str(folder / "student.keras"), f"--dataset={folder / 'by_class.npz'}"]
        assert main([*arguments, f"--out={tmp_path / 'files'}", *options]) == status
        return capsys.readouterr()

    return run


def test_tables_of_agreement_and_profiles(tmp_path, export):
    printed = export("--format=keras", "--format=litert_float32")
    agreement, profiles = ([line.split() for line in table.splitlines()] for table in printed.out.split("\n\n"))
    assert agreement[0] == ["format", "file", "difference", "agreement"]
    files = tmp_path / "files"
    for row, name in zip(agreement[1:], ("student.keras", "student_float32.tflite"), strict=True):
        assert row[1] == str(files / name) and row[3] == "100.0%" and float(row[2]) < 1e-4
    assert profiles[0] == " ".join(profiling.HEADINGS).split()
    for row, name in zip(profiles[1:], ("student.keras", "student_float32.tflite"), strict=True):
        assert " ".join(row[3:5]) == format_size((files / name).stat().st_size) and row[6] == "99"
    assert float(profiles[2][8]) > 0
    assert keras.saving.load_model(files / "student.keras").count_params() == 99


def test_examples_are_from_the_whole_dataset(folder, tmp_path, export, monkeypatch):
    calls = []
    monkeypatch.setattr("keras_distill.compression.export", lambda *call: calls.append(call) or [exported(call)])

    def exported(call):
        return exporting.Exported("keras", pathlib.Path(call[1]), 1, 0.0, 1.0)

    export("--format=keras")
    arrays = np.load(folder / "by_class.npz")
    # The dataset is sorted by class: its first 256 examples are of two classes.
    assert len(set(arrays["y"][:256])) == 2
    labels = [arrays["y"][np.all(arrays["x"] == x, axis=1)][0] for x in calls[0][2]]
    assert len(labels) == 256 and set(labels) == {0, 1, 2}


def test_the_student_of_a_distiller_of_keras_is_exported(folder, tmp_path, capsys):
    distiller = keras.distillation.Distiller(
        mlp(32, name="large"), mlp(name="small"), distillation_losses=keras.distillation.LogitsDistillation()
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(*data(8), verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    arguments = ["export", str(tmp_path / "distiller.keras"), f"--dataset={folder / 'by_class.npz'}", "--format=tflite"]
    assert main([*arguments, f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr()
    assert "contains a distiller. Its student 'small' is used." in printed.err
    profiles = printed.out.split("\n\n")[1].splitlines()
    assert profiles[1].split()[:2] == ["small", "litert_float32"] and profiles[1].split()[6] == "99"


def test_nothing_is_overwritten(tmp_path, export):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "student_float32.tflite").write_text("mine")
    printed = export("--format=keras", "--format=litert_float32", status=1)
    assert "student_float32.tflite already exists. Choose another --out or --name" in printed.err
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["student_float32.tflite"]
    export("--format=keras", "--format=litert_float32", "--name=other")
    export("--format=litert_float32", "--force")
    assert (tmp_path / "files" / "student_float32.tflite").stat().st_size > 1000


def test_other_formats_are_written_when_one_fails(export, monkeypatch):
    monkeypatch.setitem(exporting.FORMATS, "litert_float16", -1.0)
    printed = export("--format=litert_float16", "--format=keras", status=1)
    agreement, profiles = (table.splitlines() for table in printed.out.split("\n\n"))
    assert [line.split()[0] for line in agreement] == ["format", "keras"]
    assert [line.split()[1] for line in profiles] == ["format", "keras"]
    first, last = printed.err.splitlines()
    assert "litert_float16" in first and "differ from those of 'net'" in first
    assert last == "keras-distill: error: 1 of 2 formats failed."


def test_unknown_and_listed_formats(export, capsys):
    with pytest.raises(SystemExit) as exit:
        export("--format=onyx")
    expected = f"--format must be one of {', '.join(exporting.FORMATS)}, got onyx. Did you mean 'onnx'?"
    assert exit.value.code == 2 and expected in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main(["export", "--list-formats"])
    listed = capsys.readouterr().out.splitlines()
    assert exit.value.code == 0 and [line.split()[0] for line in listed] == list(exporting.FORMATS)
    assert "litert_int8 (tflite_int8, int8)" in listed


@pytest.mark.parametrize("count", [1, 100, 256, 300, 511, 1000])
def test_examples_are_spread_over_the_whole_dataset(count):
    sample = sample_inputs(tf.data.Dataset.range(count))
    assert len(sample) == min(count, EXAMPLES)
    assert sample[0] == 0 and sample[-1] == count - 1
    assert len(set(np.diff(sample))) <= 2
