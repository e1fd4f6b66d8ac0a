"""Nothing is found in the recipes' own distillers, in a process each, since they share their flags."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.support import bert

ROOT = pathlib.Path(__file__).parent.parent.parent
DISTILLED = {
    "digits": ["student distilled"],
    "digits_chain": ["student distilled", "assistant distilled", "student by assistant"],
    "mnist_hinton": ["800 units distilled", "30 units distilled"],
    "fashion_mnist_hint": ["student distilled"],
    "fashion_mnist_edge": ["student distilled", "student shared", "shared, longer", "shared, 8 bits"],
    "minilm_layers": ["copied, logits", "copied, logits, layers"],
}


LONG = ("minilm_layers", "fashion_mnist_edge")


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in DISTILLED]
)
def test_nothing_is_found(recipe, tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "support" / "recipe_run.py"), recipe]
    if recipe == "minilm_layers":
        preset = bert.save_preset(tmp_path / "preset", layers=6)
        command += [f"--preset={preset}", f"--originals={bert.save_snippets(tmp_path)}", "--teacher_learning_rate=1e-3"]
    if recipe in ("fashion_mnist_hint", "fashion_mnist_edge"):
        # More steps, for the moving statistics of its normalisation.
        command += ["--batch_size=16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(.*): (\d+) findings$", done.stdout, re.MULTILINE)
    assert found == [(student, "0") for student in DISTILLED[recipe]], done.stdout
