"""Contents of a cache's manifest.json."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from keras_distill.cache.packing import StoredTap, row_bytes

# 1: written by keras_distill 0.1.0. 2: written since 0.2.0.
FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Shard:
    """Files of one finished shard.

    Attributes:
        examples: Number of examples.
        files: `{name of the array: name of the file}`.
        sha256: `{name of the array: SHA-256 of the file}`, hexadecimal.
    """

    examples: int
    files: dict[str, str]
    sha256: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the shard as JSON values."""
        return {"examples": self.examples, "files": self.files, "sha256": self.sha256}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Shard":
        """Return the `Shard` of the values that `to_json` returned."""
        return cls(values["examples"], values["files"], values["sha256"])


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
    """

    teacher: str
    version: str | None
    inputs: list[Any]
    views: int
    taps: dict[str, StoredTap]
    shard_examples: int
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def examples(self) -> int:
        """Number of examples in finished shards; every view counts."""
        return sum(shard.examples for shard in self.shards)

    @property
    def row_bytes(self) -> int:
        """Stored bytes per example, without its fingerprint."""
        return row_bytes(self.taps)

    def settings(self) -> dict[str, Any]:
        """Return what the cache must have in common with another labeling run that resumes it, as JSON values."""
        return {
            "format": FORMAT,
            "teacher": self.teacher,
            "version": self.version,
            "inputs": self.inputs,
            "views": self.views,
            "taps": {tap: stored.to_json() for tap, stored in self.taps.items()},
        }

    def digest(self) -> str:
        """Return the SHA-256 of everything but the finished shards, hexadecimal."""
        values = {**self.settings(), "shard_examples": self.shard_examples}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, in the order of the file."""
        return {
            **self.settings(),
            "shard_examples": self.shard_examples,
            "shards": [shard.to_json() for shard in self.shards],
            "complete": self.complete,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """Return the `Manifest` of the values that `to_json` returned."""
        return cls(
            teacher=values["teacher"],
            version=values["version"],
            inputs=values["inputs"],
            views=values["views"],
            taps={tap: StoredTap.from_json(stored) for tap, stored in values["taps"].items()},
            shard_examples=values["shard_examples"],
            shards=tuple(Shard.from_json(shard) for shard in values["shards"]),
            complete=values["complete"],
        )
