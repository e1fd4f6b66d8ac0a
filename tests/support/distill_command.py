"""Inputs and outputs of the command `keras-distill distill`."""

import keras
import numpy as np


def trained(tmp_path, name="run", file="student.keras"):
    """Return a model that the command saved."""
    return keras.saving.load_model(tmp_path / name / file)


def labels_out_of_range(folder):
    """Write a data set whose labels are no classes of the models, and return its file name."""
    x, y = (np.load(folder / "train.npz")[name] for name in ("x", "y"))
    np.savez(folder / "out_of_range.npz", x=x, y=y + 7)
    return "out_of_range.npz"
