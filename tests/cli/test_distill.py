"""Command `keras-distill distill`: objective, results, and runs that exist already."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import losses
from keras_distill.cli import main
from keras_distill.cli.objective import FEATURES
from keras_distill.losses.base import DistillationLoss
from keras_distill.report import Results
from tests.support.distill_command import labels_out_of_range, trained
from tests.support.helpers import assert_same_weights, missing_package, softmax, weights_of

pytestmark = pytest.mark.everyday

# One step of plain gradient descent on all 64 examples.
ONE_STEP = ("--batch-size=64", "--epochs=1", "--optimizer=sgd", "--learning-rate=0.5")


def weights_after_one_step(folder, temperature, alpha):
    """Return the student's weights after one step on an independent transcription of the objective."""
    teacher, student = (keras.saving.load_model(folder / f"{name}.keras") for name in ("teacher", "student"))
    arrays = np.load(folder / "train.npz")
    teacher_logits = teacher(arrays["x"])
    p = tf.nn.softmax(teacher_logits / temperature)
    with tf.GradientTape() as tape:
        logits = student(arrays["x"])
        crossentropy = tf.nn.sparse_softmax_cross_entropy_with_logits(arrays["y"], logits)
        log_p, log_q = tf.nn.log_softmax(teacher_logits / temperature), tf.nn.log_softmax(logits / temperature)
        kl = tf.reduce_sum(p * (log_p - log_q), -1)
        loss = tf.reduce_mean(alpha * crossentropy + (1 - alpha) * temperature**2 * kl)
    gradients = tape.gradient(loss, student.trainable_variables)
    return [w.numpy() - 0.5 * g.numpy() for w, g in zip(student.trainable_variables, gradients)]


def test_one_step_matches_the_documented_objective(folder, tmp_path, distill):
    validation = f"--validation={folder / 'test.npz'}"
    distill(*ONE_STEP, validation, "--temperature=3", "--alpha=0.3", "--baseline")
    assert_same_weights(weights_of(trained(tmp_path)), weights_after_one_step(folder, 3.0, 0.3), rtol=1e-4, atol=1e-6)
    baseline = weights_of(trained(tmp_path, file="baseline.keras"))
    assert_same_weights(baseline, weights_after_one_step(folder, 1.0, 1.0), rtol=1e-4, atol=1e-6)


def test_results_are_those_of_the_saved_models(folder, tmp_path, with_report, distill):
    printed = distill("--epochs=3", "--batch-size=16", f"--validation={folder / 'test.npz'}", "--baseline")
    arrays = np.load(folder / "test.npz")

    def accuracy(model):
        return np.mean(np.argmax(model(arrays["x"]), -1) == arrays["y"])

    teacher, untrained = (keras.saving.load_model(folder / f"{name}.keras") for name in ("teacher", "student"))
    expected = [accuracy(teacher), accuracy(trained(tmp_path)), accuracy(untrained)]
    of_teacher, after, before = (f"{100 * each:.2f} %" for each in expected)
    assert f"Accuracy on 32 validation examples: teacher {of_teacher}, student {after} " in printed.out
    assert f"({before} before training)." in printed.out
    results = Results.load(tmp_path / "run" / "results.json")
    assert {model.name: model.runs[0].accuracy for model in results.models} == pytest.approx(
        {
            "teacher": expected[0],
            "baseline": accuracy(trained(tmp_path, file="baseline.keras")),
            "distilled": expected[1],
        }
    )
    assert [model.role for model in results.models] == ["teacher", "baseline", "distilled"]
    assert results.verdict()[0] in printed.out
    (findings,) = results.findings.values()
    assert [finding.what for finding in findings if finding.what not in printed.err] == []
    assert len(findings) == printed.err.count("keras-distill: warning:")
    for name, file in (("distilled", "history.csv"), ("baseline", "history_baseline.csv")):
        rows = list(csv.DictReader((tmp_path / "run" / file).open()))
        history = next(model.runs[0].history for model in results.models if model.name == name)
        assert [row["epoch"] for row in rows] == ["1", "2", "3"]
        assert [float(row["val_accuracy"]) for row in rows] == history["val_accuracy"] and "loss" in rows[0]
    assert "<img" in (tmp_path / "run" / "report.html").read_text()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        ["student.keras", "baseline.keras", "history.csv", "history_baseline.csv", "report.html", "results.json"]
    )
    weights = {weight.path for weight in trained(tmp_path).weights}
    assert weights == {weight.path for weight in untrained.weights}


