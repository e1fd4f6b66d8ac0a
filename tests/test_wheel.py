"""The wheel holds the recipes as `keras_distill.examples`, and runs outside of the clone."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent


def run(*command, folder, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of the wheel, built from a copy, since building writes into the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("keras_distill", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q")
    run("-m", "pip", "wheel", *options, "-w", folder, source, folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """Folder with the packages of the wheel."""
    target = wheel.parent / "packages"
    run("-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", target, wheel, folder=wheel.parent)
    return target


def test_its_top_level_names(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"keras_distill", "keras_distill_cli.py"}
    shipped = {name.rpartition("/")[2] for name in names if name.startswith("keras_distill/examples/")}
    assert shipped == {path.name for path in (ROOT / "recipes").glob("*.py")}
    sources = {
        f"keras_distill/{path.relative_to(ROOT / 'keras_distill')}" for path in (ROOT / "keras_distill").rglob("*")
    }
    assert {name for name in sources if name.endswith((".py", ".jinja", "py.typed"))} <= set(names)


def test_a_recipe_runs(installed, tmp_path):
    command = ("-m", "keras_distill.examples.digits", "--smoke", "--temperature=3", f"--workdir={tmp_path / 'run'}")
    run(*command, folder=tmp_path, PYTHONPATH=str(installed), TF_CPP_MIN_LOG_LEVEL="3")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["command"].startswith("python -m keras_distill.examples.digits --smoke")
    # A flag of all recipes, and one of the data.
    assert results["settings"]["temperature"] == 3.0 and results["settings"]["evaluate_on"] == "test"
    assert (tmp_path / "run" / "report.html").exists()
    # Nothing was written elsewhere.
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_help_of_the_package_teaches(installed, tmp_path):
    code = "import keras_distill; help(keras_distill)"
    printed = run("-c", code, folder=tmp_path, PYTHONPATH=str(installed), TF_CPP_MIN_LOG_LEVEL="3")
    for text in ("Distiller(student=student", "distiller.fit(x, y", "preflight", "keras-distill --help"):
        assert text in printed
    # The package is that of the wheel.
    assert str(installed) in printed


def test_the_command_line_runs(installed, tmp_path):
    listed = run("-m", "keras_distill_cli", "--help", folder=tmp_path, PYTHONPATH=str(installed))
    assert "keras-distill COMMAND [options]" in listed and "distill" in listed


def test_help_lists_the_flags_of_all_recipes(installed, tmp_path):
    # absl exits with status 1 after --help.
    code = "import runpy, sys; sys.argv = ['digits', '--help']\ntry: runpy.run_module('keras_distill.examples.digits', "
    code += "run_name='__main__', alter_sys=True)\nexcept SystemExit: pass"
    printed = run("-c", code, folder=tmp_path, PYTHONPATH=str(installed), TF_CPP_MIN_LOG_LEVEL="3")
    assert "--temperature" in printed and "--originals" in printed
