"""README's two commands, in one clone and in either order, and the console script that they install."""

import os
import pathlib
import re
import subprocess

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def command(beginning):
    """The line of README's code block that begins with these words."""
    (line,) = re.findall(rf"^    ({re.escape(beginning)} .*)$", README, re.MULTILINE)
    return line


# A shorter job and a few tests: the full ones are the recipe's and this suite.
MAIN = command("python3 -m venv .venv").replace("recipes.digits", "recipes.digits --smoke")
TESTS = command(".ci/environment").replace("pytest", "pytest -n 0 tests/utils tests/data/test_batch.py")


def run(line, clone):
    # The environments of the clone, not the one that runs this test.
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        ["bash", "-ec", line], cwd=clone, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.case("C8")
@pytest.mark.parametrize("order", [("main", "tests"), ("tests", "main")], ids=" then ".join)
def test_commands_work_one_after_the_other(order, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    printed = {name: run({"main": MAIN, "tests": TESTS}[name], clone) for name in order}
    assert "report.html" in printed["main"] and (clone / "runs" / "digits" / "report.html").exists()
    assert re.search(r"\d+ passed", printed["tests"])
    # Again: an environment that exists is reused.
    assert "reusing" in run(TESTS, clone)
    assert "keras-distill 0." in run(".venv/bin/keras-distill --version", clone)
