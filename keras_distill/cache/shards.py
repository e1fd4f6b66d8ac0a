"""Files of a cache: shards of plain NumPy arrays and a manifest that lists them.

```
DIR/manifest.json                 teacher, examples and taps, and the finished shards with their checksums
DIR/00000.output.npy              activations of one tap, rows of one shard
DIR/00000.examples.npy            fingerprints of the examples, integers of one to eight bytes
DIR/00000.lengths.npy             number of positions of each example, if the examples have different lengths
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
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from keras_distill.cache.arrays import CorruptedCacheError, check_inside, file_error
from keras_distill.cache.lengths import LENGTHS
from keras_distill.cache.manifest import EXAMPLES, FORMAT, Manifest, Shard, file_names
from keras_distill.utils import locks
from keras_distill.utils.files import UNFINISHED_SUFFIX, atomic_write, is_local

_MANIFEST = "manifest.json"
_LOCK = "writing.lock"


def read_manifest(directory: str | os.PathLike) -> Manifest | None:
    """Return the manifest of a cache, or None if the directory has none.

    Raises:
        CorruptedCacheError: If the file has changed since it was written, or is not that of a cache.
        OSError: If the file system fails.
        ValueError: If another version of keras_distill wrote it in another format.
    """
    path = epath.Path(directory) / _MANIFEST
    if not path.exists():
        return None
    check_inside(directory, path)
    try:
        values = json.loads(path.read_text())
        version = values["format"]
        manifest = Manifest.from_json(values) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
        arrays: `{name: array}` of equal length, `EXAMPLES` among them; with `LENGTHS`, also arrays of all positions.
        concurrent: Whether other processes may write the same shard at the same time. Defaults to False.

    Returns:
        The shard's entry for the manifest.

    Raises:
        OSError: As raised by the file system, e.g. if the disk is full. The files of the shard are removed.
    """
    names = file_names(number, arrays)
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
    positions = int(arrays[LENGTHS].sum()) if LENGTHS in arrays else None
    return Shard(len(arrays[EXAMPLES]), names, checksums, positions)


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
    """Return the entry that `write_entry` wrote for this manifest, or None.

    Raises:
        CorruptedCacheError: If the entry lists files that do not belong to the shard.
    """
    path = _entry_path(directory, number)
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    if values["of"] != manifest.digest():
        return None
    shard = Shard.from_json(values)
    try:
        manifest.check_shard(number, shard)
    except ValueError as error:
        raise CorruptedCacheError(f"'{path}' is corrupted: {error}. Delete it to label the shard again.") from error
    return shard


def remove_entries(directory: str | os.PathLike) -> None:
    """Remove all files of `write_entry`, and the unfinished files of killed processes."""
    for pattern in ("[0-9]*.json", f"*{UNFINISHED_SUFFIX}"):
        for path in epath.Path(directory).glob(pattern):
            path.unlink(missing_ok=True)


def verify_checksums(directory: str | os.PathLike, shard: Shard) -> None:
    """Read all files of a shard and compare their checksums with the manifest.

    Raises:
        CorruptedCacheError: If a file is missing or its content has changed.
    """
    for name, file in shard.files.items():
        path = epath.Path(directory) / file
        check_inside(directory, path)
        if not path.exists():
            raise file_error(path, "is missing")
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        if checksum != shard.sha256[name]:
            raise file_error(
                path,
                f"has changed since it was written: its checksum is {checksum[:12]}, the manifest lists "
                f"{shard.sha256[name][:12]}",
            )


@contextlib.contextmanager
def write_lock(directory: str | os.PathLike) -> Iterator[None]:
    """Lock a directory for one writer. The operating system releases the lock when the process ends.

    Raises:
        RuntimeError: If another process holds the lock.
    """
    epath.Path(directory).mkdir(parents=True, exist_ok=True)
    # Cloud storage has no locks.
    lock = locks.locked(os.path.join(directory, _LOCK)) if is_local(directory) else contextlib.nullcontext()
    try:
        with lock:
            yield
    except locks.LockedError as error:
        raise RuntimeError(
            f"Another process is writing into '{directory}': {error.holder}. Wait until it has finished, or choose "
            "another directory."
        ) from None


def _entry_path(directory: str | os.PathLike, number: int) -> epath.Path:
    return epath.Path(directory) / f"{number:05d}.json"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _replace(path: epath.Path, content: bytes, concurrent: bool = False) -> None:
    with atomic_write(path, concurrent) as file:
        file.write(content)
