"""Files that are whole or not there."""

import contextlib
import os
import uuid

from etils import epath

UNFINISHED_SUFFIX = ".unfinished"


@contextlib.contextmanager
def atomic_write(path, several=False):
    """A file for bytes that takes the place of `path` once it is written and on disk.

    A process that dies meanwhile leaves `path` as it was, and a file `<path>.unfinished`.

    Args:
        path: Where to.
        several: Whether others may write the same at once: each then has an unfinished file of its own, and the last
            one to finish counts.

    Raises:
        OSError: As the file system says, such as for a full disk; nothing is left of the file then.
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
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def is_local(path):
    """Whether a path is of this machine's file system, not of cloud storage."""
    return "://" not in os.fspath(path)
