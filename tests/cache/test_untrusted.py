"""Caches of unknown origin: files outside of the directory, and manifests that differ from the files."""

import json
import os
import re

import numpy as np
import pytest

from keras_distill.cache import label, open_cache
from keras_distill.cli import main
from tests.support.helpers import data
from tests.support.manifests import rewrite


def logits(x):
    return x[:, :3]


@pytest.fixture
def cache(tmp_path):
    """Cache of two shards, 16 and 8 examples, beside a file of another program."""
    np.save(tmp_path / "secret.npy", np.zeros((16, 3), "float32"))
    label(logits, (data()[0],), tmp_path / "cache", batch_size=8, shard_bytes=200, verbose=0)
    assert len(json.loads((tmp_path / "cache" / "manifest.json").read_text())["shards"]) == 2
    return tmp_path / "cache"


def shards(cache):
    return json.loads((cache / "manifest.json").read_text())["shards"]


def name_file(cache, name):
    first, second = shards(cache)
    rewrite(cache, shards=[{**first, "files": {**first["files"], "output": name}}, second])


def assert_refused(cache, message, by_label=True):
    with pytest.raises(ValueError, match=message):
        open_cache(cache).verify()
    # `label` reads only the fingerprints of a finished cache.
    if not by_label:
        return
    with pytest.raises(ValueError, match=message):
        label(logits, (data()[0],), cache, batch_size=8, verbose=0)


@pytest.mark.case("E5")
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret.npy",
        "sub/00000.output.npy",
        "",
        ".",
        "00001.output.npy",
        "00000.output.npy/..",
        "x.npy",
    ],
)
def test_files_have_the_names_that_label_gives(cache, name):
    name_file(cache, name)
    assert_refused(cache, "shard 0 lists files that do not belong to a cache")


@pytest.mark.case("E5")
@pytest.mark.parametrize("name", ["00000.output.npy", "00001.examples.npy", "manifest.json"])
def test_links_out_of_the_directory_are_refused(cache, name):
    target = (cache / name).rename(cache.parent / "moved")
    (cache / name).symlink_to(target)
    assert_refused(
        cache, f"{name}' is a link to '{re.escape(str(target))}', outside of the cache", name != "00000.output.npy"
    )


@pytest.mark.case("E5")
def test_a_link_to_the_directory_is_followed(cache):
    (cache.parent / "link").symlink_to(cache)
    open_cache(cache.parent / "link").verify()


@pytest.mark.case("E5")
def test_a_device_is_not_read(cache):
    (cache / "00000.output.npy").unlink()
    os.mkfifo(cache / "00000.output.npy")
    assert_refused(cache, "00000.output.npy' is not a file", by_label=False)


@pytest.mark.case("E6")
@pytest.mark.parametrize(
    ("old", "new"), [('"float32"', '"float16"'), ('"examples": 8', '"examples": 7'), ('"complete": true', "")]
)
def test_a_changed_manifest_is_refused(cache, old, new):
    path = cache / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert_refused(cache, "is not the manifest of a cache.*Delete")


def repeat_a_shard(cache):
    first, second = shards(cache)
    rewrite(cache, shards=[first, first, second])


def tap(**values):
    return lambda cache: rewrite(cache, taps={"output": {"shape": [3], "dtype": "float32", "top": None, **values}})


@pytest.mark.case("E6")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repeat_a_shard, "shard 1 lists files"),
        (tap(shape=[10**12]), "has shape .16, 3. and dtype float32, but the manifest lists .16, 1000000000000."),
        (tap(dtype="float16"), "dtype float32, but the manifest lists .16, 3. and float16"),
        (tap(dtype="object"), "not the format of a stored activation"),
        (tap(shape=[-3]), "not the format of a stored activation"),
        (tap(shape=["3"]), "not the format of a stored activation"),
        (tap(top=3), "not the format of a stored activation"),
        (lambda cache: rewrite(cache, taps={}), "0 taps"),
        (lambda cache: rewrite(cache, shard_examples=12), "shard 0 lists 16 examples, of 12 at most"),
        (lambda cache: rewrite(cache, shard_examples=32), "shard 0 lists 16 examples instead of 32"),
        (lambda cache: rewrite(cache, views=0), "0 views"),
        (lambda cache: (cache / "00001.examples.npy").unlink(), "00001.examples.npy' is missing"),
        (lambda cache: np.save(cache / "00001.output.npy", np.zeros((8, 3))), "dtype float64, but the manifest lists"),
    ],
)
def test_a_manifest_that_differs_from_the_files_is_refused(cache, change, message, capsys):
    change(cache)
    with pytest.raises(ValueError, match=message):
        open_cache(cache)
    assert main(["check", str(cache)]) == 1
    assert re.search(message, capsys.readouterr().err)
