"""Command `keras-distill distill`: objective, results, and runs that exist already."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import losses
from keras_distill.cli import main
from keras_distill.cli.objective import FEATURES
from keras_distill.experiment import Results
from keras_distill.losses.base import DistillationLoss
from tests.support.distill_command import histories, labels_out_of_range, trained
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
    baseline = weights_of(trained(tmp_path, arm="baseline"))
    assert_same_weights(baseline, weights_after_one_step(folder, 1.0, 1.0), rtol=1e-4, atol=1e-6)


def test_results_are_those_of_the_saved_models(folder, tmp_path, with_report, distill):
    printed = distill("--epochs=3", "--batch-size=16", f"--validation={folder / 'test.npz'}", "--baseline")
    arrays = np.load(folder / "test.npz")

    def accuracy(model):
        return np.mean(np.argmax(model(arrays["x"]), -1) == arrays["y"])

    teacher, untrained = (keras.saving.load_model(folder / f"{name}.keras") for name in ("teacher", "student"))
    expected = [accuracy(teacher), accuracy(trained(tmp_path)), accuracy(untrained)]
    results = Results.load(tmp_path / "run" / "results.json")
    assert {model.name: model.runs[0].score for model in results.models} == pytest.approx(
        {
            "teacher": expected[0],
            "baseline": accuracy(trained(tmp_path, arm="baseline")),
            "distilled": expected[1],
        }
    )
    assert [model.role for model in results.models] == ["teacher", "baseline", "distilled"]
    assert (results.split, results.num_examples) == ("validation", 32)
    assert results.verdict()[0] in printed.out and results.text() in printed.out
    (findings,) = results.findings.values()
    assert [finding.what for finding in findings if finding.what not in printed.err] == []
    assert len(findings) == printed.err.count("keras-distill: warning:")
    worse = expected[1] < expected[2]
    assert worse or "score lost" not in [finding.name for finding in findings]
    for name, rows in histories(tmp_path).items():
        history = next(model.runs[0].history for model in results.models if model.name == name)
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        assert [row["val_accuracy"] for row in rows] == history["val_accuracy"] and "loss" in rows[0]
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        ["student.keras", "history.csv", "report.html", "results.json", "run.yaml", "models", "teacher_cache"]
    )
    weights = {weight.path for weight in trained(tmp_path).weights}
    assert weights == {weight.path for weight in untrained.weights}


def test_options_of_intermediate_activations_name_losses():
    for loss, _ in FEATURES.values():
        assert issubclass(getattr(losses, loss), DistillationLoss)


def test_losses_of_intermediate_activations(tmp_path, distill):
    distill("--hint=block_*:block_*:0.5", "--similarity=logits:logits", "--epochs=1")
    ((row,),) = histories(tmp_path).values()
    assert {"hint_loss", "hint_2_loss", "similarity_preserving_loss"} <= set(row)
    losses = {name: row[f"{name}_loss"] for name in ("kl_divergence", "supervised", "hint", "hint_2")}
    weighted = 0.5 * losses["kl_divergence"] + 0.5 * losses["supervised"] + 0.5 * (losses["hint"] + losses["hint_2"])
    assert row["loss"] == pytest.approx(weighted + row["similarity_preserving_loss"], rel=1e-4)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["settings"]["loss"] == [
        "Hint:block_*:block_*:0.5",
        "SimilarityPreserving:logits:logits:1",
    ]


def test_any_loss_of_the_catalog_with_its_settings(tmp_path, distill):
    distill("--loss=dist(beta=0.5, gamma=2.0):0.25", "--loss=FitNets:block_1:block_3:3", "--epochs=1", "--alpha=0.5")
    ((row,),) = histories(tmp_path).values()
    # DIST takes the place of KL.
    assert "kl_divergence_loss" not in row
    total = 0.5 * row["supervised_loss"] + 0.25 * row["dist_loss"] + 3 * row["hint_loss"]
    assert row["loss"] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "status", "message"),
    [
        ("KLDivergense", 1, "unknown loss 'KLDivergense'. Did you mean 'KLDivergence'?"),
        ("PKD", 1, "'PKD' stands for several losses: PatientKD, PearsonKD."),
        ("DIST(delta=1)", 1, "--loss DIST(delta=1): "),
        ("KLDivergence(temperature=-1)", 1, "must be a finite number > 0"),
        ("DIST(1)", 2, "has invalid settings"),
        ("DIST(beta=open)", 2, "has invalid settings"),
        ("Hint:block_1", 2, "got block_1"),
        ("Hint:a:b:c:d", 2, "must name a tap"),
    ],
)
def test_invalid_losses(loss, status, message, folder, tmp_path, distill, capsys):
    if status == 2:
        with pytest.raises(SystemExit):
            distill(f"--loss={loss}")
        assert message in capsys.readouterr().err
    else:
        assert message in distill(f"--loss={loss}", status=1).err
    assert not (tmp_path / "run").exists()


def test_seeds_test_split_and_class_names(folder, tmp_path, distill):
    printed = distill("--seeds=3", "--seed=5", "--epochs=1", "--baseline", "--test=0.25", "--classes=cat,dog,cow")
    results = Results.load(tmp_path / "run" / "results.json")
    assert results.seeds == [5, 6, 7] and results.classes == ["cat", "dog", "cow"]
    assert (results.split, results.num_examples) == ("test", 16)
    assert "95 % interval over 3 seeds" in printed.out
    printed = distill("--classes=cat,dog", status=1, out="other")
    assert "--classes has 2 names, but the student has 3 classes" in printed.err


def test_a_run_can_be_repeated_from_its_file(folder, tmp_path, distill, capsys):
    distill("--epochs=2", "--temperature=3", "--hint=block_1:block_3", "--learning-rate=0.01", "--no-cache")
    first = weights_of(trained(tmp_path))
    config = f"--config={tmp_path / 'run' / 'run.yaml'}"
    assert main(["distill", config, f"--out={tmp_path / 'again'}"]) == 0
    for weight, other in zip(first, weights_of(trained(tmp_path, "again")), strict=True):
        np.testing.assert_array_equal(weight, other)
    # Options on the command line come first.
    assert main(["distill", config, f"--out={tmp_path / 'other'}", "--epochs=1"]) == 0
    assert len(histories(tmp_path, "other")["distilled"]) == 1
    capsys.readouterr()
    (tmp_path / "wrong.yaml").write_text("temprature: 2\n")
    assert main(["distill", f"--config={tmp_path / 'wrong.yaml'}"]) == 1
    assert "unknown name 'temprature'. Did you mean 'temperature'?" in capsys.readouterr().err
    assert main(["distill", f"--config={tmp_path / 'missing.yaml'}"]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_search(folder, tmp_path, distill):
    # A tenth of the 64 examples for the search, another one to compare the models.
    printed = distill("--epochs=2", "--tune=2")
    results = Results.load(tmp_path / "run" / "results.json")
    assert (results.split, results.num_examples) == ("test", 6)
    assert [model.name for model in results.models] == ["teacher", "distilled", "tuned"]
    assert len(results.search.trials) == 2 and "Search over 2 trials" in printed.out


def test_quiet_prints_nothing(tmp_path, distill):
    printed = distill("--epochs=1", "--quiet")
    assert printed.out == "" and (tmp_path / "run" / "results.json").exists()


def test_mixed_precision_and_tensorboard(tmp_path, distill):
    distill("--epochs=1", "--mixed-precision=mixed_bfloat16", f"--log-dir={tmp_path / 'logs'}")
    assert trained(tmp_path).layers[0].compute_dtype == "bfloat16"
    assert list((tmp_path / "logs" / "distilled").rglob("*tfevents*"))


@pytest.mark.replicas
def test_two_devices_give_the_weights_of_one(tmp_path, distill):
    distill("--epochs=2", "--batch-size=16", out="one")
    distill("--epochs=2", "--batch-size=16", "--devices=CPU:0,CPU:1", out="two")
    one, two = (weights_of(trained(tmp_path, out)) for out in ("one", "two"))
    assert_same_weights(one, two, rtol=1e-4, atol=1e-6)


def test_devices_that_are_not_there(tmp_path, distill):
    assert "this machine has 0 GPUs" in distill("--devices=all", status=1).err


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
    printed = distill("--epochs=1")
    assert printed.out.count("trained earlier") == 1
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
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


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_results_do_not_require_plotting_packages(missing, tmp_path, with_report, distill, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        missing_package(patch, missing)
        printed = distill("--epochs=1")
        assert f"report.html was not written: keras_distill.report needs {missing}" in printed.out
        assert main(["report", str(tmp_path / "run")]) == 1
        assert f"needs {missing}, which is not installed" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()


def test_transfer_set_of_new_examples(folder, tmp_path, distill):
    printed = distill(
        "--epochs=1", "--batch-size=16", f"--test={folder / 'test.npz'}", "--transfer=munge", "--baseline"
    )
    results = Results.load(tmp_path / "run" / "results.json")
    assert [model.name for model in results.models] == ["teacher", "baseline", "baseline, new examples", "distilled"]
    assert results.models[-1].baselines == ["baseline", "baseline, new examples"]
    assert "704 examples" in printed.out + printed.err
    arrays = dict(np.load(folder / "train.npz"))
    assert len(arrays["x"]) * 11 == 704


def test_transfer_set_of_unlabeled_examples(folder, tmp_path, distill):
    unlabeled = folder / "unlabeled.npy"
    options = ("--epochs=1", "--batch-size=16", f"--test={folder / 'test.npz'}", "--transfer-share=0.25")
    distill(*options, f"--transfer={unlabeled}", "--baseline")
    results = Results.load(tmp_path / "run" / "results.json")
    assert [model.name for model in results.models] == ["teacher", "baseline", "distilled"]


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        ("Mixxup(concentration=1)", "unknown augmentation 'Mixxup'. Did you mean 'Mixup'?"),
        ("Mixup(alpha=1)", "unexpected keyword argument 'alpha'"),
        ("Mixup(0.3)", "write them as NAME(key=value, ...)"),
        ("Munge(probability=2)", "`probability` must be"),
        ("Crops", "Crops takes images of shape"),
        ("missing.npz", "missing.npz"),
    ],
)
def test_unsuitable_transfer_sets(transfer, message, tmp_path, distill):
    printed = distill("--epochs=1", f"--transfer={transfer}", status=1)
    assert message in printed.err
    assert not (tmp_path / "run").exists()
