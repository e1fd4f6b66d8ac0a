"""Contents of a cache's manifest.json."""

import dataclasses
import hashlib
import json
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill.cache import packing
from keras_distill.cache.lengths import LENGTHS
from keras_distill.cache.packing import StoredTap

# 1: written by keras_distill 0.1.0. 2: without the checksum, before 0.2.0 was released. 3: written since 0.2.0.
FORMAT = 3
# Name of the array of fingerprints.
EXAMPLES = "examples"
# Runtimes of the teacher. The manifest lists the engine unless it is Keras.
KERAS = "keras"
ENGINES = (KERAS, "onnx")
# Key of the checksum of all other values.
_CHECKSUM = "sha256"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Files of one finished shard.

    Attributes:
        examples: Number of examples.
        files: `{name of the array: name of the file}`.
        sha256: `{name of the array: SHA-256 of the file}`, hexadecimal.
        positions: Number of positions of all examples, if their lengths differ. Defaults to None.
    """

    examples: int
    files: dict[str, str]
    sha256: dict[str, str]
    positions: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the shard as JSON values."""
        values = {"examples": self.examples, "files": self.files, "sha256": self.sha256}
        return values if self.positions is None else {**values, "positions": self.positions}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Shard":
        """Return the `Shard` of the values that `to_json` returned."""
        return cls(values["examples"], values["files"], values["sha256"], values.get("positions"))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Teacher, examples, taps and finished shards of a cache.

    Attributes:
        teacher: Fingerprint of the teacher, 32 hexadecimal digits.
        version: Version of the teacher, as passed to `label`.
        inputs: `[shape, dtype]` of every input of one example, in the order of `keras.tree.flatten`.
        views: Number of augmented views per example, >= 1.
        taps: `{tap: StoredTap}`.
        shard_examples: Number of examples per shard; the last shard may have fewer.
        shards: Finished shards, in the order of the examples.
        complete: Whether all examples are labeled.
        engine: Runtime that ran the teacher, "keras" or "onnx". Defaults to "keras".
    """

    teacher: str
    version: str | None
    inputs: list[Any]
    views: int
    taps: dict[str, StoredTap]
    shard_examples: int
    shards: tuple[Shard, ...] = ()
    complete: bool = False
    engine: str = KERAS

    @property
    def examples(self) -> int:
        """Number of examples in finished shards; every view counts."""
        return sum(shard.examples for shard in self.shards)

    @property
    def row_bytes(self) -> int:
        """Stored bytes per example, without its fingerprint."""
        return packing.row_bytes(self.taps)

    @property
    def varies(self) -> bool:
        """True if the examples have different lengths at some tap."""
        return any(stored.varies for stored in self.taps.values())

    def rows(self) -> dict[str, tuple[np.dtype, tuple[int | None, ...]]]:
        """Return `{name of an array: (dtype in its file, shape of one row)}`, of the fingerprints and all taps.

        The shape of a tap whose length differs begins with None; a row of its file is one position.
        """
        rows = {EXAMPLES: (np.dtype(packing.fingerprint_dtype(self.taps)), ())}
        if self.varies:
            rows[LENGTHS] = (np.dtype("int32"), ())
        for name, spec in packing.all_fields(self.taps).items():
            dtype = tf.uint16 if spec.dtype == tf.bfloat16 else spec.dtype
            rows[name] = (np.dtype(dtype.as_numpy_dtype), tuple(spec.shape))
        return rows

    def check_shard(self, number: int, shard: Shard) -> None:
        """Raise ValueError for a shard with other files or another number of examples than `label` writes.

        Args:
            number: Number of the shard, from 0.
            shard: The shard.
        """
        names = list(self.rows())
        # The names of the files follow from the taps, so that no name leads out of the folder or occurs twice.
        if shard.files != file_names(number, names) or set(shard.sha256) != set(names):
            raise ValueError(f"shard {number} lists files that do not belong to a cache: {shard.files}")
        if not _is_count(shard.examples) or shard.examples > self.shard_examples:
            raise ValueError(f"shard {number} lists {shard.examples!r} examples, of {self.shard_examples} at most")

        if (shard.positions is not None) != self.varies or not (shard.positions is None or _is_count(shard.positions)):
            raise ValueError(f"shard {number} lists {shard.positions!r} positions")

    def settings(self) -> dict[str, Any]:
        """Return what the cache must have in common with another labeling run that resumes it, as JSON values."""
        values = {
            "format": FORMAT,
            "teacher": self.teacher,
            "version": self.version,
            "inputs": self.inputs,
            "views": self.views,
            "taps": {tap: stored.to_json() for tap, stored in self.taps.items()},
        }
        return values if self.engine == KERAS else {**values, "engine": self.engine}

    def digest(self) -> str:
        """Return the SHA-256 of everything but the finished shards, hexadecimal."""
        values = {**self.settings(), "shard_examples": self.shard_examples}
        return _checksum(values)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, in the order of the file. The last one is a checksum of all others."""
        values = {
            **self.settings(),
            "shard_examples": self.shard_examples,
            "shards": [shard.to_json() for shard in self.shards],
            "complete": self.complete,
        }
        return {**values, _CHECKSUM: _checksum(values)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """Return the `Manifest` of the values that `to_json` returned.

        Raises:
            ValueError: If a value has changed, or cannot be that of a cache.
        """
        if values[_CHECKSUM] != _checksum({key: value for key, value in values.items() if key != _CHECKSUM}):
            raise ValueError("its checksum does not match")
        manifest = cls(
            teacher=values["teacher"],
            version=values["version"],
            inputs=values["inputs"],
            views=values["views"],
            taps={tap: StoredTap.from_json(stored) for tap, stored in values["taps"].items()},
            shard_examples=values["shard_examples"],
            shards=tuple(Shard.from_json(shard) for shard in values["shards"]),
            complete=values["complete"],
            engine=values.get("engine", KERAS),
        )
        manifest._check()
        return manifest

    def _check(self):
        if self.engine not in ENGINES:
            raise ValueError(f"engine {self.engine!r}")
        if not self.taps or not _is_count(self.views) or not _is_count(self.shard_examples):
            raise ValueError(f"{len(self.taps)} taps, {self.views!r} views, {self.shard_examples!r} examples per shard")
        for number, shard in enumerate(self.shards):
            self.check_shard(number, shard)
            if shard.examples != self.shard_examples and number < len(self.shards) - 1:
                raise ValueError(f"shard {number} lists {shard.examples} examples instead of {self.shard_examples}")


def file_names(number: int, names: Iterable[str]) -> dict[str, str]:
    """Return the files of a shard, `{name of an array: name of its file}`.

    Args:
        number: Number of the shard, from 0.
        names: Names of the arrays.
    """
    return {name: f"{number:05d}.{urllib.parse.quote(name, safe='')}.npy" for name in names}


def _checksum(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
