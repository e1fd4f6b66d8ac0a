"""Arrays of a cache, read from plain NumPy files."""

import errno
import mmap
import os

import numpy as np
import tensorflow as tf
from etils import epath

from keras_distill.cache.manifest import Manifest, Shard
from keras_distill.utils.files import is_local

# Bytes that are checked at once.
_CHUNK = 1 << 24


class CorruptedCacheError(ValueError):
    """Cache whose files are missing, unreadable or different from what its manifest lists."""


class ShardArray:
    """One array of a shard. Rows are read when they are needed; no file stays open.

    Args:
        directory: Directory of the cache.
        manifest: `Manifest` of the cache.
        shard: One of its shards.
        name: Name of the array, one of `manifest.rows()`.

    Raises:
        CorruptedCacheError: If the file is missing, lies in another directory, or is not an array of the dtype and
            shape that the manifest lists.
        OSError: If the file system fails.
    """

    def __init__(self, directory: str | os.PathLike, manifest: Manifest, shard: Shard, name: str):
        self.path = epath.Path(directory) / shard.files[name]
        self._dtype, row = manifest.rows()[name]
        self._shape = (shard.positions, *row[1:]) if row[:1] == (None,) else (shard.examples, *row)
        check_inside(directory, self.path)
        if not self.path.exists():
            raise file_error(self.path, "is missing")
        # Reading a device might never end.
        if is_local(directory) and not os.path.isfile(self.path):
            raise file_error(self.path, "is not a file")
        array = self._open()
        if (array.dtype, array.shape) != (self._dtype, self._shape) or not array.flags.c_contiguous:
            raise file_error(
                self.path,
                f"has shape {array.shape} and dtype {array.dtype}, but the manifest lists {self._shape} and "
                f"{self._dtype}",
            )
        self._offset = getattr(array, "offset", 0)
        self._array = None if is_local(directory) else array

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Return a copy of the rows at these positions of the shard."""
        return self._read()[index]

    def all_rows(self) -> np.ndarray:
        """Return a copy of all rows."""
        return np.array(self._read())

    def find_unusable(self, dtype: tf.DType) -> int | None:
        """Return the position of the first row that contains NaN or +infinity, or None.

        Args:
            dtype: Dtype of the activation, as for `is_usable`.
        """
        array, row_bytes = self._read(), max(self._dtype.itemsize * int(np.prod(self._shape[1:], dtype=int)), 1)
        step = max(_CHUNK // row_bytes, 1)
        for start in range(0, len(array), step):
            unusable = np.flatnonzero(~is_usable(array[start : start + step], dtype))
            if len(unusable):
                return start + int(unusable[0])
        return None

    def _open(self):
        try:
            if is_local(self.path):
                return np.load(os.fspath(self.path), mmap_mode="r", allow_pickle=False)
            with self.path.open("rb") as file:
                return np.load(file, allow_pickle=False)
        except OSError as error:
            raise _named(error, self.path) from error
        except (ValueError, EOFError) as error:
            raise file_error(self.path, f"cannot be read: {error}") from error

    def _read(self):
        """Return the array, memory-mapped if the file is local."""
        if self._array is not None:
            return self._array
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
            return np.ndarray(self._shape, self._dtype, content, self._offset)
        except OSError as error:
            raise _named(error, self.path) from error
        except (ValueError, TypeError) as error:
            # The file is empty, or shorter than before.
            raise file_error(self.path, f"has changed since the cache was opened: {error}") from error


def is_usable(values: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """Return which rows a loss can use: those without NaN and +infinity. -infinity is the logit of a masked class.

    Args:
        values: Stored activations, shape `[rows, ...]`.
        dtype: Dtype of the activations. bfloat16 is stored as integers of the same bits.
    """
    if dtype.is_integer:
        return np.ones(len(values), bool)
    return (values.view(dtype.as_numpy_dtype) < np.inf).all(axis=tuple(range(1, values.ndim)))


def check_inside(directory: str | os.PathLike, path: os.PathLike) -> None:
    """Raise CorruptedCacheError for a symbolic link that leads out of the directory of the cache."""
    if is_local(directory) and os.path.dirname(os.path.realpath(path)) != os.path.realpath(directory):
        raise CorruptedCacheError(
            f"'{path}' is a link to '{os.path.realpath(path)}', outside of the cache. Replace the link with the file "
            "itself."
        )


def file_error(path: os.PathLike, reason: str) -> CorruptedCacheError:
    """Return the error for a file of a cache.

    Args:
        path: The file.
        reason: What is wrong, such as "is missing".
    """
    return CorruptedCacheError(
        f"'{path}' {reason}. Restore the file, or delete '{os.path.dirname(path)}' and run `label(...)` again."
    )


def _named(error, path):
    """Return an error of the file system that names its cause and the file."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return OSError(error.errno, error.strerror or str(error), os.fspath(path))
    # Not on Windows.
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OSError(
        error.errno,
        f"Too many open files: this process may open {limit}. Close other files, or raise the limit, such as by "
        "`ulimit -n 4096`",
        os.fspath(path),
    )
