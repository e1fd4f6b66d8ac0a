"""Round trips of manifest.json, and manifests of other formats."""

import dataclasses
import hashlib
import json

import pytest

from keras_distill.cache import label, open_cache, shards
from keras_distill.cache.manifest import Manifest, Shard
from keras_distill.cache.packing import StoredTap
from tests.support.helpers import data, mlp

NAMES = ("examples", "output.top", "output.classes", "features")


def shard(number, examples):
    return Shard(examples, {name: f"{number:05d}.{name}.npy" for name in NAMES}, dict.fromkeys(NAMES, "ab"))


MANIFEST = Manifest(
    teacher="0123456789abcdef" * 2,
    version=None,
    inputs=[[[8], "float32"]],
    views=2,
    taps={"output": StoredTap((3,), "float16", top_k=2), "features": StoredTap((4, 16), "bfloat16")},
    shard_examples=128,
    shards=(shard(0, 128), shard(1, 3)),
    complete=True,
)


def test_a_manifest_survives_the_round_trip(tmp_path):
    shards.write_manifest(tmp_path, MANIFEST)
    assert shards.read_manifest(tmp_path) == MANIFEST
    assert MANIFEST.examples == 131


def test_the_keys_of_the_file(tmp_path):
    shards.write_manifest(tmp_path, MANIFEST)
    text = (tmp_path / "manifest.json").read_text()
    values = json.loads(text)
    assert text == json.dumps(values, indent=1)
    assert list(values) == [
        *("format", "teacher", "version", "inputs", "views", "taps", "shard_examples", "shards", "complete", "sha256")
    ]
    assert values["taps"]["output"] == {"shape": [3], "dtype": "float16", "top": 2}
    files = {name: f"00001.{name}.npy" for name in NAMES}
    assert values["shards"][1] == {"examples": 3, "files": files, "sha256": dict.fromkeys(NAMES, "ab")}
    without = {key: value for key, value in values.items() if key != "sha256"}
    assert values["sha256"] == hashlib.sha256(json.dumps(without, sort_keys=True).encode()).hexdigest()


def test_the_digest_ignores_finished_shards_only():
    begun = dataclasses.replace(MANIFEST, shards=(), complete=False)
    assert begun.digest() == MANIFEST.digest()
    assert dataclasses.replace(MANIFEST, shard_examples=64).digest() != MANIFEST.digest()
    assert dataclasses.replace(MANIFEST, version="2").digest() != MANIFEST.digest()


def test_entries_belong_to_one_manifest(tmp_path):
    shard = MANIFEST.shards[0]
    shards.write_entry(tmp_path, 0, shard, MANIFEST)
    assert shards.read_entry(tmp_path, 0, MANIFEST) == shard
    assert shards.read_entry(tmp_path, 0, dataclasses.replace(MANIFEST, views=1)) is None
    assert shards.read_entry(tmp_path, 1, MANIFEST) is None


def test_a_cache_of_0_1_0_raises_with_advice_that_works(tmp_path):
    teacher, old = mlp(16, name="teacher"), tmp_path / "old"
    label(teacher, data(), old, verbose=0)
    values = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps({**values, "format": 1}))
    message = f"^'{old}' was written by keras_distill 0.1.0. Run `label\\(...\\)` again into another folder.$"
    with pytest.raises(ValueError, match=message):
        open_cache(old)
    with pytest.raises(ValueError, match=message):
        label(teacher, data(), old, verbose=0)
    label(teacher, data(), tmp_path / "new", verbose=0)
    assert open_cache(tmp_path / "new").examples == 24
