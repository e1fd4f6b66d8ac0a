"""Checkpoint files: arrays, and a marker that describes them.

```
FOLDER/00000012.arrays      one .npy after another, in the order of the marker's list
FOLDER/00000012.json        the marker: names, shapes and dtypes, the checksum, and metadata
```

The arrays are written under a temporary name, flushed to disk and renamed. The marker is written last, in the same way:
only a checkpoint with a marker is complete. The two latest checkpoints are kept. Nothing is ever pickled or unpickled.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from keras_distill.utils.files import UNFINISHED_SUFFIX, atomic_write

# keras_distill 0.1.0 wrote format 1.
FORMAT = 2
_CHUNK = 1 << 22


class CorruptedCheckpointError(ValueError):
    """Error for a folder in which no checkpoint is intact."""


class CheckpointFormatError(ValueError):
    """Error for a checkpoint that another version of keras_distill wrote."""


def write(
    folder: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: dict, keep: Sequence[int | None] = ()
) -> int:
    """Write a checkpoint, then delete older ones.

    Args:
        folder: The folder of the checkpoints. Created if it does not exist.
        arrays: `{name: array}`.
        metadata: A dictionary that JSON can hold. NumPy values are converted.
        keep: Numbers of the older checkpoints to keep. Defaults to none.

    Returns:
        The number of the checkpoint.

    Raises:
        OSError: If the file system fails. The older checkpoints are intact then.
        ValueError: For an array of Python objects.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    number = max(_files(folder), default=0) + 1
    with atomic_write(folder / f"{number:08d}.arrays") as file:
        hashing = HashingWriter(file)
        for array in arrays.values():
            np.lib.format.write_array(hashing, np.ascontiguousarray(array), allow_pickle=False)
    # The checksum must cover the metadata as they are read back, so they pass through JSON before.
    metadata = json.loads(json.dumps(metadata, default=lambda value: np.asarray(value).tolist()))
    content = {
        "format": FORMAT,
        "sha256": hashing.sha256.hexdigest(),
        "arrays": [[name, list(np.shape(array)), str(array.dtype)] for name, array in arrays.items()],
        "metadata": metadata,
    }
    with atomic_write(folder / f"{number:08d}.json") as file:
        file.write(json.dumps({**content, "marker_sha256": _checksum(content)}, indent=1).encode())
    for other, paths in _files(folder).items():
        if other not in (number, *keep):
            for path in paths:
                path.unlink(missing_ok=True)
    return number


def latest(folder: str | os.PathLike) -> tuple[dict, int] | tuple[None, None]:
    """Return the metadata and the number of the latest intact checkpoint.

    Warns of newer checkpoints that are corrupted or incomplete.

    Args:
        folder: The folder of the checkpoints.

    Returns:
        `(metadata, number)`, or `(None, None)` if no checkpoint was ever completed.

    Raises:
        CorruptedCheckpointError: If there are checkpoints, but none is intact.
        CheckpointFormatError: If another version of keras_distill wrote the latest checkpoint.
    """
    folder = epath.Path(folder)
    faults, corrupted = [], False
    for number, paths in sorted(_files(folder).items(), reverse=True):
        if f"{number:08d}.json" not in {path.name for path in paths}:
            faults.append(f"{number:08d} is incomplete")
            continue
        try:
            content = _read_marker(folder, number)
            _check_arrays(folder, number, content)
        except CheckpointFormatError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{number:08d} is corrupted ({error})")
            corrupted = True
            continue
        if faults:
            _warn(folder, faults, f"Resuming from the previous one, {number:08d}.")
        return content["metadata"], number
    if corrupted:
        raise CorruptedCheckpointError(
            f"No checkpoint in '{folder}' is intact: {'; '.join(faults)}. Restore the files, or delete the folder to "
            "start from scratch."
        )
    if faults:
        _warn(folder, faults, "Starting from scratch.")
    return None, None


def read(folder: str | os.PathLike, number: int) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint.

    Args:
        folder: The folder of the checkpoints.
        number: The number of the checkpoint, from `latest`.

    Returns:
        `{name: array}`, in the order in which they were written.
    """
    folder = epath.Path(folder)
    with (folder / f"{number:08d}.arrays").open("rb") as file:
        return {
            # NumPy stores types that it does not define, such as bfloat16, as raw bytes.
            name: np.lib.format.read_array(file, allow_pickle=False).view(np.dtype(dtype)).reshape(shape)
            for name, shape, dtype in _read_marker(folder, number)["arrays"]
        }


def remove(folder: str | os.PathLike) -> None:
    """Delete all checkpoints, and the folder if it is empty then."""
    folder = epath.Path(folder)
    # In ascending order: a process that is killed in between leaves the latest checkpoint, or none.
    for _, paths in sorted(_files(folder).items()):
        for path in sorted(paths, key=lambda path: not path.name.endswith(UNFINISHED_SUFFIX)):
            path.unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


class HashingWriter:
    """File wrapper that computes the SHA-256 checksum of everything that is written."""

    def __init__(self, file: Any):
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write to the file and update the checksum."""
        self.sha256.update(content)
        return self.file.write(content)


def _files(folder):
    """Return `{number: [path]}` of the checkpoint files in a folder, unfinished ones included."""
    paths = {}
    if folder.exists():
        for path in folder.iterdir():
            match = re.fullmatch(rf"(\d{{8}})\.(arrays|json)({re.escape(UNFINISHED_SUFFIX)})?", path.name)
            if match:
                paths.setdefault(int(match[1]), []).append(path)
    return paths


def _read_marker(folder, number):
    content = json.loads((folder / f"{number:08d}.json").read_bytes())
    if content["format"] != FORMAT:
        version = "keras_distill 0.1.0" if content["format"] == 1 else "another version of keras_distill"
        raise CheckpointFormatError(
            f"The checkpoints in '{folder}' were written by {version} (format {content['format']}, this version reads "
            f"{FORMAT}): resume with that version, or delete the folder to start from scratch."
        )
    if content.pop("marker_sha256") != _checksum(content):
        raise ValueError(f"the checksum of {number:08d}.json does not match")
    return content


def _check_arrays(folder, number, content):
    sha256 = hashlib.sha256()
    with (folder / f"{number:08d}.arrays").open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    if sha256.hexdigest() != content["sha256"]:
        raise ValueError(f"the checksum of {number:08d}.arrays does not match")


def _checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _warn(folder, faults, consequence):
    warnings.warn(f"Checkpoints in '{folder}': {'; '.join(faults)}. {consequence}", stacklevel=2)
