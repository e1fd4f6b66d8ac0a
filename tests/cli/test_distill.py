"""Commands `keras-distill distill` and `keras-distill check` of two models."""

import csv
import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import losses
from keras_distill.cache import label
from keras_distill.cli import main
from keras_distill.cli.objective import FEATURES
from keras_distill.losses.base import DistillationLoss
from keras_distill.report import Results
from tests.support.helpers import assert_same_weights, data, missing_package, mlp, softmax, weights_of
from tests.support.prepared import prepare

pytestmark = pytest.mark.everyday


def blocks(width, depth, name):
    layers = [keras.layers.Dense(width, activation="relu", name=f"block_{number}") for number in range(depth)]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="logits")], name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    keras.utils.set_random_seed(0)
    x, y = data(96)
    np.savez(folder / "train.npz", x=x[:64], y=y[:64])
    np.savez(folder / "test.npz", x=x[64:], y=y[64:])
    np.savez(folder / "one_hot.npz", x=x[:64], y=np.eye(3, dtype="float32")[y[:64]])
    np.save(folder / "unlabeled.npy", x[:64])
    blocks(16, 4, "teacher").save(folder / "teacher.keras")
    blocks(8, 2, "student").save(folder / "student.keras")
    return folder


@pytest.fixture
def with_report():
    """Request it in tests that read report.html, which takes seconds to write."""


@pytest.fixture
def distill(request, folder, tmp_path, monkeypatch, capsys):
    """Run the command on the models and data of `folder`, assert its exit status and return its output."""

    if "with_report" not in request.fixturenames:
        monkeypatch.setattr("keras_distill.report.page.write_page", lambda results, path: None)

    def run(*options, status=0, teacher="teacher.keras", student="student.keras", dataset="train.npz", out="run"):
        paths = [str(folder / name) for name in (teacher, student)]
        arguments = ["distill", *paths, f"--dataset={folder / dataset}", f"--out={tmp_path / out}", *options]
        assert main(arguments) == status
        return capsys.readouterr()

    return run


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


def trained(tmp_path, name="run", file="student.keras"):
    return keras.saving.load_model(tmp_path / name / file)


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


