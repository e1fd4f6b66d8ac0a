"""Errors of .ci/environment. That it works is tested whenever .ci/run passes."""

import os
import pathlib
import stat
import subprocess

import pytest

pytestmark = pytest.mark.processes

SCRIPT = pathlib.Path(__file__).parent.parent / ".ci" / "environment"


def refusal(*arguments, python="python3"):
    done = subprocess.run(
        [SCRIPT, *arguments], env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_a_folder_must_be_named():
    assert "usage: .ci/environment VENV" in refusal()


def test_a_folder_of_others_is_not_overwritten(tmp_path):
    assert f"'{tmp_path}' exists, but is not an environment that this script has finished" in refusal(tmp_path)


def test_a_python_that_is_not_there(tmp_path):
    error = refusal(tmp_path / "venv", python="no-such-python")
    assert "'no-such-python' was not found. Set PYTHON to a Python 3.10 to 3.13." in error


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_a_python_without_tfx(version, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    error = refusal(tmp_path / "venv", python=python)
    assert f"TFX 1.21 has no packages for Python {version}." in error
    assert "pip install -e '.[test]'" in error
    assert not (tmp_path / "venv").exists()
