"""Models as files, and going on with a saved distiller."""

import os
import pathlib

import keras

from keras_distill.training.distiller import Distiller
from keras_distill.training.loading import loading_with


def load_distiller(path, teacher, custom_objects=None, compile=True, safe_mode=True):
    """A `Distiller` as `distiller.save(path)` left it, given its teacher anew.

    Student, heads, the losses' weights, optimizer, schedule position and random states are those of the file: `fit`
    goes on as if it had never stopped. `load_model(path)` cannot do that, since a file holds no teacher.

    Args:
        path: The `.keras` file.
        teacher: As for `Distiller`; the one that the student was learning from, None if there was none.
        custom_objects, compile, safe_mode: As for `keras.saving.load_model`.

    Raises:
        ValueError: If the file holds something else than a `Distiller`, or the teacher does not fit the saved terms.
    """
    with loading_with(teacher):
        loaded = keras.saving.load_model(path, custom_objects, compile=compile, safe_mode=safe_mode)
    if not isinstance(loaded, Distiller):
        raise ValueError(
            f"'{path}' holds a {type(loaded).__name__}, not a Distiller. Load it with keras.saving.load_model."
        )
    return loaded


def save_model(model, path):
    """Writes a model so that a process that dies meanwhile leaves what was there.

    Args:
        model: A `keras.Model`.
        path: Where to, ending in `.keras`.
    """
    path = pathlib.Path(path)
    # Keras wants a name that ends in `.keras`, and to open the file itself.
    unfinished = path.with_name(f"unfinished_{path.name}")
    model.save(unfinished)
    os.replace(unfinished, path)
