"""What a recipe keeps: a model that was trained is not trained again by the run that follows a killed one."""

import json
from typing import NamedTuple

from keras_distill.report import Run
from keras_distill.saving.load import save_model
from keras_distill.utils.files import atomic_write


class Kept(NamedTuple):
    """How a model that was kept had been trained.

    Attributes:
        settings: `{name: value}` of all that the trained weights depend on.
        run: Its `Run`.
        seconds: How long the training took.
    """

    settings: dict
    run: Run
    seconds: float


def kept(path):
    """The `Kept` of the model at a path that ends in `.keras`; None if no finished one is there."""
    notes = path.with_suffix(".json")
    if not (path.exists() and notes.exists()):
        return None
    stored = json.loads(notes.read_text())
    return Kept(stored["settings"], Run(**stored["run"]), stored["seconds"])


def keep(path, model, how):
    """Writes a trained model and, beside it, its `Kept`."""
    path.parent.mkdir(exist_ok=True)
    notes = path.with_suffix(".json")
    # The notes are written last: a model without them is not taken for a finished one.
    notes.unlink(missing_ok=True)
    save_model(model, path)
    with atomic_write(notes) as file:
        file.write(json.dumps({**how._asdict(), "run": vars(how.run)}).encode())
