"""Command `keras-distill inspect`."""

import subprocess
import sys

import keras
import pytest

from keras_distill.cli import main

pytestmark = pytest.mark.processes


def test_inspect_lists_taps_with_shapes(path, capsys):
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tap       shape      layer       parameters",
        "features  (None, 8)  Dense               72",
        "logits    (None, 3)  Dense               27",
        "output    (None, 3)  Sequential          99",
    ]


def test_inspect_lists_matching_taps(path, capsys):
    assert main(["inspect", str(path), "--match", "f*s"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tap", "features"]


def test_inspect_lists_the_last_activations_of_stages(tmp_path, path, capsys):
    layers = [keras.layers.Conv2D(2, 3, name="a"), keras.layers.Conv2D(2, 3, padding="same", name="b")]
    keras.Sequential([keras.Input((6, 6, 1)), *layers, keras.layers.Flatten(name="c")]).save(tmp_path / "model.keras")
    assert main(["inspect", str(tmp_path / "model.keras")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tap", "a", "b", "c", "output"]
    assert [" ".join(line.split()) for line in lines[1:3]] == ["a (None, 4, 4, 2) 1 Conv2D 20",
                                                               "b (None, 4, 4, 2) 1, last Conv2D 38"]  # fmt: skip
    assert main(["inspect", str(tmp_path / "model.keras"), "--stages"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tap", "b"]
    assert main(["inspect", str(path), "--stages"]) == 1
    assert "has no feature maps of known size" in capsys.readouterr().err


def test_inspect_lists_layers_that_cannot_be_tapped(tmp_path, capsys):
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(3, name="lstm")])
    model.save(tmp_path / "model.keras")
    assert main(["inspect", str(tmp_path / "model.keras")]) == 0
    assert "Cannot be tapped:\n  'lstm/lstm_cell' runs inside a loop" in capsys.readouterr().out


def test_inspect_imports_modules_of_custom_layers(tmp_path, monkeypatch, capsys):
    code = """
import keras
@keras.saving.register_keras_serializable("cli")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""
    (tmp_path / "twice.py").write_text(code)
    model = (
        f"import keras, twice; keras.Sequential([keras.Input((2,)), twice.Twice(name='t')]).save('{tmp_path}/m.keras')"
    )
    subprocess.run([sys.executable, "-c", model], cwd=tmp_path, check=True)
    assert main(["inspect", f"{tmp_path}/m.keras"]) == 1
    assert "'Twice' is unknown. Pass the module that registers it: --import" in capsys.readouterr().err
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["inspect", f"{tmp_path}/m.keras", "--import", "twice"]) == 0
    assert "Twice" in capsys.readouterr().out
