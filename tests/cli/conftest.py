"""Fixtures of the commands: saved models, data sets, and a function that runs `keras-distill distill`."""

import keras
import numpy as np
import pytest

from keras_distill.cli import main
from tests.support.helpers import data, mlp


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Path of a saved teacher."""
    path = tmp_path_factory.mktemp("models") / "teacher.keras"
    mlp(name="teacher").save(path)
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Path of a data set of 24 labeled examples."""
    path = tmp_path_factory.mktemp("data") / "train.npz"
    x, y = data()
    np.savez(path, x=x, y=y)
    return path


def blocks(width, depth, name):
    layers = [keras.layers.Dense(width, activation="relu", name=f"block_{number}") for number in range(depth)]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="logits")], name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with a teacher, a student and data sets with and without labels."""
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
        # A second training takes as long as the first.
        arguments += [] if "--baseline" in options else ["--no-baseline"]
        assert main(arguments) == status
        return capsys.readouterr()

    return run
