"""Trained models in a recipe's working folder, each with a record of its training."""

import json
import pathlib
from typing import Any, NamedTuple

import keras

from keras_distill.report import Run
from keras_distill.saving.load import save_model
from keras_distill.utils.files import atomic_write


class TrainingRecord(NamedTuple):
    """Record of a finished training.

    Attributes:
        settings: `{name: value}` that determine the trained weights.
        run: Its `Run`.
        seconds: Duration of the training.
    """

    settings: dict[str, Any]
    run: Run
    seconds: float


def read_record(path: pathlib.Path) -> TrainingRecord | None:
    """Return the record of a trained model; None if there is no finished one.

    Args:
        path: Path of the model, `.keras`.
    """
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()):
        return None
    stored = json.loads(record.read_text())
    return TrainingRecord(stored["settings"], Run(**stored["run"]), stored["seconds"])


def save_trained(path: pathlib.Path, model: keras.Model, record: TrainingRecord) -> None:
    """Save a trained model and its record.

    Args:
        path: Path of the model, `.keras`.
        model: The model.
        record: Its `TrainingRecord`, written beside it as `.json`.
    """
    path.parent.mkdir(exist_ok=True)
    record_path = path.with_suffix(".json")
    # The record is written last: a model without one counts as unfinished.
    record_path.unlink(missing_ok=True)
    save_model(model, path)
    with atomic_write(record_path) as file:
        file.write(json.dumps({**record._asdict(), "run": vars(record.run)}).encode())
