"""Fault-tolerant training: processes that are killed, several workers, and several replicas."""

import functools
import json
import signal

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.callbacks import EXIT_PREEMPTED
from keras_distill.distribution import workers
from tests.support import backup_run
from tests.support.cluster import finish, start
from tests.support.interrupted_training import FaultAt, KilledError, assert_same, everything, trained, uninterrupted

pytestmark = pytest.mark.processes


def run(folder, plans, workers=1):
    """Start a process for each worker and return `(exit status, output)` of each."""
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    command = ["-m", "tests.support.backup_run", folder / "backup", out]
    plans = [plans.get(worker, []) for worker in range(workers)]
    return finish(start([[*command, json.dumps(plan)] for plan in plans], workers))


def results_of(folder, worker=0):
    """Return state and history that a worker wrote at its end."""
    history = json.loads((folder / "out" / f"{worker}.json").read_text())
    return list(np.load(folder / "out" / f"{worker}.npz").values()), history


def test_processes_that_are_killed(tmp_path):
    model, history = backup_run.fitted(tmp_path / "whole")
    # Killed while the fourth checkpoint is written; the next process is preempted in a step.
    killed = [{"signal": "SIGKILL", "at": "fsync", "count": 7}]
    preempted = [{"signal": "SIGTERM", "at": "step", "count": 8}]
    for plan, expected in ((killed, -signal.SIGKILL), (preempted, EXIT_PREEMPTED), ([], 0)):
        ((code, printed),) = run(tmp_path, {0: plan})
        assert code == expected, printed
    assert_same(results_of(tmp_path), (backup_run.state(model), history))


@pytest.mark.case("E7")
def test_two_processes_in_one_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ["-m", "tests.support.backup_run", tmp_path / "backup", out]
    stopped = [{"signal": "SIGSTOP", "at": "step", "count": 5}]
    (first,) = start([[*command, json.dumps(stopped)]])
    try:
        while not (tmp_path / "backup" / "00000001.json").exists():
            assert first.poll() is None
        ((code, printed),) = run(tmp_path, {})
        assert code == 1
        where = f"'{tmp_path / 'backup'}': process {first.pid}. Wait until it has ended, or choose another folder."
        assert f"RuntimeError: Another process is training in {where}" in printed
    finally:
        first.kill()
        first.communicate()
    ((code, printed),) = run(tmp_path, {})
    assert code == 0, printed
    assert "training.lock" not in [path.name for path in (tmp_path / "backup").iterdir()]


@pytest.mark.replicas
def test_workers_that_are_killed(tmp_path):
    for _, printed in run(tmp_path / "whole", {}, workers=2):
        assert "step" in printed
    killed = {"signal": "SIGKILL", "at": "step", "count": 9, "after": 0.005}
    killed_in_a_write = {"signal": "SIGKILL", "at": "hash", "count": 30}
    for plans in ({1: [killed]}, {0: [killed_in_a_write]}):
        assert -signal.SIGKILL in [code for code, _ in run(tmp_path / "broken", plans, workers=2)]
    preempted = {"signal": "SIGTERM", "at": "step", "count": 4}
    assert [code for code, _ in run(tmp_path / "broken", {1: [preempted]}, workers=2)] == [EXIT_PREEMPTED] * 2
    assert [code for code, _ in run(tmp_path / "broken", {}, workers=2)] == [0, 0]
    (state, history), *others = (
        results_of(tmp_path / name, worker) for name in ("whole", "broken") for worker in (0, 1)
    )
    for other, other_history in others:
        for one, another in zip(state, other, strict=True):
            np.testing.assert_allclose(another, one, rtol=1e-6, atol=1e-6)
        for name, values in history.items():
            np.testing.assert_allclose(other_history[name], values, rtol=1e-6, err_msg=name)


@functools.cache
def three_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"], tf.distribute.ReductionToOneDevice())


def distributed():
    with three_replicas().scope():
        return everything()


@pytest.mark.replicas
@pytest.mark.parametrize("calls", [3, 9])
def test_replicas_resume(tmp_path, calls):
    with pytest.raises(KilledError):
        trained(distributed, tmp_path, FaultAt("on_train_batch_begin", calls))
    (state, history), (others, other_history) = uninterrupted(distributed), trained(distributed, tmp_path)
    for one, other in zip(state, others, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(other_history[name], values, rtol=1e-6, err_msg=name)


DIFFERENT_WORKERS = """
import sys
import keras
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
from tests.support.helpers import compiled, data, mlp
from keras_distill import Backup, Distiller, Term
from keras_distill.losses import KLDivergence
folder, order, units = sys.argv[1:]
with strategy.scope():
    if order == "first":
        backup = Backup(folder, settings={"units": int(units)})
    # With order "last", the models need the same shapes: `Backup` compares the settings only after them.
    student = mlp(int(units) if order == "first" else 8)
    model = compiled(Distiller(student=student, teacher=mlp(12, name="teacher"), terms=[Term(KLDivergence())]))
if order == "last":
    backup = Backup(folder, settings={"units": int(units)})
model.fit(backup.batches(data(), 8), verbose=0, callbacks=[backup])
"""


@pytest.mark.replicas
@pytest.mark.parametrize("order", ["first", "last"])
def test_workers_with_different_settings_raise(order, tmp_path):
    commands = [["-c", DIFFERENT_WORKERS, tmp_path / "checkpoints", order, units] for units in (4, 8)]
    for code, printed in finish(start(commands, 2), deadline=120):
        assert code == 1
        assert "The workers run different trainings: units 4 on worker 0 and 8 on worker 1." in printed
    assert list(tmp_path.iterdir()) == []


def test_a_single_process_is_the_only_worker():
    strategy = tf.distribute.get_strategy()
    assert workers.is_chief(strategy)
    assert workers.all_gather_text(strategy, "that") == ["that"]
    assert workers.any_worker(strategy, True) and not workers.any_worker(strategy, False)
