"""Tests for progress bars."""

import sys

import pytest

from keras_distill.utils.progress import progress_bar


@pytest.mark.parametrize(("terminal", "lines"), [(True, 9), (False, 2)])
def test_a_log_file_gets_few_lines(monkeypatch, capsys, terminal, lines):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    now = [0.0]
    monkeypatch.setattr("keras.src.utils.progbar.time.time", lambda: now[0])
    bar = progress_bar(9, "example")
    for _ in range(9):
        now[0] += 5
        bar.add(1)
    printed = capsys.readouterr().out
    assert printed.count("example") == lines and "9/9" in printed


def test_a_silent_bar(capsys):
    progress_bar(2, "example", verbose=0).add(2)
    assert not capsys.readouterr().out
