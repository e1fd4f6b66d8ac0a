"""README: its code runs, its tables are complete."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_distill
from keras_distill import data, experiment
from keras_distill.experiment import Task
from tests.support.helpers import features

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


def block(heading):
    """The first code below a heading."""
    return re.search(rf"^###? {heading}\n.*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)[1]


EXAMPLE, SMALL, SEARCH = block("Quick start"), block("Compress a student"), block("Hyperparameter search")
EXPERIMENT, TRANSFER = block("Experiments"), block("New examples for the teacher")


def test_the_example_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network(16, "teacher").save("teacher.keras")
    assert len(EXAMPLE.strip().splitlines()) <= 15
    x, y = features(32, 8), np.arange(32) % 3
    exec(  # noqa: S102
        EXAMPLE.replace("epochs=10", "epochs=1, verbose=0"),
        {"make_a_smaller_model": lambda: network(8, "student"), "x_train": x, "y_train": y, "x_test": x, "y_test": y},
    )
    assert keras.saving.load_model("student.keras").count_params() == network(8, "student").count_params()


def test_making_it_small_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = features(32, 8), np.arange(32) % 3
    found = {"student": network(8, "student"), "teacher": network(64, "teacher")}
    found |= {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    exec(SMALL.replace("epochs=10", "epochs=1, verbose=0"), found)  # noqa: S102
    _, *rows = capsys.readouterr().out.strip().splitlines()
    assert [row.split()[:2] for row in rows] == [
        ["teacher", "litert_float32"],
        ["student", "litert_int8"],
        ["student", "onnx"],
    ]


def test_the_experiment_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = features(40, 8), np.arange(40) % 3
    given = {"teacher": network(16, "teacher"), "make_a_smaller_model": lambda: network(8, "student")}
    given |= {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    exec(EXPERIMENT.replace("epochs=30", "epochs=1").replace("seeds=5", "seeds=2"), given)  # noqa: S102
    assert [model.name for model in given["results"].models] == ["teacher", "baseline", "distilled"]
    assert "95 % interval over 2 seeds" in capsys.readouterr().out
    for name in ("student.keras", "results.json", "report.html", "models"):
        assert (tmp_path / "runs" / "first" / name).exists()


def test_the_transfer_set_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = features(40, 8), np.arange(40) % 3
    given = {"teacher": network(16, "teacher"), "make_a_smaller_model": lambda: network(8, "student")}
    given |= {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    before, after = EXPERIMENT.split("terms = ")[0], EXPERIMENT[EXPERIMENT.index("data = ") :]
    whole = f"{before}\n{TRANSFER}\n{after}".replace("epochs=30", "epochs=1").replace("seeds=5", "seeds=1")
    exec(whole, given)  # noqa: S102
    names = [model.name for model in given["results"].models]
    assert names == ["teacher", "baseline", "baseline, mixtures", "distilled"]


def test_every_augmentation_has_a_row():
    section = README.partition("### New examples for the teacher")[2].partition("\n## ")[0]
    named = [value for value in map(vars(data).get, data.__all__) if isinstance(value, type)]
    augmentations = [value for value in named if issubclass(value, data.Augmentation)]
    assert len(augmentations) == 8
    for augmentation in augmentations:
        assert f"`{augmentation.__name__}" in section


def test_every_task_has_a_row():
    rows = re.findall(r"^\|.*\| (.*) \|$", README.partition("## Experiments")[2].partition("\n## ")[0], re.MULTILINE)
    tasks = [value for value in vars(experiment).values() if isinstance(value, type) and issubclass(value, Task)]
    assert len(tasks) == 5
    for task in tasks:
        assert any(re.search(rf"`{task.__name__}\b", row) for row in rows), task


def test_the_search_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len([line for line in SEARCH.splitlines() if line]) <= 20
    found = {
        "teacher": network(16, "teacher"),
        "make_a_student": lambda width: network(width, "student"),
        "x_train": features(32, 8),
        "y_train": np.arange(32) % 3,
    }
    exec(SEARCH.replace("max_epochs=30", "max_epochs=2, factor=2").replace("=0.2", "=0.2, verbose=0"), found)  # noqa: S102
    assert len(found["tuner"].oracle.trials) == 5
    width = found["tuner"].get_best_hyperparameters()[0].get("width")
    assert keras.saving.load_model("student.keras").count_params() == network(width, "student").count_params()


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
