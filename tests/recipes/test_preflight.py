"""The distillers of all recipes pass the pre-flight checks. One process per recipe, because flags are global."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.support import bert

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent.parent
DISTILLED = {
    "digits": ["distilled"],
    "digits_chain": ["distilled", "assistant", "distilled by assistant"],
    "mnist_hinton": ["distilled, 800 units"],
    "diabetes_regression": ["distilled"],
    "fashion_mnist_hint": ["distilled"],
    "digits_edge": ["distilled", "distilled, tied", "distilled, tied, longer", "distilled, tied, QAT"],
    "minilm_layers": ["distilled, logits", "distilled, logits and layers"],
}


LONG = ("minilm_layers", "digits_edge")


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in DISTILLED]
)
def test_recipe_passes_the_checks(recipe, tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "support" / "recipe_run.py"), recipe, str(tmp_path / "run")]
    if recipe == "minilm_layers":
        preset = bert.save_preset(tmp_path / "preset", layers=6)
        command += [f"--preset={preset}", f"--originals={bert.save_snippets(tmp_path)}", "--teacher_learning_rate=1e-3"]
    if recipe == "fashion_mnist_hint":
        # More steps, for the moving statistics of batch normalization.
        command += ["--batch_size=16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    findings = re.findall(r"^(.*): (\d+) findings$", process.stdout, re.MULTILINE)
    assert findings == [(student, "0") for student in DISTILLED[recipe]], process.stdout
