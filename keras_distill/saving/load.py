"""Saving models atomically, and loading a saved distiller."""

import os
import pathlib
from typing import Any

import keras

from keras_distill.training.deserialization import loading_with
from keras_distill.training.distiller import Distiller
from keras_distill.utils.files import name_file


def load_distiller(
    path: str | os.PathLike,
    teacher: Any,
    custom_objects: dict[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> Distiller:
    """Load a `Distiller` that `distiller.save(path)` wrote, and attach its teacher.

    Restores the student, the heads, the weights of the losses, the optimizer, the position of the schedules and the
    random states: `fit` continues exactly where it stopped. `keras.saving.load_model(path)` cannot load a distiller,
    because the file does not contain the teacher.

    Args:
        path: The `.keras` file.
        teacher: The teacher of the saved distiller, in any form that `Distiller` accepts. None for a distiller without
            a teacher.
        custom_objects: `{name: class or function}` of custom objects in the student and the losses. Defaults to None.
        compile: Whether to restore the optimizer, loss and metrics, if the distiller was compiled. Defaults to True.
        safe_mode: Whether to raise an error for `Lambda` layers, which can run arbitrary code. Defaults to True.

    Returns:
        The distiller, ready for `fit`.

    Raises:
        ValueError: If the model in the file is not a `Distiller`, or if the teacher does not fit the saved
            terms.

    Example:
    >>> distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    >>> distiller.save("distiller.keras")
    >>> distiller = load_distiller("distiller.keras", teacher=teacher)
    """
    with loading_with(teacher):
        model = keras.saving.load_model(path, custom_objects, compile=compile, safe_mode=safe_mode)
    if not isinstance(model, Distiller):
        raise ValueError(
            f"'{path}' contains a {type(model).__name__}, not a Distiller. Load it with "
            f"`keras.saving.load_model({str(path)!r})`."
        )
    return model


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Save a model atomically: if the process dies before the end, the file keeps its old content.

    Args:
        model: The model to save.
        path: File name, ending in `.keras`.

    Raises:
        OSError: If the file system fails, such as for a full disk. The unfinished file is deleted then.
    """
    path = pathlib.Path(path)
    # Keras requires a name that ends in `.keras`, and opens the file itself.
    unfinished = path.with_name(f"unfinished_{path.name}")
    try:
        model.save(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        name_file(error, path)
        raise
