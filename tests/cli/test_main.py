"""Command line: `inspect`, `label`, `check` of a cache, usage errors, exit status and signals."""

import importlib
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest

import keras_distill
from keras_distill.cache import open_cache
from keras_distill.callbacks.backup import EXIT_PREEMPTED
from keras_distill.cli import main
from keras_distill.data.batch import split_inputs
from keras_distill.data.datasets import open_dataset
from tests.support.helpers import data, mlp

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMANDS = ["inspect", "check", "label", "distill", "export", "report"]
# As installed: the console script's module does not import the package.
AS_INSTALLED = f"""
import importlib.util, sys
sys.path.insert(0, {str(ROOT)!r})
spec = importlib.util.spec_from_file_location(
    "keras_distill_cli", {str(ROOT / "keras_distill" / "cli" / "keras_distill_cli.py")!r}
)
sys.modules["keras_distill_cli"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["keras_distill_cli"])
from keras_distill_cli import main
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "teacher.keras"
    mlp(name="teacher").save(path)
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.npz"
    x, y = data()
    np.savez(path, x=x, y=y)
    return path


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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["inspect", "nowhere.keras"], "cannot read nowhere.keras: "),
        (["inspect", "{path}", "--match", "stage"], "no tap of .* matches 'stage'"),
        (["inspect", "{path}", "--import", "no_such_module"], "cannot read .*no_such_module"),
        (["label", "nowhere.keras", "--dataset=x.npy", "--out={out}"], "cannot read nowhere.keras: "),
        (["label", "{path}", "--dataset=x.npy", "--out={out}"], "cannot label x.npy: .*No such file"),
        (["label", "{path}", "--dataset={npz}", "--out={out}", "--tap=featurs"], "No layer called 'featurs'"),
        (["label", "{path}", "--dataset={npz}", "--out={out}", "--dtype=int8"], "`dtype` must be one of .*int8"),
        (
            ["label", "{path}", "--dataset={npz}", "--out={out}", "--top-k=3"],
            "`top_k` must be less than the number of classes",
        ),
        (["check", "{out}"], "cannot use .*: .* holds no cache"),
    ],
)
def test_a_failed_command_prints_one_line_and_exits_with_1(arguments, expected, path, npz, tmp_path, capsys):
    assert main([argument.format(path=path, npz=npz, out=tmp_path / "out") for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("keras-distill: error: ") and len(printed.err.splitlines()) == 1
    assert re.search(expected, printed.err)


DISTILL = ["distill", "x", "y", "--dataset=y", "--out=z"]
WRONG = [
    [],
    ["inspekt", "x"],
    ["inspect"],
    ["inspect", "x", "--shape"],
    ["label", "x", "--out=y"],
    ["label", "x", "--dataset=y", "--out=z", "--scale=big"],
    ["label", "x", "--dataset=y", "--out=z", "--top-k=few"],
    ["label", "x", "--dataset=y", "--out=z", "--batch-size=0"],
    ["check"],
    ["check", "x", "y"],
    ["check", "x", "--dataset=y"],
    ["check", "x", "y", "z", "--dataset=y"],
    ["check", "x", "y", "--dataset=y", "--teacher=x"],
    ["check", "x", "y", "--dataset=y", "--hint=a"],
    ["distill", "x", "--dataset=y", "--out=z"],
    ["distill", "x", "y", "--dataset=y"],
    *(
        [*DISTILL, option]
        for option in (
            *("--temperature=0", "--temperature=hot", "--alpha=1", "--alpha=-0.1", "--epochs=0", "--epochs=1.5"),
            *("--learning-rate=0", "--learning-rate=inf", "--optimizer=adamm", "--seed=-1", "--validation=0"),
            *("--validation=1", "--validation=1.5", "--batch-size=0", "--backup-every=0", "--hint=:a", "--hint=a:"),
            *("--hint=a:b:c", "--hint=a:b:0", "--hint=a:b:1:2", "--hint=a:b:", "--scale=nan"),
        )
    ),
    ["export", "x", "--dataset=y"],
    ["export", "x", "--out=y"],
    ["report"],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and "usage: keras-distill" in printed
    # The error comes first, where a long usage does not hide it. Without arguments there is only the help.
    assert not arguments or re.match("keras-distill[a-z ]*: error: ", printed)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["inspekt", "x"], "keras-distill: error: unknown command 'inspekt'. Did you mean 'inspect'?"),
        (["train"], "keras-distill: error: unknown command 'train'. Choose one of inspect, check, label, distill, "),
        (["--verson"], "keras-distill: error: unknown option '--verson'. Did you mean '--version'?"),
        # Not that --dataset is missing.
        (["label", "x", "--datset=y", "--out=z"], "label: error: unknown option '--datset'. Did you mean '--dataset'?"),
        (["report", "x", "-out=y"], "keras-distill report: error: unknown option '-out'. Did you mean '--out'?"),
        (["report", "x", "--zzz"], "keras-distill report: error: unknown option '--zzz'.\n"),
        (["inspect", "x", "y"], "keras-distill inspect: error: unexpected argument 'y'\n"),
        (["export", "x", "--dataset=y"], "export: error: the following arguments are required: --out\n"),
        ([*DISTILL, "--alpha=1"], "keras-distill distill: error: --alpha must be in [0, 1), got 1\n"),
        ([*DISTILL, "--alpha", "-0.1"], "error: --alpha must be in [0, 1), got -0.1\n"),
        ([*DISTILL, "--epochs=1.5"], "error: --epochs must be an integer >= 1, got 1.5\n"),
        ([*DISTILL, "--seed=-1"], "error: --seed must be an integer >= 0, got -1\n"),
        ([*DISTILL, "--scale=big"], "error: --scale must be a finite number such as 0.5 or 1/255, got big\n"),
        ([*DISTILL, "--temperature=0"], "error: --temperature must be > 0, got 0\n"),
        ([*DISTILL, "--hint=a:b:0"], "error: --hint must be STUDENT:TEACHER or STUDENT:TEACHER:WEIGHT with WEIGHT > 0"),
        ([*DISTILL, "--validation=0"], "error: --validation must be a fraction in (0, 1), a split or a dataset, got 0"),
        ([*DISTILL, "--optimizer=adamm"], "error: --optimizer: invalid choice: 'adamm' (choose from "),
    ],
)
def test_usage_errors(arguments, expected, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert expected in capsys.readouterr().err


def test_without_arguments_the_help_is_printed(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    assert all(f"\n    {command} " in printed.err for command in COMMANDS) and "exit status:" in printed.err


def test_version(capsys, monkeypatch):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0 and capsys.readouterr().out == f"keras-distill {keras_distill.__version__}\n"
    monkeypatch.setattr(sys, "argv", ["python", "--version"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("keras_distill.cli", run_name="__main__")
    assert exit.value.code == 0 and capsys.readouterr().out == f"keras-distill {keras_distill.__version__}\n"


def test_errors_are_not_shortened(path, npz, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ValueError(f"First line.\n\n  Indented {'long ' * 300}line.\nDo this.\n")

    monkeypatch.setattr("keras_distill.cache.label", fail)
    assert main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        f"keras-distill: error: cannot label {npz}: First line.\n    Indented {'long ' * 300}line.\n  Do this.\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0 and f"examples:\n  keras-distill {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_are_valid(command, capsys, monkeypatch):
    module = importlib.import_module(f"keras_distill.cli.{command}")
    runs = []
    monkeypatch.setattr(module, "run", runs.append)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out.replace("\\\n", " ")
    examples = re.findall(r"^  keras-distill (.*)$", printed, re.MULTILINE)
    for example in examples:
        assert main(shlex.split(example)) == 0, example
    assert len(runs) == len(examples) >= 3


def test_help_is_fast_and_imports_no_dependency():
    code = (
        AS_INSTALLED
        + f"""
