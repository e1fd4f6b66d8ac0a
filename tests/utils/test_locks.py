"""Locks of one process."""

import os
import signal
import subprocess
import sys

import pytest

from keras_distill.utils import locks

pytestmark = [pytest.mark.processes, pytest.mark.case("E7")]

# A process that locks a file, starts a child and waits.
HOLDER = """
import os, sys, time
from keras_distill.utils import locks
locks.lock(sys.argv[1])
if os.fork() == 0:
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def held(path):
    """Return a process that holds the lock, and has a child that lives on."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", HOLDER, path]
    holder = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    assert holder.stdout.readline() == f"{holder.pid}\n"
    return holder


def test_another_process_is_refused_until_it_is_killed(tmp_path):
    path = tmp_path / "sub" / "x.lock"
    holder = held(path)
    try:
        with pytest.raises(locks.LockedError) as error:
            locks.lock(path)
        assert error.value.holder == f"process {holder.pid}"
        # Its child inherits no lock.
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        locks.lock(path)
        locks.unlock(path)
        assert not path.exists()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_one_process_may_lock_twice_but_not_within(tmp_path):
    path = tmp_path / "x.lock"
    with locks.locked(path):
        locks.lock(path)
        with pytest.raises(locks.LockedError, match=f"process {os.getpid()}"), locks.locked(path):
            pass
    assert not path.exists()
    with locks.locked(path):
        assert path.read_text() == f"process {os.getpid()}"
