"""The files of a cache: shards of plain arrays, and a manifest that says what is in them.

```
DIR/manifest.json                 what the cache is of, and its finished shards with their checksums
DIR/00000.output.npy              activations of one tap, rows of one shard; memory-mapped when read
DIR/00000.examples.npy            fingerprints of the examples, integers of one to eight bytes
DIR/00000.json                    a shard's entry for the manifest, while several processes write shards
```

A shard is written under another name, flushed to disk, renamed, and only then entered in the manifest: a file that the
manifest does not know does not exist. Nothing is ever unpickled.
"""

import contextlib
import hashlib
import io
import json
import os
import urllib.parse

import numpy as np
from etils import epath

from keras_distill.utils.files import UNFINISHED_SUFFIX, atomic_write, is_local

FORMAT = 1
EXAMPLES = "examples"
_MANIFEST = "manifest.json"
_LOCK = "writing.lock"


class CorruptedCacheError(ValueError):
    """A cache whose files are not what its manifest says."""


def read_manifest(directory):
    """The manifest as a dictionary, or None if there is none.

    Raises:
        Damaged: If it cannot be read, or is of another format.
    """
    path = epath.Path(directory) / _MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        format = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptedCacheError(
            f"'{path}' is no manifest of a cache: {error!r}. Delete '{directory}' and label anew."
        ) from error
    if format != FORMAT:
        raise CorruptedCacheError(
            f"'{directory}' has format {format}, but this keras_distill reads {FORMAT}. Label anew."
        )
    return manifest


def write_manifest(directory, manifest):
    """Replaces the manifest as a whole."""
    _replace(epath.Path(directory) / _MANIFEST, json.dumps(manifest, indent=1).encode())


def write_shard(directory, number, arrays, several=False):
    """Writes `{name: array}` as one shard.

    Args:
        directory: Of the cache.
        number: The shard's, from 0 on.
        arrays: Of equal length; the `EXAMPLES` are among them.
        several: Whether other processes may write the same shard at once.

    Returns:
        The shard's entry for the manifest.

    Raises:
        OSError: As the file system says, such as for a full disk; no part of the shard is left then.
    """
    names = {name: f"{number:05d}.{urllib.parse.quote(name, safe='')}.npy" for name in arrays}
    sums = {}
    try:
        for name, array in arrays.items():
            content = _npy(array)
            sums[name] = hashlib.sha256(content).hexdigest()
            _replace(epath.Path(directory) / names[name], content, several)
    except OSError:
        for file in names.values():
            with contextlib.suppress(OSError):
                (epath.Path(directory) / file).unlink(missing_ok=True)
        raise
    return {"examples": len(arrays[EXAMPLES]), "files": names, "sha256": sums}


def write_entry(directory, number, entry, of):
    """Keeps a written shard's entry apart from the manifest, which others write to.

    Args:
        directory: Of the cache.
        number: The shard's.
        entry: What `write_shard` gave.
        of: The manifest that it will stand in; entries of others do not count.
    """
    _replace(_entry(directory, number), json.dumps({"of": _digest(of), **entry}).encode(), several=True)


def read_entry(directory, number, of):
    """What `write_entry` kept, or None."""
    path = _entry(directory, number)
    if not path.exists():
        return None
    entry = json.loads(path.read_text())
    return entry if entry.pop("of") == _digest(of) else None


def remove_entries(directory):
    """Removes all of them, and what killed processes left unfinished."""
    for pattern in ("[0-9]*.json", f"*{UNFINISHED_SUFFIX}"):
        for path in epath.Path(directory).glob(pattern):
            path.unlink(missing_ok=True)


def open_array(directory, shard, name):
    """One array of a shard, memory-mapped where the file is local.

    Raises:
        Damaged: If the file is not there, is no plain array or has another length than the manifest says.
    """
    path = epath.Path(directory) / shard["files"][name]
    try:
        if is_local(path):
            array = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file:
                array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptedCacheError(f"'{path}' cannot be read: {error}. Label anew, or restore the file.") from error
    if len(array) != shard["examples"]:
        raise CorruptedCacheError(f"'{path}' has {len(array)} rows, the manifest says {shard['examples']}. Label anew.")
    return array


def check_sums(directory, shard):
    """Refuses files of a shard whose content has changed since they were written; reads all of it.

    Raises:
        Damaged: Naming the file.
    """
    for name, file in shard["files"].items():
        path = epath.Path(directory) / file
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "nothing"
        written = shard["sha256"][name]
        if found != written:
            raise CorruptedCacheError(
                f"'{path}' is not what was written: its checksum is {found[:12]}, not {written[:12]}."
            )


@contextlib.contextmanager
def write_lock(directory):
    """Holds a directory for one writer; a process that dies lets it go.

    Raises:
        RuntimeError: If another process is writing there.
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
                f"Another process is labelling into '{directory}': {lock.read().strip() or 'unknown'}. Wait for it, "
                "or choose another directory."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


def _entry(directory, number):
    return epath.Path(directory) / f"{number:05d}.json"


def _digest(manifest):
    """Of what a manifest says before it has shards."""
    about = {key: value for key, value in manifest.items() if key not in ("shards", "complete")}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _replace(path, content, several=False):
    with atomic_write(path, several) as file:
        file.write(content)