def test_options_of_intermediate_activations_name_losses():
    for loss, _ in FEATURES.values():
        assert issubclass(getattr(losses, loss), DistillationLoss)


def test_losses_of_intermediate_activations(tmp_path, distill):
    distill("--hint=block_*:block_*:0.5", "--similarity=logits:logits", "--epochs=1")
    (row,) = csv.DictReader((tmp_path / "run" / "history.csv").open())
    assert {"hint_loss", "hint_2_loss", "similarity_preserving_loss"} <= set(row)
    losses = {name: float(row[f"{name}_loss"]) for name in ("kl_divergence", "supervised", "hint", "hint_2")}
    weighted = 0.9 * losses["kl_divergence"] + 0.1 * losses["supervised"] + 0.5 * (losses["hint"] + losses["hint_2"])
    assert float(row["loss"]) == pytest.approx(weighted + float(row["similarity_preserving_loss"]), rel=1e-4)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["settings"]["features"] == [
        "Hint block_*:block_*:0.5",
        "SimilarityPreserving logits:logits:1",
    ]


@pytest.mark.parametrize("as_a_layer", [False, True])
def test_a_softmax_at_the_end_does_not_change_training(as_a_layer, folder, tmp_path, distill):
    for name in ("teacher", "student"):
        model = keras.saving.load_model(folder / f"{name}.keras")
        if as_a_layer:
            model.add(keras.layers.Softmax())
        else:
            model.layers[-1].activation = keras.activations.softmax
        model.save(folder / f"{name}_softmax.keras")
    validation = f"--validation={folder / 'test.npz'}"
    models = {name: f"{name}_softmax.keras" for name in ("teacher", "student")}
    distill(*ONE_STEP, validation, "--temperature=3", "--alpha=0.3", **models)
    model = trained(tmp_path)
    expected = weights_after_one_step(folder, 3.0, 0.3)
    assert_same_weights(weights_of(model), expected, rtol=1e-4, atol=1e-6)
    plain = keras.saving.load_model(folder / "student.keras")
    plain.set_weights(expected)
    x = np.load(folder / "test.npz")["x"]
    np.testing.assert_allclose(model(x), softmax(plain(x)), rtol=1e-3, atol=1e-5)


def test_nothing_is_overwritten(folder, tmp_path, distill):
    distill("--epochs=1")
    first = weights_of(trained(tmp_path))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    printed = distill("--epochs=1")
    assert "already contains the results" in printed.out and "validation examples" in printed.out
    printed = distill("--epochs=2", status=1)
    assert "contains another run. Choose another --out, or replace it with --force." in printed.err
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    printed = distill("--epochs=2", "--force", "--strict", dataset=labels_out_of_range(folder), status=1)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    distill("--epochs=2", "--force")
    assert not np.allclose(first[0], weights_of(trained(tmp_path))[0], atol=1e-7)
    (tmp_path / "mine").mkdir()
    shutil.copy(folder / "teacher.keras", tmp_path / "mine" / "student.keras")
    distill("--epochs=1", out="mine", status=1)
    assert (tmp_path / "mine" / "student.keras").read_bytes() == (folder / "teacher.keras").read_bytes()


def test_checkpoints_of_other_settings_are_not_resumed(tmp_path, distill, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keras_distill.cli.results.Evaluator.results", killed)
        distill("--epochs=1", status=130)
    printed = distill("--epochs=2", status=1)
    assert "run contains an unfinished run with other options: epochs 1 in the checkpoint and 2 now" in printed.err
    assert "choose another --out, or replace it with --force" in printed.err
    distill("--epochs=1")
    assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_results_do_not_require_plotting_packages(missing, tmp_path, with_report, distill, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        missing_package(patch, missing)
        printed = distill("--epochs=1")
        assert f"report.html was not written: keras_distill.report needs {missing}" in printed.err
        assert main(["report", str(tmp_path / "run")]) == 1
        assert f"needs {missing}, which is not installed" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "<img" in (tmp_path / "run" / "report.html").read_text()
