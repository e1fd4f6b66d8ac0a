"""Files of a cache: shards of plain NumPy arrays and a manifest that lists them.

```
DIR/manifest.json                 teacher, examples and taps, and the finished shards with their checksums
DIR/00000.output.npy              activations of one tap, rows of one shard; memory-mapped when read
DIR/00000.examples.npy            fingerprints of the examples, integers of one to eight bytes
DIR/00000.json                    manifest entry of a shard, while several processes write shards
```

A shard is written under a temporary name, flushed to disk, renamed, and only then added to the manifest. Files that the
manifest does not list are ignored. No file is unpickled.
"""

import contextlib
import hashlib
import io
import json
import os
import urllib.parse
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from keras_distill.cache.manifest import FORMAT, Manifest, Shard
from keras_distill.utils.files import UNFINISHED_SUFFIX, atomic_write, is_local

EXAMPLES = "examples"
_MANIFEST = "manifest.json"
_LOCK = "writing.lock"


class CorruptedCacheError(ValueError):
    """Cache whose files are missing, unreadable or different from what its manifest lists."""


def read_manifest(directory: str | os.PathLike) -> Manifest | None:
    """Return the manifest of a cache, or None if the directory has none.

    Raises:
        CorruptedCacheError: If the file cannot be read.
        ValueError: If another version of keras_distill wrote it in another format.
    """
    path = epath.Path(directory) / _MANIFEST
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        version = values["format"]
        manifest = Manifest.from_json(values) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptedCacheError(
            f"'{path}' is not the manifest of a cache: {type(error).__name__}: {error}. Delete '{directory}' and run "
            "`label(...)` again."
        ) from error
    if version == 1:
        raise ValueError(
            f"'{directory}' was written by keras_distill 0.1.0. Run `label(...)` again into another folder."
        )
    if manifest is None:
        raise ValueError(
            f"'{directory}' has cache format {version}, but this version of keras_distill reads format {FORMAT}. Run "
            "`label(...)` again into another folder."
        )
    return manifest


def write_manifest(directory: str | os.PathLike, manifest: Manifest) -> None:
    """Replace the manifest atomically."""
    _replace(epath.Path(directory) / _MANIFEST, json.dumps(manifest.to_json(), indent=1).encode())


def write_shard(
    directory: str | os.PathLike, number: int, arrays: Mapping[str, np.ndarray], concurrent: bool = False
) -> Shard:
    """Write one shard.

    Args:
        directory: Directory of the cache.
        number: Number of the shard, from 0.
        arrays: `{name: array}` of equal length, `EXAMPLES` among them.
        concurrent: Whether other processes may write the same shard at the same time. Defaults to False.

    Returns:
        The shard's entry for the manifest.

    Raises:
        OSError: As raised by the file system, e.g. if the disk is full. The files of the shard are removed.
    """
    names = {name: f"{number:05d}.{urllib.parse.quote(name, safe='')}.npy" for name in arrays}
    checksums = {}
    try:
        for name, array in arrays.items():
            content = _npy(array)
            checksums[name] = hashlib.sha256(content).hexdigest()
            _replace(epath.Path(directory) / names[name], content, concurrent)
    except OSError:
        for file in names.values():
            with contextlib.suppress(OSError):
                (epath.Path(directory) / file).unlink(missing_ok=True)
        raise
    return Shard(len(arrays[EXAMPLES]), names, checksums)


def write_entry(directory: str | os.PathLike, number: int, shard: Shard, manifest: Manifest) -> None:
    """Write the manifest entry of a shard to a separate file, since several processes write shards.

    Args:
        directory: Directory of the cache.
        number: Number of the shard.
        shard: Entry, as returned by `write_shard`.
        manifest: Manifest that the entry belongs to. `read_entry` ignores entries of other manifests.
    """
    values = {"of": manifest.digest(), **shard.to_json()}
    _replace(_entry_path(directory, number), json.dumps(values).encode(), True)


def read_entry(directory: str | os.PathLike, number: int, manifest: Manifest) -> Shard | None:
    """Return the entry that `write_entry` wrote for this manifest, or None."""
    path = _entry_path(directory, number)
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    return Shard.from_json(values) if values["of"] == manifest.digest() else None


def remove_entries(directory: str | os.PathLike) -> None:
    """Remove all files of `write_entry`, and the unfinished files of killed processes."""
    for pattern in ("[0-9]*.json", f"*{UNFINISHED_SUFFIX}"):
        for path in epath.Path(directory).glob(pattern):
            path.unlink(missing_ok=True)


def open_array(directory: str | os.PathLike, shard: Shard, name: str) -> np.ndarray:
    """Return one array of a shard, memory-mapped if the file is local.

    Raises:
        CorruptedCacheError: If the file is missing, is not a plain array or has another length than the manifest.
    """
    path = epath.Path(directory) / shard.files[name]
    try:
        if is_local(path):
            array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file:
                array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptedCacheError(
            f"'{path}' cannot be read: {error}. Restore the file, or delete '{directory}' and run `label(...)` again."
        ) from error
    if len(array) != shard.examples:
        raise CorruptedCacheError(
            f"'{path}' has {len(array)} rows, but the manifest lists {shard.examples}. Restore the file, or delete "
            f"'{directory}' and run `label(...)` again."
        )
    return array


def verify_checksums(directory: str | os.PathLike, shard: Shard) -> None:
    """Read all files of a shard and compare their checksums with the manifest.

    Raises:
        CorruptedCacheError: If a file is missing or its content has changed.
    """
    for name, file in shard.files.items():
        path = epath.Path(directory) / file
        if not path.exists():
            raise CorruptedCacheError(
                f"'{path}' is missing. Restore it, or delete '{directory}' and run `label(...)` again."
            )
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        if checksum != shard.sha256[name]:
            raise CorruptedCacheError(
                f"'{path}' has changed since it was written: its checksum is {checksum[:12]}, the manifest lists "
                f"{shard.sha256[name][:12]}. Restore it, or delete '{directory}' and run `label(...)` again."
            )


@contextlib.contextmanager
def write_lock(directory: str | os.PathLike) -> Iterator[None]:
    """Lock a directory for one writer. The operating system releases the lock when the process ends.

    Raises:
        RuntimeError: If another process holds the lock.
    """
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not is_local(directory):
        # Cloud storage has no locks.
        yield
        return
    import fcntl

    with open(os.fspath(directory / _LOCK), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RuntimeError(
                f"Another process is labeling into '{directory}': {lock.read().strip() or 'unknown'}. Wait until it "
                "has finished, or choose another directory."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


def _entry_path(directory: str | os.PathLike, number: int) -> epath.Path:
    return epath.Path(directory) / f"{number:05d}.json"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _replace(path: epath.Path, content: bytes, concurrent: bool = False) -> None:
    with atomic_write(path, concurrent) as file:
        file.write(content)
