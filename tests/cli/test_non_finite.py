"""`keras-distill distill` ends without a student when values are not finite, and names the cause."""

import numpy as np
import pytest

from keras_distill.cache import label
from tests.support.helpers import data, mlp

pytestmark = pytest.mark.case("E2")


def files(tmp_path, name="run"):
    return sorted(path.name for path in (tmp_path / name).rglob("*")) if (tmp_path / name).exists() else None


def arrays(folder):
    return {name: np.load(folder / "train.npz")[name] for name in ("x", "y")}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_of_the_cache(folder, tmp_path, distill, value):
    distill("--epochs=1", f"--cache={tmp_path / 'cache'}")
    path = tmp_path / "cache" / "00000.output.npy"
    array = np.load(path, mmap_mode="r+")
    array[41, 2] = value
    array.flush()
    printed = distill("--epochs=1", f"--cache={tmp_path / 'cache'}", out="other", status=1)
    assert "holds NaN or infinity in the activations of example 41 (row 41)" in printed.err
    assert files(tmp_path, "other") is None


@pytest.mark.parametrize("options", [("--no-cache",), ("--cache={tmp_path}/cache",), ("--no-cache", "--alpha=0")])
def test_an_example_with_nan(folder, tmp_path, distill, options):
    content = arrays(folder)
    content["x"][41, 2] = np.nan
    np.savez(folder / "holes.npz", **content)
    options = [option.format(tmp_path=tmp_path) for option in options]
    printed = distill("--epochs=2", "--batch-size=16", *options, dataset="holes.npz", status=1)
    if any(option.startswith("--cache") for option in options):
        assert "The teacher outputs NaN or infinity at 'output' for example 41" in printed.err
    else:
        error = printed.err.splitlines()[-1]
        assert "Training of 'distilled' stopped. The loss is nan in step " in error
        assert "erm 'kl_divergence' is nan" in error and "keras_distill.preflight.check" in error
        assert "Example 41 of the training data has NaN or infinity in its inputs." in error
    assert files(tmp_path) is None


def test_a_learning_rate_that_diverges(folder, tmp_path, distill):
    options = ("--optimizer=sgd", "--hint=logits:logits", "--batch-size=16", "--epochs=3")
    printed = distill(*options, "--learning-rate=1e6", status=1)
    error = printed.err.splitlines()[-1]
    assert "Training of 'distilled' stopped. The loss is " in error and "term 'hint' is " in error.lower()
    assert "Lower the learning rate" in error and files(tmp_path) is None
    # The advice works, without --force.
    distill(*options, "--learning-rate=1e-3")
    assert "student.keras" in files(tmp_path)


def test_the_baseline(folder, tmp_path, distill, monkeypatch):
    content = arrays(folder)
    content["x"] = content["x"] * 1e18
    np.savez(folder / "large.npz", **content)
    printed = distill("--baseline", "--optimizer=sgd", "--learning-rate=1e6", dataset="large.npz", status=1)
    assert "stopped. The loss is " in printed.err and "student.keras" not in (files(tmp_path) or [])


def test_a_teacher_with_nan_weights_is_refused(folder, tmp_path, distill):
    teacher = mlp(16, name="teacher")
    teacher.layers[0].bias.assign(np.full(16, np.nan))
    teacher.save(folder / "broken.keras")
    printed = distill("--epochs=1", teacher="broken.keras", status=1)
    assert "contain NaN or infinity" in printed.err and files(tmp_path) is None
    with pytest.raises(ValueError, match="contain NaN or infinity"):
        label(teacher, data(), tmp_path / "cache", verbose=0)
