"""Locks of folders for one process."""

import contextlib
import errno
import os
from collections.abc import Iterator

_BUSY = {errno.EACCES, errno.EAGAIN}
# File systems without locks, such as some network mounts.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

# `{path of a lock file: descriptor}` of the locks of this process.
_held: dict[str, int] = {}
# A forked process inherits no lock. Windows does not fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)


class LockedError(RuntimeError):
    """Another process holds a lock.

    Args:
        holder: Description of the other process, such as "process 123".
    """

    def __init__(self, holder: str):
        super().__init__(f"The lock is held by {holder}.")
        self.holder = holder


def lock(path: str | os.PathLike) -> None:
    """Lock a file until `unlock`, or until the process ends, however it ends. Creates the file and its folder.

    Does nothing if this process holds the lock already, on file systems without locks, and on Windows.

    Args:
        path: The lock file, on a local file system.

    Raises:
        LockedError: If another process holds the lock.
        OSError: If the file cannot be created.
    """
    try:
        import fcntl
    except ImportError:
        return
    path = os.path.realpath(path)
    if path in _held:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Not `flock`: a process that was forked, such as a data loader, would keep the lock of a killed parent.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 100, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                return
            if error.errno in _BUSY:
                raise LockedError(holder or "an unknown process") from None
            raise
        if _is_file(descriptor, path):
            break
        # The holder removed the file between the two calls above.
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
    _held[path] = descriptor


def unlock(path: str | os.PathLike) -> None:
    """Release a lock of this process and remove its file. Does nothing if this process does not hold it."""
    path = os.path.realpath(path)
    descriptor = _held.pop(path, None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Hold a lock inside the context.

    Args:
        path: The lock file, on a local file system.

    Raises:
        LockedError: If another process, or another part of this process, holds the lock.
    """
    if os.path.realpath(path) in _held:
        raise LockedError(f"process {os.getpid()}")
    lock(path)
    try:
        yield
    finally:
        unlock(path)


def _is_file(descriptor, path):
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
