"""The command as a user calls it."""

import pathlib
import re
import subprocess
import sys

import keras
import pytest
from helpers import mlp

from keras_distill.cli import main


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "teacher.keras"
    mlp(name="teacher").save(path)
    return path


def test_inspect_lists_taps_with_shapes(path, capsys):
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tap       shape      layer       parameters",
        "features  (None, 8)  Dense               72",
        "logits    (None, 3)  Dense               27",
        "output    (None, 3)  Sequential          99",
    ]


def test_inspect_lists_what_matches(path, capsys):
    assert main(["inspect", str(path), "--match", "f*s"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["tap", "features"]


def test_inspect_says_what_cannot_be_tapped(tmp_path, capsys):
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.LSTM(3, name="lstm")])
    model.save(tmp_path / "model.keras")
    assert main(["inspect", str(tmp_path / "model.keras")]) == 0
    assert "Cannot be tapped:\n  'lstm/lstm_cell' runs inside a loop" in capsys.readouterr().out


def test_inspect_imports_what_registers_a_models_layers(tmp_path, monkeypatch, capsys):
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
    assert "Twice" in capsys.readouterr().err
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["inspect", f"{tmp_path}/m.keras", "--import", "twice"]) == 0
    assert "Twice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "nowhere.keras"], "cannot inspect nowhere.keras: "),
        (["inspect", "{path}", "--match", "stage"], "no tap of .* holds 'stage'"),
        (["inspect", "{path}", "--import", "no_such_module"], "cannot inspect .*no_such_module"),
    ],
)
def test_a_job_that_fails_says_why_and_exits_with_1(arguments, said, path, capsys):
    assert main([argument.format(path=path) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("keras-distill: ") and len(printed.err.splitlines()) == 1
    assert re.search(said, printed.err)


@pytest.mark.parametrize("arguments", [[], ["inspekt", "x"], ["inspect"], ["inspect", "x", "--shape"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and "usage: keras-distill" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["inspect", "--help"])
    assert exit.value.code == 0 and "keras-distill inspect teacher.keras" in capsys.readouterr().out


def test_the_command_is_installed(path):
    command = pathlib.Path(sys.executable).parent / "keras-distill"
    done = subprocess.run([command, "inspect", path], capture_output=True, text=True, check=True)
    assert "features" in done.stdout