@pytest.mark.parametrize("validation", ["0.25", "{folder}/test.npz"])
def test_a_cache_trains_like_its_teacher(validation, folder, tmp_path, distill):
    options = ["--epochs=2", f"--validation={validation.format(folder=folder)}", "--hint=block_1:block_3"]
    distill(*options, out="online")
    distill(*options, f"--cache={tmp_path / 'cache'}", out="cached")
    written = (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns
    assert_same_weights(weights_of(trained(tmp_path, "online")), weights_of(trained(tmp_path, "cached")), rtol=1e-4)
    histories = [
        np.loadtxt(tmp_path / out / "history.csv", float, delimiter=",", skiprows=1) for out in ("online", "cached")
    ]
    np.testing.assert_allclose(*histories, rtol=1e-3)
    distill(*options, f"--cache={tmp_path / 'cache'}", out="again")
    assert (tmp_path / "cache" / "manifest.json").stat().st_mtime_ns == written
    assert not (tmp_path / "cached" / "unfinished").exists()


def test_a_cache_written_by_label_is_reused(folder, tmp_path, distill, capsys):
    cache = str(tmp_path / "cache")
    arguments = ["label", str(folder / "teacher.keras"), f"--dataset={folder / 'train.npz'}", f"--out={cache}"]
    assert main([*arguments, "--tap=output", "--tap=block_3", "--dtype=float16"]) == 0
    distill("--epochs=1", f"--cache={cache}")
    distill("--epochs=1", f"--cache={cache}", "--hint=block_1:block_3", out="hinted")
    printed = distill("--epochs=1", f"--cache={cache}", "--hint=block_1:block_2", out="more", status=1)
    assert "contains ['output', 'block_3'], but not ['block_2']" in printed.err
    assert "`keras-distill label` with --tap='output' --tap='block_2' and another --out" in printed.err
    printed = distill("--epochs=1", f"--cache={cache}", dataset="one_hot.npz", out="others")
    np.savez(folder / "reversed.npz", **{name: array[::-1] for name, array in np.load(folder / "train.npz").items()})
    printed = distill("--epochs=1", f"--cache={cache}", dataset="reversed.npz", out="reversed", status=1)
    assert "holds activations of other examples" in printed.err


def test_a_cache_of_probabilities_raises_an_error(folder, tmp_path, distill):
    teacher = keras.saving.load_model(folder / "teacher.keras")
    teacher.layers[-1].activation = keras.activations.softmax
    teacher.save(folder / "probabilities.keras")
    label(teacher, np.load(folder / "train.npz")["x"], tmp_path / "cache", verbose=0)
    printed = distill(f"--cache={tmp_path / 'cache'}", teacher="probabilities.keras", status=1)
    assert "contains probabilities" in printed.err


def test_without_labels_only_the_teacher_is_used(folder, tmp_path, distill):
    printed = distill("--epochs=2", "--batch-size=16", dataset="unlabeled.npy")
    assert re.search("no labels. The student predicts the teacher's class for .* % of 6 validation", printed.out)
    printed = distill("--baseline", dataset="unlabeled.npy", status=1, out="other")
    assert "has no labels, which --baseline trains on" in printed.err


def test_one_hot_labels_train_like_class_indices(folder, tmp_path, distill):
    for dataset, out in (("train.npz", "integer"), ("one_hot.npz", "one_hot")):
        distill("--epochs=2", "--batch-size=16", "--alpha=0.9", dataset=dataset, out=out)
    assert_same_weights(weights_of(trained(tmp_path, "integer")), weights_of(trained(tmp_path, "one_hot")), rtol=1e-3)
    runs = [Results.load(tmp_path / out / "results.json").models[-1].runs[0] for out in ("integer", "one_hot")]
    assert runs[0].errors == runs[1].errors


def test_the_validation_split_is_not_trained_on(folder, tmp_path, distill):
    x, y = (np.load(folder / "train.npz")[name] for name in ("x", "y"))
    # The same fifth of 64 for every --seed.
    validation = np.random.default_rng(0).permutation(64)[:13]
    printed = distill("--epochs=1", "--validation=1/5")
    assert "Accuracy on 13 validation examples" in printed.out
    x[validation] = np.nan
    np.savez(folder / "holes.npz", x=x, y=y)
    distill("--epochs=1", "--validation=1/5", dataset="holes.npz", out="holes")
    assert_same_weights(weights_of(trained(tmp_path)), weights_of(trained(tmp_path, "holes")))
    distill("--epochs=1", "--validation=1/5", "--seed=1", dataset="holes.npz", out="seed_1")
    assert all(np.isfinite(weight).all() for weight in weights_of(trained(tmp_path, "seed_1")))


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
    assert "belongs to another run: epochs 1 in the checkpoint and 2 now" in printed.err
    distill("--epochs=1")
    assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--hint=blok_1:block_1"], "No layer called 'blok_1' in 'student'. Closest: .*block_1"),
        (["--hint=bl_*:block_*"], "No layer of 'student' matches 'bl_\\*'"),
        (["--validation=test"], "--validation=test is neither a fraction"),
        (["--validation=0.001"], "64 examples: a validation split of 0.001 leaves none"),
    ],
)
def test_options_that_do_not_fit_fail_before_training(options, expected, tmp_path, distill):
    printed = distill(*options, status=1)
    assert re.search(expected, printed.err) and len(printed.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_models_and_labels_that_do_not_fit_raise_errors(folder, distill):
    mlp(classes=4, name="other").save(folder / "other.keras")
    assert "3 student classes with 4 teacher classes" in distill(teacher="other.keras", status=1).err
    inputs = keras.Input((8,))
    keras.Model(inputs, [inputs, inputs], name="two").save(folder / "two.keras")
    assert "'two' must be a classifier" in distill(student="two.keras", status=1).err
    np.savez(folder / "wide.npz", x=np.zeros((64, 8), "float32"), y=np.zeros((64, 5)))
    assert "wide.npz have dtype float64 and shape (5,)" in distill(dataset="wide.npz", status=1).err


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


def labels_out_of_range(folder):
    x, y = (np.load(folder / "train.npz")[name] for name in ("x", "y"))
    np.savez(folder / "out_of_range.npz", x=x, y=y + 7)
    return "out_of_range.npz"


def test_findings_are_printed_before_training(folder, tmp_path, distill, capsys):
    dataset = labels_out_of_range(folder)
    models = [str(folder / name) for name in ("teacher.keras", "student.keras")]
    assert main(["check", *models, f"--dataset={folder / dataset}"]) == 1
    found = capsys.readouterr().out
    assert "9" in found and found.endswith(" found (1 batch checked).\n") and "Seen: " in found and "Do: " in found
    printed = distill("--strict", dataset=dataset, status=1)
    first, *_, last = printed.err.splitlines()
    assert first.startswith("keras-distill: warning: ") and found.splitlines()[0] in first
    assert (
        re.search(r"training did not start: \d problems? found with --strict set\.$", last)
        and not (tmp_path / "run").exists()
    )
    printed = distill(dataset=dataset, status=1)
    assert "range from 7 to 9, but the student has the classes 0 to 2" in printed.err.splitlines()[-1]
    # With a valid validation set TensorFlow raises the error during training; its message is long.
    printed = distill(f"--validation={folder / 'test.npz'}", dataset=dataset, status=1)
    assert printed.err.startswith("keras-distill: warning: ") and len(printed.err.splitlines()) == 2


def test_check_uses_the_terms_and_the_learning_rate(folder, capsys):
    arguments = ["check", *(str(folder / name) for name in ("teacher.keras", "student.keras"))]
    arguments.append(f"--dataset={folder / 'train.npz'}")
    assert main([*arguments, "--hint=block_9:block_1"]) == 1
    assert "No layer called 'block_9'" in capsys.readouterr().err
    assert main([*arguments, "--hint=block_1:block_3", "--optimizer=sgd", "--learning-rate=10000"]) == 1
    assert "learning rate" in capsys.readouterr().out


def test_check_of_a_teacher_that_matches_the_labels_finds_nothing(folder, tmp_path, distill, capsys):
    teacher = keras.saving.load_model(folder / "teacher.keras")
    x = np.load(folder / "train.npz")["x"]
    np.savez(folder / "predicted.npz", x=x, y=np.argmax(teacher(x), -1))
    models = [str(folder / name) for name in ("teacher.keras", "student.keras")]
    assert main(["check", *models, f"--dataset={folder / 'predicted.npz'}", "--temperature=1"]) == 0
    assert capsys.readouterr().out == "No problems found (1 batch checked).\n"


def classifier(shape, name):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10)], name=name)


