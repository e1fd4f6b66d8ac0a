"""README: short, its code runs as printed, its links lead somewhere."""

import pathlib
import re

import keras
import pytest

import keras_distill
from keras_distill import heads, losses

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_it_is_short():
    assert len(README.splitlines()) <= 150
    (example,) = PYTHON
    assert len([line for line in example.splitlines() if line]) <= 25


def test_the_quick_start_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[0], "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102
    scores = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(scores) == ["baseline", "distilled"]
    # A real gain, and a modest one.
    assert 0.8 < float(scores["baseline"]) < float(scores["distilled"]) - 0.02 < 0.98
    assert [path.name for path in tmp_path.iterdir()] == ["student.keras"]
    # 64 x 32 and 32 x 10 weights, with biases: no teacher.
    assert keras.saving.load_model("student.keras").count_params() == 64 * 32 + 32 + 32 * 10 + 10


def test_every_command_of_its_blocks_is_run_by_a_test():
    (block,) = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    commands = [line for line in block.splitlines() if not line.startswith("#")]
    # The pattern of tests/cli/test_newcomer.py.
    assert commands == re.findall(r"^(keras-distill (?:student model|distill model).*)$", README, re.MULTILINE)
    assert len(commands) == 2
    # The pages on the command line and of the site begin with the same ones.
    assert re.sub(r"^#.*\n", "", block, flags=re.MULTILINE) in (ROOT / "docs/start/command_line.md").read_text()


def test_commands_for_the_main_job_and_the_tests():
    # The form that tests/test_readme_commands.py and .ci/run read.
    for beginning in (r"python3 -m venv \.venv && ", r"\.ci/environment .*pytest", r"\.ci/slow "):
        assert len(re.findall(rf"^    {beginning}", README, re.MULTILINE)) == 1, beginning
    assert r"s/^    \(\.ci\/environment .*pytest\)$/\1/p" in (ROOT / ".ci" / "run").read_text()


def test_numbers_of_losses_and_heads():
    def entries(catalogue, base):
        return [name for name in catalogue.__all__ if isinstance(getattr(catalogue, name), type) and name != base]

    numbers = len(entries(losses, "DistillationLoss")), len(entries(heads, "Head"))
    assert f"[{numbers[0]} losses and {numbers[1]} heads]" in README


@pytest.mark.parametrize("page", ["README.md", "docs/start/installation.md", "docs/project/citation.md"])
def test_version(page):
    text = (ROOT / page).read_text()
    assert re.findall(r"keras_distill-([\d.]+)-py3|version = \{([\d.]+)\}", text)
    for match in re.finditer(r"keras_distill-([\d.]+)-py3|version = \{([\d.]+)\}", text):
        assert (match[1] or match[2]) == keras_distill.__version__
