"""What README promises is there."""

import pathlib
import re

import keras
import numpy as np
import pytest
from helpers import features

import keras_distill

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def network(width, name):
    return keras.Sequential(
        [
            keras.Input((8,)),
            *(keras.layers.Dense(width, activation="relu", name=f"block_{index}") for index in range(1, 5)),
            keras.layers.Dense(3),
        ],
        name=name,
    )


def test_the_example_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network(16, "teacher").save("teacher.keras")
    (example,) = re.findall(r"## Use it\n\n```python\n(.*?)```", README, re.DOTALL)
    assert len(example.strip().splitlines()) <= 15
    x, y = features(32, 8), np.arange(32) % 3
    exec(  # noqa: S102
        example.replace("epochs=10", "epochs=1, verbose=0"),
        {"make_a_smaller_model": lambda: network(8, "student"), "x_train": x, "y_train": y, "x_test": x, "y_test": y},
    )
    assert keras.saving.load_model("student.keras").count_params() == network(8, "student").count_params()


def test_every_row_of_the_comparison_is_a_test():
    tests = re.findall(r"def (test_d\d+)_", (ROOT / "tests" / "test_faults.py").read_text())
    named = re.findall(r"`(test_d\d+)`", README)
    assert sorted(named) == sorted(f"test_d{number}" for number in range(1, 26)) == sorted(set(tests))


@pytest.mark.parametrize("folder", ["losses", "heads"])
def test_every_entry_of_a_catalogue_has_a_row_with_its_test(folder):
    catalogue = getattr(keras_distill, folder)
    public = {name: value for name, value in vars(catalogue).items() if isinstance(value, type)}
    rows = dict(re.findall(rf"^\| `(\w+)\(.* \| \[test\]\((tests/{folder}/\w+\.py)\) \|$", README, re.MULTILINE))
    assert set(rows) == set(public) - {"DistillationLoss", "Head"}
    for name, path in rows.items():
        assert (ROOT / path).exists()
        assert pathlib.Path(path).name == f"test_{public[name].__module__.rsplit('.', 1)[1]}.py"


def test_continuous_integration_runs_the_test_command():
    found = re.findall(r"^    (\.ci/environment .*pytest)$", README, re.MULTILINE)
    assert len(found) == 1
    assert r"s/^    \(\.ci\/environment .*pytest\)$/\1/p" in (ROOT / ".ci" / "run").read_text()
