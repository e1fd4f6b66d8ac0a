"""Command `keras-distill report`."""

import json
import pathlib
import re

import keras
import keras_tuner
import numpy as np
import pytest

from keras_distill.cli import main
from keras_distill.report import write_page
from tests.report import samples
from tests.support.helpers import missing_package


class Tuner(keras_tuner.RandomSearch):
    """Search without models; each trial scores higher than the one before."""

    def run_trial(self, trial, **options):
        return {"val_accuracy": int(trial.trial_id) / 10}


def searched(folder):
    def build(hp):
        hp.Float("temperature", 1.0, 8.0)

    tuner = Tuner(build, keras_tuner.Objective("val_accuracy", "max"), 3, seed=0, directory=folder)
    tuner.search(verbose=0)
    return pathlib.Path(tuner.project_dir)


def test_the_report_of_a_run_is_regenerated(tmp_path, capsys):
    results = samples.results()
    results.save(tmp_path / "results.json")
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'report.html'}\n"
    write_page(results, tmp_path / "expected.html")
    assert (tmp_path / "report.html").read_text() == (tmp_path / "expected.html").read_text()
    (tmp_path / "report.html").write_text("old")
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() != "old"


def test_an_existing_file_is_replaced_with_force_only(tmp_path, capsys):
    samples.results().save(tmp_path / "results.json")
    (tmp_path / "mine.html").write_text("mine")
    arguments = ["report", str(tmp_path), f"--out={tmp_path / 'mine.html'}"]
    assert main(arguments) == 1
    assert "mine.html already exists" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert "<svg" in (tmp_path / "mine.html").read_text()


def test_the_plots_of_a_search(tmp_path, capsys):
    folder = searched(tmp_path)
    assert main(["report", str(folder)]) == 0
    assert sorted(path.name for path in (folder / "plots").iterdir()) == [
        "best_so_far.png",
        "parallel_coordinates.png",
    ]
    assert main(["report", str(folder), "--objective=val_acc", f"--out={tmp_path / 'other'}"]) == 1
    assert "has the metric 'val_acc'. Available: ['val_accuracy']" in capsys.readouterr().err


def test_a_search_without_a_completed_trial_has_no_plots(tmp_path, capsys):
    folder = searched(tmp_path)
    for path in folder.glob("trial_*/trial.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": "RUNNING"}))
    assert main(["report", str(folder)]) == 1
    assert "no trial has completed" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_the_error_names_a_missing_package(missing, tmp_path, capsys, monkeypatch):
    samples.results().save(tmp_path / "results.json")
    missing_package(monkeypatch, missing)
    assert main(["report", str(tmp_path)]) == 1
    assert f"needs {missing}, which is not installed. Install it with: pip install " in capsys.readouterr().err


@pytest.mark.case("C7")
@pytest.mark.case("C6")
def test_a_student_that_became_worse_is_shown_on_top(folder, tmp_path, with_report, distill):
    arrays = np.load(folder / "train.npz")
    teacher = keras.saving.load_model(folder / "teacher.keras")
    student = keras.saving.load_model(folder / "teacher.keras")
    student.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    student.fit(arrays["x"], arrays["y"], epochs=60, verbose=0)
    student.save(folder / "trained.keras")
    teacher.save(folder / "poor.keras")
    options = ("--epochs=40", "--alpha=0", "--learning-rate=0.01", f"--validation={folder / 'train.npz'}")
    printed = distill(*options, student="trained.keras", teacher="poor.keras")
    assert "keras-distill: warning: 'distilled': 'distilled' has a worse accuracy than before training. " in printed.err
    page = (tmp_path / "run" / "report.html").read_text()
    top = page[page.index("<main>") : page.index('<h2 id="results">')]
    assert "has a worse accuracy than before training." in top and 'class="box warning"' in top
    # There is no test set.
    assert not re.search("test (set|accuracy|images|examples)", page, re.IGNORECASE) and "validation examples" in page
