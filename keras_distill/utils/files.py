"""Atomic writes of files and folders."""

import contextlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

UNFINISHED_SUFFIX = ".unfinished"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, several: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` once it is completely written and flushed to disk.

    If the process dies before, `path` keeps its old content and a file `<path>.unfinished` remains.

    Args:
        path: The file to write, local or on cloud storage such as `gs://`.
        several: Whether several processes may write the same file at once. Each then writes a separate
            unfinished file, and the last one to finish replaces `path`. Defaults to False.

    Returns:
        A context manager that yields the open file.

    Raises:
        OSError: If the file system fails, such as for a full disk. The unfinished file is deleted then.
    """
    path = epath.Path(path)
    own = f".{uuid.uuid4().hex}" if several else ""
    unfinished = path.with_name(path.name + own + UNFINISHED_SUFFIX)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            if is_local(path):
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            name_file(error, path)
        raise


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield the path of a file or folder to write, which replaces `path` at the end of the context.

    For functions that write to a path themselves. If the context raises, `path` keeps its old content.

    Args:
        path: The file or folder to write, on a local file system. Its folder exists.

    Returns:
        A context manager that yields a path of the same name in a temporary folder beside `path`.
    """
    path = pathlib.Path(path)
    options = {"prefix": f"{path.name}.", "suffix": UNFINISHED_SUFFIX, "dir": path.parent}
    with tempfile.TemporaryDirectory(**options) as folder:
        unfinished = pathlib.Path(folder) / path.name
        yield unfinished
        if path.exists() and (path.is_dir() or unfinished.is_dir()):
            # No file system replaces a folder in one step.
            path.rename(pathlib.Path(folder) / "replaced")
        unfinished.replace(path)


def name_file(error: OSError, path: str | os.PathLike) -> None:
    """Add the name of a file to an error of the file system that has none, such as that for a full disk.

    Args:
        error: The error.
        path: The file.
    """
    if error.filename is None and error.errno is not None:
        error.filename = os.fspath(path)


def is_local(path: str | os.PathLike) -> bool:
    """Return whether a path belongs to the local file system, not to cloud storage."""
    return "://" not in os.fspath(path)
