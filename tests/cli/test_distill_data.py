"""Data sets of `keras-distill distill`: labels, validation splits, TensorFlow Datasets and image directories."""

import re

import keras
import numpy as np
import pytest

from keras_distill.cli import main
from keras_distill.experiment import Results
from tests.support.distill_command import trained
from tests.support.helpers import assert_same_weights, weights_of
from tests.support.prepared import prepare

pytestmark = pytest.mark.everyday


def test_without_labels_only_the_teacher_is_used(folder, tmp_path, distill):
    printed = distill("--epochs=2", "--batch-size=16", dataset="unlabeled.npy")
    assert re.search("distilled: agreement .accuracy. .* %", printed.out)
    results = Results.load(tmp_path / "run" / "results.json")
    assert results.num_examples == 6 and results.models[0].runs[0].score == 1
    printed = distill("--baseline", dataset="unlabeled.npy", status=1, out="other")
    assert "has no labels, which --baseline trains on" in printed.err


def test_one_hot_labels_train_like_class_indices(folder, tmp_path, distill):
    for dataset, out in (("train.npz", "integer"), ("one_hot.npz", "one_hot")):
        distill("--epochs=2", "--batch-size=16", "--alpha=0.9", dataset=dataset, out=out)
    assert_same_weights(weights_of(trained(tmp_path, "integer")), weights_of(trained(tmp_path, "one_hot")), rtol=1e-3)
    runs = [Results.load(tmp_path / out / "results.json").models[-1].runs[0] for out in ("integer", "one_hot")]
    assert runs[0].score == runs[1].score


def test_the_validation_split_is_not_trained_on(folder, tmp_path, distill):
    x, y = (np.load(folder / "train.npz")[name] for name in ("x", "y"))
    # The same fifth of 64 for every --seed.
    validation = np.random.default_rng(0).permutation(64)[:13]
    distill("--epochs=1", "--validation=1/5")
    assert Results.load(tmp_path / "run" / "results.json").num_examples == 13
    x[validation] = np.nan
    np.savez(folder / "holes.npz", x=x, y=y)
    distill("--epochs=1", "--validation=1/5", "--no-cache", dataset="holes.npz", out="holes")
    assert_same_weights(weights_of(trained(tmp_path)), weights_of(trained(tmp_path, "holes")))
    distill("--epochs=1", "--validation=1/5", "--seed=1", "--no-cache", dataset="holes.npz", out="seed_1")
    assert all(np.isfinite(weight).all() for weight in weights_of(trained(tmp_path, "seed_1")))


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
    results = Results.load(tmp_path / "run" / "results.json")
    confusion = np.array(results.models[0].runs[0].confusion)
    # Each class has examples in both parts.
    assert confusion.sum() == 30 and np.all(confusion.sum(axis=1)[:3] > 3) and confusion.sum(axis=1)[3:].sum() == 0


def test_unlabeled_examples_are_trained_on_but_not_evaluated(folder, tmp_path, distill):
    arrays = np.load(folder / "test.npz")
    labels = arrays["y"].astype("float32")
    labels[:20] = np.nan
    labels[20:24] = -1
    np.savez(folder / "few.npz", x=arrays["x"], y=labels)
    np.savez(folder / "floats.npz", x=arrays["x"], y=arrays["y"].astype("float32"))
    distill("--epochs=1", f"--validation={folder / 'few.npz'}", dataset="floats.npz")
    assert Results.load(tmp_path / "run" / "results.json").num_examples == 8


def test_a_split_of_image_directories_raises(folder, tmp_path, distill):
    classifier((4, 4, 3), "teacher").save(folder / "teacher_4.keras")
    for number in range(3):
        directory = tmp_path / "images" / f"class_{number}"
        directory.mkdir(parents=True)
        keras.utils.save_img(directory / "0.png", np.zeros((4, 4, 3)), scale=False)
    models = {"teacher": "teacher_4.keras", "student": "teacher_4.keras"}
    printed = distill("--validation=test", **models, dataset=tmp_path / "images", status=1)
    assert "is neither a fraction such as 0.1 nor an existing dataset" in printed.err
