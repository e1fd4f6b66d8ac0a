"""Labelling that is killed, meets another writer, or a file that cannot grow."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from keras_distill.cache import label, open_cache, shards
from tests.support.helpers import data, mlp

# Labels into a directory; the process kills itself at a given call of a function of the file layer.
SCRIPT = """
import os, signal, sys
import numpy as np
import keras
from keras_distill.cache import label, shards
model, directory, name, number = sys.argv[1:]
calls = 0
def deadly(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
if name == "replace":
    shards._replace = deadly(shards._replace)
else:
    os.fsync = deadly(os.fsync)
x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
teacher = keras.saving.load_model(model)
label(teacher, (x,), directory, ("output", "features"), batch_size=10, shard_bytes=1000, verbose=0)
"""


def labelling(model, directory, name="none", number=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", SCRIPT, str(model), str(directory), name, str(number)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".npy", ".json")}


def test_killed_anywhere_it_goes_on_and_ends_with_the_same_bytes(tmp_path):
    mlp(16, name="teacher").save(tmp_path / "teacher.keras")
    whole = labelling(tmp_path / "teacher.keras", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    kept = 0
    # Before the first manifest, between the files of a shard, with a file half way to its name, between shards.
    for name, number in [("replace", 1), ("replace", 3), ("fsync", 4), ("replace", 5), ("fsync", 7)]:
        killed = labelling(tmp_path / "teacher.keras", tmp_path / "killed", name, number)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        manifest = shards.read_manifest(tmp_path / "killed")
        finished = 0 if manifest is None else len(manifest["shards"])
        assert finished >= kept
        kept = finished
        with pytest.raises(ValueError, match="no cache|not finished"):
            open_cache(tmp_path / "killed")
    assert kept > 0
    done = labelling(tmp_path / "teacher.keras", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert open_cache(tmp_path / "killed").examples == 100


def test_two_writers_do_not_meet(tmp_path):
    with shards.write_lock(tmp_path):
        with pytest.raises(RuntimeError, match=f"Another process is labelling into .*: process {os.getpid()}"):
            label(mlp(name="teacher"), data(), tmp_path, verbose=0)
    label(mlp(name="teacher"), data(), tmp_path, verbose=0)


def test_a_file_that_cannot_grow_leaves_finished_shards_and_no_others(tmp_path):
    teacher = mlp(16, name="teacher")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Enough for manifest and logits, and too little for the features of a shard.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1400, old[1]))
        with pytest.raises(OSError, match="File too large"):
            label(teacher, data(), tmp_path, ("output", "features"), verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "writing.lock"]
    label(teacher, data(), tmp_path, ("output", "features"), verbose=0)
    assert open_cache(tmp_path).examples == 24


def test_it_goes_on_in_batches_that_fit_its_shards(tmp_path, monkeypatch):
    teacher, options = mlp(16, name="teacher"), {"shard_bytes": 1, "verbose": 0}
    write = shards.write_shard

    def full(directory, number, *arguments, **options):
        if number == 2:
            raise OSError(28, "No space left on device")
        return write(directory, number, *arguments, **options)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        label(teacher, data(), tmp_path, batch_size=6, **options)
    monkeypatch.setattr(shards, "write_shard", write)
    with pytest.raises(ValueError, match="shards of 6 examples.*or another divisor of that. Received: batch_size=4"):
        label(teacher, data(), tmp_path, batch_size=4, **options)
    label(teacher, data(), tmp_path, batch_size=3, **options)
    assert open_cache(tmp_path).examples == 24
    # What is finished is only looked at, in batches of any size.
    label(teacher, data(), tmp_path, batch_size=4, **options)
