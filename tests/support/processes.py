"""Processes of `keras-distill`, also on mounted file systems."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "keras_distill.cli")


def popen(*command, cwd=None, **variables):
    """Start a command, and return its `subprocess.Popen` with output as text."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=cwd, env=environment, **pipes)


def finish(process, deadline=300):
    """Wait for a process and return `(exit status, stdout, stderr)`."""
    out, err = process.communicate(timeout=deadline)
    return process.returncode, out, err


def run(*command, **options):
    """Run a command and return `(exit status, stdout, stderr)`."""
    return finish(popen(*command, **options))


def mounted(options, folder):
    """Return the beginning of a command that runs with another file system at a folder, which needs root.

    Args:
        options: Options of `mount`, such as "-t tmpfs -o size=64k none".
        folder: The folder.
    """
    return "unshare", "-m", "sh", "-c", f'mount {options} "$0" && exec "$@"', folder


def may_mount(folder):
    return run(*mounted("-t tmpfs none", folder), "true")[0] == 0
