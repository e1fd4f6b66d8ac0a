"""Command line: usage errors, help, exit status, signals and the installed command."""

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
import pytest

import keras_distill
from keras_distill.cache import fingerprint
from keras_distill.callbacks.backup import EXIT_PREEMPTED
from keras_distill.cli import main
from tests.support.helpers import mlp

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMANDS = ["inspect", "check", "student", "label", "distill", "export", "report"]
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
            *("--hint=a:b:c", "--hint=a:b:0", "--hint=a:b:1:2", "--hint=a:b:", "--scale=nan", "--scale=1e39"),
            *("--temperature=1e30", "--temperature=1e-30", "--temperature=nan", "--epochs=1000000000000"),
            *(f"--epochs={'9' * 5000}", "--batch-size=3000000000", "--seed=4294967296", "--learning-rate=1e39"),
        )
    ),
    ["student", "x", "--width=0.5"],
    ["student", "x", "--out=y.keras"],
    *(["student", "x", "--out=y.keras", option] for option in ("--width=0", "--width=1.5", "--depth=nan", "--seed=-1")),
    ["student", "x", "--width=0.5", "--out=y.h5"],
    ["export", "x", "--dataset=y"],
    ["export", "x", "--out=y"],
    ["report"],
]


@pytest.mark.case("E14")
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
        (
            ["train"],
            "keras-distill: error: unknown command 'train'. Choose one of inspect, check, student, label, distill, ",
        ),
        (["--verson"], "keras-distill: error: unknown option '--verson'. Did you mean '--version'?"),
        # Not that --dataset is missing.
        (["label", "x", "--datset=y", "--out=z"], "label: error: unknown option '--datset'. Did you mean '--dataset'?"),
        (["report", "x", "-out=y"], "keras-distill report: error: unknown option '-out'. Did you mean '--out'?"),
        (["report", "x", "--zzz"], "keras-distill report: error: unknown option '--zzz'.\n"),
        (["inspect", "x", "y"], "keras-distill inspect: error: unexpected argument 'y'\n"),
        (["student", "x", "--out=y.keras"], "error: --width or --depth must be less than 1, such as --width=0.5\n"),
        (["student", "x", "--out=y.keras", "--width=2"], "student: error: --width must be in (0, 1], got 2\n"),
        (["student", "x", "--width=0.5", "--out=y"], "student: error: --out must end in .keras, got y\n"),
        (["export", "x", "--dataset=y"], "export: error: the following arguments are required: --out\n"),
        ([*DISTILL, "--alpha=1"], "keras-distill distill: error: --alpha must be in [0, 1), got 1\n"),
        ([*DISTILL, "--alpha", "-0.1"], "error: --alpha must be in [0, 1), got -0.1\n"),
        ([*DISTILL, "--epochs=1.5"], "error: --epochs must be an integer >= 1, got 1.5\n"),
        ([*DISTILL, "--seed=-1"], "error: --seed must be an integer >= 0, got -1\n"),
        ([*DISTILL, "--scale=big"], "error: --scale must be a finite number such as 0.5 or 1/255, got big\n"),
        ([*DISTILL, "--temperature=0"], "error: --temperature must be > 0, got 0\n"),
        ([*DISTILL, "--temperature=1e30"], "error: --temperature must be from 0.001 to 10000, got 1e30\n"),
        ([*DISTILL, "--epochs=1000000000000"], "error: --epochs must be at most 1000000, got 1000000000000\n"),
        ([*DISTILL, "--hint=a:b:0"], "error: --hint must be STUDENT:TEACHER or STUDENT:TEACHER:WEIGHT with WEIGHT > 0"),
        ([*DISTILL, "--validation=0"], "error: --validation must be a fraction in (0, 1), a split or a dataset, got 0"),
        ([*DISTILL, "--optimizer=adamm"], "error: --optimizer: invalid choice: 'adamm' (choose from "),
    ],
)
def test_usage_errors(arguments, expected, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert expected in capsys.readouterr().err


@pytest.mark.case("C11")
def test_without_arguments_the_help_is_printed(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    assert all(f"\n    {command} " in printed.err for command in COMMANDS) and "exit status:" in printed.err


@pytest.mark.case("C11")
def test_version(capsys, monkeypatch):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0 and capsys.readouterr().out == f"keras-distill {keras_distill.__version__}\n"
    monkeypatch.setattr(sys, "argv", ["python", "--version"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("keras_distill.cli", run_name="__main__")
    assert exit.value.code == 0 and capsys.readouterr().out == f"keras-distill {keras_distill.__version__}\n"


@pytest.mark.case("C5")
def test_errors_are_not_shortened(path, npz, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise ValueError(f"First line.\n\n  Indented {'long ' * 300}line.\nDo this.\n")

    monkeypatch.setattr("keras_distill.cache.label", fail)
    assert main(["label", str(path), f"--dataset={npz}", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == (
        f"keras-distill: error: cannot label {npz}: First line.\n    Indented {'long ' * 300}line.\n  Do this.\n"
    )


@pytest.mark.case("C5")
def test_fingerprints_are_printed_whole_on_request(path, npz, tmp_path, capsys):
    cache, other = tmp_path / "cache", tmp_path / "other.keras"
    assert main(["label", str(path), f"--dataset={npz}", f"--out={cache}"]) == 0
    mlp(9, name="teacher").save(other)
    fingerprints = [fingerprint.of_weights(keras.saving.load_model(file).weights) for file in (path, other)]
    for options in ((), ("-v",)):
        assert main(["check", str(cache), f"--teacher={other}", *options]) == 1
        error = capsys.readouterr().err
        assert all((print in error) == bool(options) and print[:6] in error for print in fingerprints), error


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0 and f"examples:\n  keras-distill {command} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_are_valid(command, tmp_path, capsys, monkeypatch):
    # An example of `distill` reads this file.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("teacher: t.keras\nstudent: s.keras\ndataset: train.npz\n")
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


def test_the_command_is_installed(path):
    command = pathlib.Path(sys.executable).parent / "keras-distill"
    done = subprocess.run([command, "inspect", path], capture_output=True, text=True, check=True)
    assert "features" in done.stdout
