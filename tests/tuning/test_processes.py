"""Fault tolerance of hyperparameter searches: a single process, and a chief with workers over loopback."""

import contextlib
import json
import signal
import subprocess
import time

import pytest

from tests.support import tuning_run
from tests.support.cluster import finish, free_ports, start

pytestmark = [pytest.mark.slow, pytest.mark.processes]
STEPS = tuning_run.EPOCHS * 8


def start_process(folder, plan="0", port=None, role=None):
    variables = {}
    if port is not None:
        variables = {
            "KERASTUNER_TUNER_ID": role,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(port),
        }
    (process,) = start(["-m", "tests.support.tuning_run", folder, plan], variables=variables)
    return process


def logged_trainings(folder):
    """Return `(process, temperature)` of every training that began."""
    return [tuple(json.loads(line)) for line in (folder / "log").read_text().splitlines()]


def trial_states(folder):
    trials = sorted((folder / "search").glob("trial_*/trial.json"))
    return [json.loads(path.read_text())["status"] for path in trials]


def assert_success(processes):
    for code, output in finish(processes):
        assert code == 0, output[-3000:]


def test_killed_search_resumes(tmp_path):
    # Kill the process in the third trial.
    process = start_process(tmp_path, str(2 * STEPS + 5))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert trial_states(tmp_path) == ["COMPLETED", "COMPLETED", "RUNNING"]
    finished = {path: path.read_bytes() for path in (tmp_path / "search").glob("trial_[01]/*")}
    assert_success([start_process(tmp_path)])
    assert len(finished) == 6 and all(path.read_bytes() == before for path, before in finished.items())
    assert trial_states(tmp_path) == ["COMPLETED"] * tuning_run.TRIALS
    trained = logged_trainings(tmp_path)
    assert trained[2] == trained[3] and len(set(trained)) == len(trained) - 1 == tuning_run.TRIALS


def test_killed_worker_resumes(tmp_path):
    (port,) = free_ports(1)
    chief, first, second = (
        start_process(tmp_path, plan, port, role)
        for role, plan in (("chief", "0"), ("worker0", "0"), ("worker1", str(STEPS // 2)))
    )
    second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL
    assert_success([start_process(tmp_path, "0", port, "worker1"), first, chief])
    assert trial_states(tmp_path) == ["COMPLETED"] * tuning_run.TRIALS
    trained = logged_trainings(tmp_path)
    killed = [temperature for role, temperature in trained if role == "worker1"]
    assert killed[0] == killed[1], "a worker with the same id continues its trial"
    assert len({temperature for _, temperature in trained}) == len(trained) - 1 == tuning_run.TRIALS


def test_killed_chief_resumes(tmp_path):
    (port,) = free_ports(1)
    chief, *workers = (start_process(tmp_path, "0", port, role) for role in ("chief", "worker0", "worker1"))
    deadline = time.monotonic() + 120
    # Wait for two finished and two running trials: the chief is idle. A kill during a write would truncate a file.
    while not (tmp_path / "log").exists() or len(logged_trainings(tmp_path)) < 4:
        with contextlib.suppress(subprocess.TimeoutExpired):
            chief.wait(timeout=0.1)
        assert chief.returncode is None and time.monotonic() < deadline
    chief.kill()
    chief.communicate()
    assert_success([*workers, start_process(tmp_path, "0", port, "chief")])
    assert trial_states(tmp_path) == ["COMPLETED"] * tuning_run.TRIALS


def test_workers_report_failed_trials_and_the_chief_ends(tmp_path):
    (port,) = free_ports(1)
    chief, worker = (start_process(tmp_path, "failing", port, role) for role in ("chief", "worker0"))
    (code, output), (chief_code, _) = finish([worker, chief])
    assert (code, chief_code) == (0, 0)
    assert "failed. ValueError: no student" in output
    assert trial_states(tmp_path) == ["FAILED"] * tuning_run.TRIALS
