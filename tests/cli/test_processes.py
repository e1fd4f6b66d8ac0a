"""Commands that share a directory, get SIGTERM, fill the disk, or run beside files of others."""

import os
import shutil
import signal
import time

import numpy as np
import pytest

from keras_distill.callbacks import EXIT_PREEMPTED
from keras_distill.cli import main
from tests.support.helpers import data, mlp
from tests.support.processes import COMMAND, may_mount, mounted, popen, run

pytestmark = pytest.mark.processes


def distill_command(folder, out, *options):
    paths = (folder / "teacher.keras", folder / "student.keras")
    return (*COMMAND, "distill", *paths, f"--dataset={folder / 'train.npz'}", f"--out={out}", *options)


def wait_for(folder, pattern, process):
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.case("E7")
def test_two_processes_on_one_directory(folder, tmp_path):
    long = distill_command(folder, tmp_path / "run", "--epochs=100000")
    first = popen(*long)
    try:
        wait_for(tmp_path / "run", "models/baseline_0_*/checkpoints/00000001.json", first)
        os.kill(first.pid, signal.SIGSTOP)
        for command in (long, distill_command(folder, tmp_path / "run", "--epochs=1", "--force")):
            status, _, error = run(*command)
            assert status == 1
            expected = f"Another process is writing to '{tmp_path / 'run'}': process {first.pid}. Wait"
            assert expected in error.splitlines()[-1]
    finally:
        first.kill()
        first.communicate()
    # A killed process leaves no lock.
    status, printed, error = run(*distill_command(folder, tmp_path / "run", "--epochs=1", "--force"))
    assert status == 0, error
    assert "experiment.lock" not in os.listdir(tmp_path / "run")


IMPORTED = "import pathlib\npathlib.Path({mark!r}).touch()\nraise RuntimeError('executed')\n"


@pytest.mark.case("E4")
@pytest.mark.parametrize("command", [COMMAND, (shutil.which("keras-distill", path=os.path.dirname(COMMAND[0])),)])
def test_modules_of_the_current_directory_are_not_imported(folder, tmp_path, command):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("tensorflow_datasets", "matplotlib", "jinja2", "h5py", "etils", "keras", "numpy"):
        (hostile / f"{name}.py").write_text(IMPORTED.format(mark=str(tmp_path / name)))
    dataset = ["--dataset=no_such_dataset", f"--out={tmp_path / 'cache'}"]
    status, _, error = run(*command, "label", folder / "teacher.keras", *dataset, cwd=hostile)
    assert status == 1 and "no_such_dataset" in error and "executed" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile"]


CUSTOM = """
import keras
import helper_of_the_module
@keras.saving.register_keras_serializable("mine")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""


@pytest.mark.case("E4")
def test_the_module_that_is_named_is_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_layers_e4.py").write_text(CUSTOM)
    (tmp_path / "helper_of_the_module.py").touch()
    script = (
        "import sys, keras, my_layers_e4\nkeras.Sequential([keras.Input((8,)), my_layers_e4.Doubled()]).save('m.keras')"
    )
    assert run(COMMAND[0], "-c", script, cwd=tmp_path)[0] == 0
    status, printed, error = run(*COMMAND, "inspect", "m.keras", "--import", "my_layers_e4", cwd=tmp_path)
    assert status == 0 and "doubled" in printed, error
    status, _, error = run(*COMMAND, "inspect", "m.keras", cwd=tmp_path)
    assert status == 1 and "Pass the module that registers it: --import MODULE" in error


@pytest.mark.case("E13")
def test_a_full_disk_is_named(folder, tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("No permission to mount.")
    mlp(256, name="wide").save(tmp_path / "wide.keras")
    x, y = data(2000)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    full = tmp_path / "full"
    full.mkdir()
    source = f"--dataset={tmp_path / 'data.npz'}"
    script = """
import shutil, sys
from keras_distill.cli import main
full, teacher, wide, source = sys.argv[1:]
main(["label", teacher, source, f"--out={full}/cache"])
shutil.rmtree(f"{full}/cache")
main(["distill", teacher, wide, source, f"--out={full}/run", "--epochs=1"])
shutil.rmtree(f"{full}/run")
main(["export", wide, source, f"--out={full}/export", "--format=keras"])
"""
    arguments = (full, folder / "teacher.keras", tmp_path / "wide.keras", source)
    _, _, error = run(*mounted("-t tmpfs -o size=24k none", full), COMMAND[0], "-c", script, *arguments)
    errors = [line for line in error.splitlines() if "No space left" in line]
    assert len(errors) == 3, error
    for line, name in zip(errors, ("cache/00000.output.npy'", "run/", "export'")):
        assert f"No space left on device: '{full}/{name}" in line


@pytest.mark.case("E14")
@pytest.mark.parametrize("command", ["label", "distill"])
def test_sigterm_before_training(command, folder, tmp_path, monkeypatch, capsys):
    def stopped(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    # In this order: the module `data`, which may be imported here, takes the function from `reading`.
    monkeypatch.setattr("keras_distill.cli.data.examples", stopped)
    monkeypatch.setattr("keras_distill.cli.reading.examples", stopped)
    models = [str(folder / "teacher.keras"), *([str(folder / "student.keras")] if command == "distill" else [])]
    with pytest.raises(SystemExit) as exit:
        main([command, *models, f"--dataset={folder / 'train.npz'}", f"--out={tmp_path / 'out'}"])
    assert exit.value.code == EXIT_PREEMPTED
    assert capsys.readouterr().err == "keras-distill: stopped by SIGTERM. Rerun the same command to resume.\n"
