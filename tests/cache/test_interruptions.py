"""Labeling that is killed, runs beside another writer, or exceeds the file size limit."""

import os
import resource
import signal
import subprocess
import sys

import numpy as np
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
    message = f"Another process is writing into .*: process {os.getpid()}"
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json"]
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


READ = """
import resource, sys
import numpy as np
from keras_distill.cache import open_cache
from keras_distill.data.batch import split_inputs
directory, limit = sys.argv[1:]
x = np.arange(100 * 8, dtype="float32").reshape(100, 8)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
teacher_cache = open_cache(directory)
teacher_cache.verify()
np.testing.assert_array_equal(split_inputs(teacher_cache.load(x))[1]["output"], x[:, :3])
"""


def run(script, *arguments, prefix=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*prefix, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """Cache of 100 shards of one example, 200 files."""
    directory = tmp_path_factory.mktemp("many") / "cache"
    x = np.arange(100 * 8, dtype="float32").reshape(100, 8)
    label(lambda inputs: inputs[:, :3], (x,), directory, batch_size=1, shard_bytes=1, verbose=0)
    return directory


@pytest.mark.case("E10")
def test_shards_do_not_keep_files_open(many_shards):
    done = run(READ, many_shards, 48)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.case("E10")
def test_too_many_open_files_are_named(many_shards):
    done = run(
        "import os, sys\nfrom keras_distill.cache import open_cache\nimport resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try:\n    while True: os.open('/dev/null', os.O_RDONLY)\nexcept OSError: os.close(63)\n"
        "from keras_distill.cache.arrays import ShardArray\nos.dup(0)\nopen_cache(sys.argv[1])",
        many_shards,
    )
    assert done.returncode == 1 and "Too many open files" in done.stderr and "label(...)" not in done.stderr


NO_LOCKS = """
import errno, fcntl, sys
import numpy as np
def refuse(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = fcntl.lockf = refuse
from keras_distill.cache import label, open_cache
x = np.arange(100 * 8, dtype="float32").reshape(100, 8)
label(lambda inputs: inputs[:, :3], (x,), sys.argv[1], batch_size=1, verbose=0)
open_cache(sys.argv[1]).verify()
"""


@pytest.mark.case("E9")
def test_a_file_system_without_locks(many_shards, tmp_path):
    for directory in (many_shards, tmp_path / "new"):
        done = run(NO_LOCKS, directory)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.case("E9")
def test_a_finished_cache_on_a_read_only_file_system(many_shards):
    mounted = ["unshare", "-m", "sh", "-c", 'mount -o bind,ro "$0" "$0" && exec "$@"', many_shards]
    if run("pass", prefix=mounted).returncode:
        pytest.skip("No permission to mount.")
    code = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'new').touch()"
    assert "Read-only file system" in run(code, many_shards, prefix=mounted).stderr
    done = run(NO_LOCKS.replace("fcntl.flock =", "#"), many_shards, prefix=mounted)
    assert done.returncode == 0, done.stderr[-2000:]
