"""Trained models in the folder of an experiment, each with a record of its training."""

import contextlib
import hashlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_distill.cache import fingerprint
from keras_distill.callbacks.backup import Backup
from keras_distill.preflight import Finding
from keras_distill.saving.load import save_model
from keras_distill.saving.runs import strip_numbers
from keras_distill.utils.files import atomic_write


class TrainingRecord(NamedTuple):
    """Record of a finished training.

    Attributes:
        settings: `{name: JSON value}` that determine the trained weights.
        history: `{name: [value per epoch]}`.
        seconds: Duration of the training.
        findings: Findings of the pre-flight check.
    """

    settings: dict[str, Any]
    history: dict[str, list[float]]
    seconds: float
    findings: list[Finding]


class TrainedModel:
    """File of a trained model, whose name contains a digest of the settings.

    Models of other settings have other names, so that a folder holds several of them.

    Attributes:
        path: Path of the model, `.keras`.
        checkpoints: Folder for the checkpoints of the training.
        settings: The settings.

    Args:
        folder: Folder of the models.
        name: Name of the arm.
        seed: Seed of the training.
        settings: `{name: JSON value}` that determine the trained weights.
    """

    def __init__(self, folder: pathlib.Path, name: str, seed: int, settings: dict[str, Any]):
        self.settings = json.loads(json.dumps(settings))
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        self.path = folder / f"{slug(name)}_{seed}_{digest}.keras"
        self.checkpoints = self.path.with_suffix("") / "checkpoints"

    def record(self) -> TrainingRecord | None:
        """Return the record of the finished training; None if it has not finished."""
        path = self.path.with_suffix(".json")
        if not (path.exists() and self.path.exists()):
            return None
        fields = json.loads(path.read_text())
        return TrainingRecord(**{**fields, "findings": [Finding(*each) for each in fields["findings"]]})

    def load(self) -> keras.Model:
        """Return the trained model."""
        return keras.saving.load_model(self.path, compile=False)

    def save(
        self, model: keras.Model, history: dict[str, list[float]], seconds: float, findings: list[Finding]
    ) -> None:
        """Save a trained model and its record, which is written last: a model without one counts as unfinished.

        Args:
            model: The model.
            history: `{name: [value per epoch]}`.
            seconds: Duration of the training.
            findings: Findings of the pre-flight check.
        """
        record = TrainingRecord(self.settings, history, seconds, findings)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, self.path)
        with atomic_write(self.path.with_suffix(".json")) as file:
            file.write(json.dumps(record._asdict()).encode())

    def delete_checkpoints(self) -> None:
        """Delete the checkpoints of the training."""
        Backup(self.checkpoints).delete()
        # The folder may not exist.
        with contextlib.suppress(OSError):
            self.checkpoints.parent.rmdir()


def slug(name: str) -> str:
    """Return a name in lower case in which everything but letters and digits is an underscore."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def digest_of_model(model: keras.Model) -> str:
    """Return a text that identifies an untrained model by its architecture and its weights.

    Args:
        model: A built `keras.Model`.
    """
    try:
        architecture = strip_numbers(model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        # A subclassed model without a configuration.
        architecture = type(model).__qualname__
    return fingerprint.of_weights(model.weights, architecture)


def as_json(value: Any) -> Any:
    """Return a configuration of Keras as JSON values, without the numbers that Keras appends to generated names."""
    if isinstance(value, dict):
        named = {
            key: strip_numbers(item) if key == "name" and isinstance(item, str) else item for key, item in value.items()
        }
        return {str(key): as_json(item) for key, item in named.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
