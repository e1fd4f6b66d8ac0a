"""Processes that train together over loopback, and may be killed."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def start(arguments, workers=1, logs=None, variables=None, folder=None):
    """Starts `python ARGUMENTS` once for each worker of a cluster.

    Args:
        arguments: List of strings, or a list of such lists, one for each worker.
        workers: How many. One alone knows of no cluster.
        logs: Folder for what they print, `<worker>.log`; None keeps it for `communicate`.
        folder: Where they run. Defaults to this one.
        variables: More environment variables, `{name: text}`.

    Returns:
        List of `subprocess.Popen`.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    started = []
    for index in range(workers):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
        environment |= variables or {}
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        output = subprocess.PIPE if logs is None else open(logs / f"{index}.log", "a")  # noqa: SIM115
        own = arguments[index] if isinstance(arguments[0], list) else arguments
        command = [sys.executable, *map(str, own)]
        options = {"env": environment, "cwd": folder, "text": True}
        started.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options))
    return started


def finish(processes, deadline=300):
    """Waits for all of them; none is left after the deadline.

    Returns:
        List of `(return code, what it printed)`.
    """
    try:
        printed = [process.communicate(timeout=deadline)[0] for process in processes]
    finally:
        for process in processes:
            # A worker that waits for others does not heed SIGTERM.
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, printed)]


def free_ports(count):
    """Numbers of ports that nobody listens on."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports
