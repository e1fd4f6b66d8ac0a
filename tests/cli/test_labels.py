"""Labels that are no classes of the student."""

import keras
import numpy as np
import pytest

from keras_distill.experiment import Results
from tests.support.helpers import data

pytestmark = pytest.mark.case("E11")


def write(folder, labels):
    x, _ = data(3000)
    np.savez(folder / "labels.npz", x=x, y=labels)


@pytest.mark.parametrize(
    ("dtype", "label"),
    [
        ("float32", 1.5),
        ("float64", 3.0),
        ("int64", 3),
        ("int64", 7),
        ("int64", -2),
        ("uint8", 255),
        ("float32", np.inf),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_label_is_refused_before_training(folder, tmp_path, distill, dtype, label, shape):
    labels = data(3000)[1].astype(dtype)
    validation = np.random.default_rng(0).permutation(3000)[:300]
    # After the batches that the diagnostics look at.
    position = next(index for index in range(2500, 3000) if index not in validation)
    labels[position] = label
    write(folder, labels.reshape(shape))
    printed = distill("--epochs=1", dataset="labels.npz", status=1)
    (error,) = [line for line in printed.err.splitlines() if "error:" in line]
    assert f"the label {labels[position]} of example {position} of {folder / 'labels.npz'} is not a class" in error
    assert "which has the classes 0 to 2" in error and printed.out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("label", [1.5, 3.0])
def test_a_label_of_a_validation_example(folder, tmp_path, distill, label):
    x, y = data(20)
    y = y.astype("float32")
    np.savez(folder / "floats.npz", x=x, y=y)
    y[11] = label
    np.savez(folder / "validation.npz", x=x, y=y)
    printed = distill("--epochs=1", f"--validation={folder / 'validation.npz'}", dataset="floats.npz", status=1)
    assert f"the label {label} of example 11 of {folder / 'validation.npz'} is not a class" in printed.err
    assert printed.out == ""


def test_missing_labels_are_allowed(folder, tmp_path, distill):
    labels = data(3000)[1].astype("float32")
    labels[::2] = np.nan
    labels[1::4] = -1
    write(folder, labels)
    distill("--epochs=1", dataset="labels.npz")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_that_are_ignored(folder, tmp_path, distill, dtype):
    x = np.random.default_rng(0).normal(size=(40, 4, 4, 2)).astype("float32")
    masks = (x[..., 0] > 0).astype(dtype)
    masks[:, 0] = 255
    np.savez(folder / "masks.npz", x=x, y=masks)
    for name in ("teacher", "student"):
        keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(2, 1)]).save(folder / f"{name}_map.keras")
    models = {"teacher": "teacher_map.keras", "student": "student_map.keras", "dataset": "masks.npz"}
    printed = distill("--epochs=1", **models, status=1)
    assert "the label 255" in printed.err and "--ignore-class" in printed.err
    distill("--epochs=1", "--ignore-class=255", **models)
    results = Results.load(tmp_path / "run" / "results.json")
    assert results.score.name == "mIoU" and np.sum(results.models[0].runs[0].confusion) == 4 * 12