import time
for arguments in ["--help"], ["--version"], *([command, "--help"] for command in {COMMANDS}):
    try:
        sys.argv[1:] = arguments
        main()
    except SystemExit as exit:
        assert exit.code == 0
assert not {{"keras", "tensorflow", "numpy", "keras_distill"}} & set(sys.modules), sys.modules
assert time.process_time() < 0.5
"""
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_messages_of_tensorflow_are_hidden(path):
    code = AS_INSTALLED + "sys.exit(main())"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": "/nonexistent"}
    command = [sys.executable, "-c", code, "inspect", path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "features" in done.stdout and done.stderr == ""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment, "KERAS_BACKEND": "jax"}, check=False
    )
    assert done.returncode == 1 and re.fullmatch("keras-distill: error: .*jax.*\n", done.stderr)


def test_the_console_script_runs_the_same_modules():
    code = (ROOT / "setup.py").read_text()
    assert 'py_modules=["keras_distill_cli"]' in code and "keras-distill = keras_distill_cli:main" in code
    assert importlib.import_module("keras_distill.cli.main").EXIT_PREEMPTED == EXIT_PREEMPTED


def test_check_verifies_what_label_wrote(path, npz, tmp_path, capsys):
    out = tmp_path / "cache"
    arguments = ["label", str(path), f"--dataset={npz}", f"--out={out}", "--tap=output", "--tap=features", "--top-k=2"]
    for _ in range(2):
        assert main([*arguments, "--dtype=float16"]) == 0
    assert "Labeling into" in capsys.readouterr().out
    assert main(["check", str(out), "--teacher", str(path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["output", "(3,)", "float16", "top", "2"] and lines[2] == ["features", "(8,)", "float16", "all"]
    assert lines[3] == ["24", "examples"] and lines[-1][:4] == ["The", "cache", "is", "intact:"]
    stored = open_cache(out)
    assert len(list(stored.join(open_dataset(npz)).batch(24))) == 1
    file = next(out.glob("*features.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert main(["check", str(out)]) == 1
    assert f"{file}' has changed since it was written" in capsys.readouterr().err


def test_check_detects_a_cache_of_another_teacher(path, npz, tmp_path, capsys):
    main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path / 'cache'}"])
    mlp(name="other", bias_initializer="ones").save(tmp_path / "other.keras")
    assert main(["check", str(tmp_path / "cache"), "--teacher", str(tmp_path / "other.keras")]) == 1
    assert "a cache of another teacher" in capsys.readouterr().err


def test_an_interrupted_label_can_be_resumed(path, npz, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_distill.cache.label", interrupted)
    assert main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path}"]) == 130
    assert "keras-distill: interrupted. Rerun the same command to resume." in capsys.readouterr().err


@pytest.mark.parametrize("event", ["signal", "warning"])
def test_signals_and_warnings_during_a_command(event, path, npz, tmp_path, monkeypatch, capsys):
    def job(*arguments, **options):
        if event == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        warnings.warn("One line\nand another.", stacklevel=1)

    monkeypatch.setattr("keras_distill.cache.label", job)
    before = signal.getsignal(signal.SIGTERM)
    arguments = ["label", str(path), f"--dataset={npz}", f"--out={tmp_path}"]
    if event == "signal":
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == EXIT_PREEMPTED
    else:
        assert main(arguments) == 0
        assert capsys.readouterr().err == "keras-distill: warning: One line and another.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_label_stores_logits_of_a_teacher_with_a_softmax(path, npz, tmp_path, capsys):
    teacher = keras.saving.load_model(path)
    teacher.add(keras.layers.Softmax())
    teacher.save(tmp_path / "softmax.keras")
    assert main(["label", str(tmp_path / "softmax.keras"), f"--dataset={npz}", f"--out={tmp_path / 'cache'}"]) == 0
    assert "ends in a softmax. The cache stores its logits" in capsys.readouterr().out
    (joined,) = open_cache(tmp_path / "cache").join(open_dataset(npz)).batch(24)
    stored = split_inputs(joined[0])[1]["output"]
    np.testing.assert_allclose(stored, keras.saving.load_model(path)(data()[0]), rtol=1e-5, atol=1e-6)


def test_the_command_is_installed(path):
    command = pathlib.Path(sys.executable).parent / "keras-distill"
    done = subprocess.run([command, "inspect", path], capture_output=True, text=True, check=True)
    assert "features" in done.stdout
