"""Teacher of a distiller that is being loaded: a saved file does not hold it."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

_MISSING = object()
_teacher = contextvars.ContextVar("teacher", default=_MISSING)


@contextlib.contextmanager
def loading_with(teacher: Any) -> Iterator[None]:
    """Provide the teacher for the `from_config` of the distillers that are loaded inside the context."""
    token = _teacher.set(teacher)
    try:
        yield
    finally:
        _teacher.reset(token)


def teacher_to_load(class_name: str) -> Any:
    """Return the teacher that `loading_with` provides.

    Args:
        class_name: Name of the class that is loaded, for the error.

    Raises:
        ValueError: Outside of `loading_with`.
    """
    teacher = _teacher.get()
    if teacher is _MISSING:
        raise ValueError(
            f"A saved {class_name} does not hold its teacher. Load it with "
            "keras_distill.load_distiller(path, teacher=...)."
        )
    return teacher
