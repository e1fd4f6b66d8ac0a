"""Labeling that is killed, runs beside another writer, or exceeds the file size limit."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from keras_distill.cache import label, open_cache, shards
from tests.support.helpers import data, mlp

pytestmark = pytest.mark.processes

# Labels into a directory; the process kills itself in the given call of a function that writes files.
SCRIPT = """
import os, signal, sys
import numpy as np
import keras
from keras_distill.cache import label, shards
model, directory, name, number = sys.argv[1:]
calls = 0
def kill_in_call(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
if name == "replace":
    shards._replace = kill_in_call(shards._replace)
else:
    os.fsync = kill_in_call(os.fsync)
x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
teacher = keras.saving.load_model(model)
label(teacher, (x,), directory, ("output", "features"), batch_size=10, shard_bytes=1000, verbose=0)
"""


def run_labeling(model, directory, name="none", number=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", SCRIPT, str(model), str(directory), name, str(number)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".npy", ".json")}


def test_resuming_after_a_kill_ends_with_the_same_bytes(tmp_path):
    mlp(16, name="teacher").save(tmp_path / "teacher.keras")
    whole = run_labeling(tmp_path / "teacher.keras", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    previous = 0
    # Before the first manifest, between the files of a shard, before a file is renamed, between shards.
    for name, number in [("replace", 1), ("replace", 3), ("fsync", 4), ("replace", 5), ("fsync", 7)]:
        killed = run_labeling(tmp_path / "teacher.keras", tmp_path / "killed", name, number)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        manifest = shards.read_manifest(tmp_path / "killed")
        finished = 0 if manifest is None else len(manifest.shards)
        assert finished >= previous
        previous = finished
        with pytest.raises(ValueError, match="holds no cache|holds an unfinished cache"):
            open_cache(tmp_path / "killed")
    assert previous > 0
    resumed = run_labeling(tmp_path / "teacher.keras", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert open_cache(tmp_path / "killed").examples == 100


def test_a_second_writer_raises(tmp_path):
    message = f"Another process is labeling into .*: process {os.getpid()}"
    with shards.write_lock(tmp_path), pytest.raises(RuntimeError, match=message):
        label(mlp(name="teacher"), data(), tmp_path, verbose=0)
    label(mlp(name="teacher"), data(), tmp_path, verbose=0)


def test_a_failed_write_leaves_only_finished_shards(tmp_path):
    teacher = mlp(16, name="teacher")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Enough for the manifest and the logits, but not for the features of a shard.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1400, old[1]))
        with pytest.raises(OSError, match="File too large"):
            label(teacher, data(), tmp_path, ("output", "features"), verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "writing.lock"]
    label(teacher, data(), tmp_path, ("output", "features"), verbose=0)
    assert open_cache(tmp_path).examples == 24


def test_resuming_requires_a_batch_size_that_divides_the_shards(tmp_path, monkeypatch):
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
    with pytest.raises(ValueError, match="shards of 6 examples.*`batch_size` that divides 6. Received: 4"):
        label(teacher, data(), tmp_path, batch_size=4, **options)
    label(teacher, data(), tmp_path, batch_size=3, **options)
    assert open_cache(tmp_path).examples == 24
    # A finished cache is only verified, in batches of any size.
    label(teacher, data(), tmp_path, batch_size=4, **options)