def test_splits_of_tensorflow_datasets(folder, tmp_path, distill):
    prepare(tmp_path, "mnist", {"train": 60, "test": 20})
    for name in ("teacher", "student"):
        classifier((28, 28, 1), name).save(folder / f"{name}_28.keras")
    models = {"teacher": "teacher_28.keras", "student": "student_28.keras"}
    arguments = ["distill", *(str(folder / name) for name in models.values()), "--dataset=mnist", "--scale=1/255"]
    out = tmp_path / "run"
    arguments += [f"--data-dir={tmp_path}", "--validation=test", "--epochs=1", f"--out={out}"]
    assert main(arguments) == 0
    results = Results.load(out / "results.json")
    assert sum(map(sum, results.models[0].runs[0].confusion)) == 20 and len(results.examples) <= 6


def test_image_directories_are_split_across_classes(folder, tmp_path, distill):
    for name in ("teacher", "student"):
        classifier((4, 4, 3), name).save(folder / f"{name}_4.keras")
    for number in range(3):
        (tmp_path / "images" / f"class_{number}").mkdir(parents=True)
        for index in range(20):
            image = np.random.default_rng(20 * number + index).integers(0, 255, (4, 4, 3))
            keras.utils.save_img(tmp_path / "images" / f"class_{number}" / f"{index}.png", image, scale=False)
    distill(
        *("--epochs=1", "--scale=1/255", "--validation=0.5"),
        teacher="teacher_4.keras",
        student="student_4.keras",
        dataset=tmp_path / "images",
    )
    confusion = np.array(Results.load(tmp_path / "run" / "results.json").models[0].runs[0].confusion)
    # Each class has examples in both parts.
    assert confusion.sum() == 30 and np.all(confusion.sum(axis=1)[:3] > 3) and confusion.sum(axis=1)[3:].sum() == 0


def test_unlabeled_examples_are_trained_on_but_not_evaluated(folder, tmp_path, distill):
    arrays = np.load(folder / "test.npz")
    labels = arrays["y"].astype("float32")
    labels[:20] = np.nan
    labels[20:24] = -1
    np.savez(folder / "few.npz", x=arrays["x"], y=labels)
    np.savez(folder / "floats.npz", x=arrays["x"], y=arrays["y"].astype("float32"))
    printed = distill("--epochs=1", f"--validation={folder / 'few.npz'}", dataset="floats.npz")
    assert "Accuracy on 8 validation examples" in printed.out
