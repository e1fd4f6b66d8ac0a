"""Files that are whole or not there."""

import contextlib
import os

from etils import epath

UNFINISHED = ".unfinished"


@contextlib.contextmanager
def replacing(path):
    """A file for bytes that takes the place of `path` once it is written and on disk.

    A process that dies meanwhile leaves `path` as it was, and a file `<path>.unfinished`.

    Raises:
        OSError: As the file system says, such as for a full disk; nothing is left of the file then.
    """
    path = epath.Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            if is_local(path):
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def is_local(path):
    """Whether a path is of this machine's file system, not of cloud storage."""
    return "://" not in os.fspath(path)
