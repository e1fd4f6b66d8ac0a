"""Worker processes that train together over the loopback interface."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def start(arguments, workers=1, logs=None, variables=None, folder=None):
    """Start `python ARGUMENTS` once for each worker of a cluster.

    Args:
        arguments: List of strings, or a list of such lists, one for each worker.
        workers: Number of workers. A single one gets no TF_CONFIG. Defaults to 1.
        logs: Folder for the output files `<worker>.log`. Defaults to None, which passes the output to `communicate`.
        variables: Additional environment variables, `{name: value}`.
        folder: Working directory. Defaults to that of this process.

    Returns:
        List of `subprocess.Popen`.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes = []
    for index in range(workers):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
        environment |= variables or {}
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        output = subprocess.PIPE if logs is None else open(logs / f"{index}.log", "a")  # noqa: SIM115
        worker_arguments = arguments[index] if isinstance(arguments[0], list) else arguments
        command = [sys.executable, *map(str, worker_arguments)]
        options = {"env": environment, "cwd": folder, "text": True}
        processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options))
    return processes


def finish(processes, deadline=300):
    """Wait for all processes, and kill those that still run after the deadline.

    Args:
        processes: List of `subprocess.Popen`.
        deadline: Seconds.

    Returns:
        List of `(exit status, output)`.
    """
    try:
        outputs = [process.communicate(timeout=deadline)[0] for process in processes]
    finally:
        for process in processes:
            # A worker that waits for other workers does not react to SIGTERM.
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs)]


def free_ports(count):
    """Return port numbers on which no process listens."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports
