"""Preemption: on SIGTERM `fit` writes a checkpoint after the step and restores the previous handler."""

import os
import signal
import threading

import pytest

from keras_distill.callbacks import EXIT_PREEMPTED
from keras_distill.saving import checkpoints
from tests.support.interrupted_training import (
    FaultAt,
    accumulating,
    assert_same,
    everything,
    interrupt,
    trained,
    uninterrupted,
)

pytestmark = pytest.mark.processes


def send_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def previous_handler():
    """Record the signals that reach the handler that was installed before."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("method", "count"), [("on_train_batch_begin", 6), ("on_test_batch_end", 1), ("on_epoch_end", 3)]
)
def test_preemption_stops_after_the_step(tmp_path, capsys, previous_handler, method, count):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit:
        trained(everything, tmp_path / "run", FaultAt(method, count, send_sigterm), every=None)
    assert exit.value.code == EXIT_PREEMPTED == 75
    assert f"Preempted: checkpoint written to '{tmp_path / 'run'}'" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not previous_handler
    assert_same(trained(everything, tmp_path / "run"), uninterrupted(everything))


def test_more_signals_do_not_disturb_the_checkpoint(tmp_path, previous_handler, monkeypatch):
    write = checkpoints.HashingWriter.write

    def interrupted(*arguments):
        send_sigterm()
        return write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.HashingWriter, "write", interrupted)
        with pytest.raises(SystemExit):
            trained(everything, tmp_path / "run", FaultAt("on_train_batch_begin", 6, send_sigterm), every=None)
    assert_same(trained(everything, tmp_path / "run"), uninterrupted(everything))
    assert not previous_handler


def test_after_an_error_a_signal_reaches_the_previous_handler(tmp_path, previous_handler):
    interrupt(tmp_path)
    send_sigterm()
    assert previous_handler == [signal.SIGTERM]


def test_training_in_another_thread(tmp_path):
    thread = threading.Thread(target=trained, args=(accumulating, tmp_path / "kept"))
    thread.start()
    thread.join()
    assert len(list((tmp_path / "kept").iterdir())) == 4
