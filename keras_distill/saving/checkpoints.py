"""The files of a backup: arrays one after another, and a marker that says what they are.

```
FOLDER/00000012.arrays      one .npy after another, in the order in which the marker lists them
FOLDER/00000012.json        the marker: names, shapes and dtypes, the checksum, and notes
```

The arrays are written under another name, flushed to disk and renamed; the marker follows in the same way, and is what
makes a snapshot of them. The two latest snapshots are kept. Nothing is ever pickled or unpickled.
"""

import hashlib
import json
import re
import warnings

import numpy as np
from etils import epath

from keras_distill.utils.files import UNFINISHED_SUFFIX, atomic_write

FORMAT = 1
_CHUNK = 1 << 22


class CorruptedCheckpointError(ValueError):
    """A backup of which no snapshot is whole."""


def write(folder, arrays, notes, keep=()):
    """Writes a snapshot, then deletes older ones.

    Args:
        folder: Where; made if need be.
        arrays: `{name: array}`.
        notes: A dictionary for JSON.
        keep: Numbers of the older snapshots that stay.

    Returns:
        The number of the snapshot.

    Raises:
        OSError: As the file system says; the older snapshots are still there then.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    number = max(_files(folder), default=0) + 1
    with atomic_write(folder / f"{number:08d}.arrays") as file:
        hashed = _Hashed(file)
        for array in arrays.values():
            np.lib.format.write_array(hashed, np.ascontiguousarray(array), allow_pickle=False)
    # What comes back must be what the checksum is of: numbers as they are read again.
    notes = json.loads(json.dumps(notes, default=lambda value: np.asarray(value).tolist()))
    content = {
        "format": FORMAT,
        "sha256": hashed.sum.hexdigest(),
        "arrays": [[name, list(np.shape(array)), str(array.dtype)] for name, array in arrays.items()],
        "notes": notes,
    }
    with atomic_write(folder / f"{number:08d}.json") as file:
        file.write(json.dumps({**content, "marker_sha256": _sum(content)}, indent=1).encode())
    for other, files in _files(folder).items():
        if other not in (number, *keep):
            for path in files:
                path.unlink(missing_ok=True)
    return number


def latest(folder):
    """The notes and the number of the latest snapshot that is whole, `(None, None)` if none was ever finished.

    Warns of later ones that are not whole.

    Raises:
        Damaged: If there were snapshots, and none is whole.
    """
    folder = epath.Path(folder)
    faults, damaged = [], False
    for number, paths in sorted(_files(folder).items(), reverse=True):
        if f"{number:08d}.json" not in {path.name for path in paths}:
            faults.append(f"{number:08d} was not finished")
            continue
        try:
            content = _marker(folder, number)
            _check(folder, number, content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{number:08d} is damaged ({error})")
            damaged = True
            continue
        if faults:
            _warn(folder, faults, f"Going on from {number:08d}, the one before.")
        return content["notes"], number
    if damaged:
        raise CorruptedCheckpointError(
            f"No backup in '{folder}' is whole: {'; '.join(faults)}. Restore the files, or delete the folder to begin "
            "anew."
        )
    if faults:
        _warn(folder, faults, "Beginning anew.")
    return None, None


def read(folder, number):
    """The arrays of a snapshot, `{name: array}`."""
    folder = epath.Path(folder)
    with (folder / f"{number:08d}.arrays").open("rb") as file:
        return {
            # NumPy knows types such as bfloat16 by their size only.
            name: np.lib.format.read_array(file, allow_pickle=False).view(np.dtype(dtype)).reshape(shape)
            for name, shape, dtype in _marker(folder, number)["arrays"]
        }


def remove(folder):
    """Deletes all snapshots, and the folder if nothing else is in it."""
    folder = epath.Path(folder)
    # The latest goes last: whoever is killed meanwhile finds it, or nothing.
    for _, paths in sorted(_files(folder).items()):
        for path in sorted(paths, key=lambda path: not path.name.endswith(UNFINISHED_SUFFIX)):
            path.unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


class _Hashed:
    """Writes to a file and sums up what was written."""

    def __init__(self, file):
        self.file = file
        self.sum = hashlib.sha256()

    def write(self, content):
        self.sum.update(content)
        return self.file.write(content)


def _files(folder):
    """`{number: [path]}` of what a folder holds of snapshots, unfinished ones too."""
    found = {}
    if folder.exists():
        for path in folder.iterdir():
            named = re.fullmatch(rf"(\d{{8}})\.(arrays|json)({re.escape(UNFINISHED_SUFFIX)})?", path.name)
            if named:
                found.setdefault(int(named[1]), []).append(path)
    return found


def _marker(folder, number):
    content = json.loads((folder / f"{number:08d}.json").read_bytes())
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, and this keras_distill reads {FORMAT}")
    if content.pop("marker_sha256") != _sum(content):
        raise ValueError(f"the checksum of {number:08d}.json is another")
    return content


def _check(folder, number, content):
    found = hashlib.sha256()
    with (folder / f"{number:08d}.arrays").open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != content["sha256"]:
        raise ValueError(f"the checksum of {number:08d}.arrays is another")


def _sum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _warn(folder, faults, outcome):
    warnings.warn(f"Backup in '{folder}': {'; '.join(faults)}. {outcome}", stacklevel=2)
