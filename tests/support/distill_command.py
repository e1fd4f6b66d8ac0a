"""Inputs and outputs of the command `keras-distill distill`."""

import csv

import keras
import numpy as np


def trained(tmp_path, name="run", arm=None):
    """Return the student that the command saved, or the model of an arm, trained with seed 0."""
    folder = tmp_path / name
    path = folder / "student.keras" if arm is None else next((folder / "models").glob(f"{arm}_0_*.keras"))
    return keras.saving.load_model(path)


def histories(tmp_path, name="run"):
    """Return the rows of history.csv, `{model: [row of numbers per epoch]}`."""
    listed = {}
    with (tmp_path / name / "history.csv").open() as file:
        for row in csv.DictReader(file):
            numbers = {key: float(value) for key, value in row.items() if key not in ("model", "seed") and value}
            listed.setdefault(row["model"], []).append(numbers)
    return listed


def labels_out_of_range(folder):
    """Write a data set whose labels are no classes of the models, and return its file name."""
    x, y = (np.load(folder / "train.npz")[name] for name in ("x", "y"))
    np.savez(folder / "out_of_range.npz", x=x, y=y + 7)
    return "out_of_range.npz"
