"""Soak test of fault-tolerant training: `python -m tests.soak [--kills=7] [--seed=0]`.

It trains on one, two and three worker processes, and repeatedly kills a random worker at a random moment: in a step, at
the end of an epoch, in a validation, or while a checkpoint is written. It then kills the other workers too, and
restarts all of them, as a supervisor would do. At the end, it compares the state of each worker with that of an
uninterrupted training. It prints a table, and fails if the states differ.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests.support.cluster import start

WORKERS = 1, 2, 3
# Tolerance by number of workers: float32 sums over several workers depend on their order.
TOLERANCE = {1: 0.0, 2: 1e-6, 3: 1e-6}
# `{moment: (relative frequency, maximum)}`. A kill happens at an occurrence from 1 to the maximum.
MOMENTS = {"step": (3, 9), "epoch": (1, 1), "validation": (1, 4), "hash": (1, 180), "fsync": (1, 6)}


def run_workers(folder, workers, plans, deadline=300):
    """Run all workers once, as a supervisor does, and kill the others when one of them fails.

    Args:
        folder: Folder of checkpoints and results.
        workers: Number of workers.
        plans: `{worker: list of faults}`.
        deadline: Seconds.

    Returns:
        True if all workers finished, and the number of training steps of the first worker.
    """
    logs = pathlib.Path(tempfile.mkdtemp(dir=folder))
    command = ["-m", "tests.support.backup_run", folder / "backup", folder]
    processes = start([[*command, json.dumps(plans.get(worker, []))] for worker in range(workers)], workers, logs)
    end = time.monotonic() + deadline
    while time.monotonic() < end and all(process.poll() in (None, 0) for process in processes):
        try:
            next(process for process in processes if process.poll() is None).wait(timeout=0.2)
        except StopIteration:
            break
        except subprocess.TimeoutExpired:
            continue
    codes = [process.poll() for process in processes]
    for process in processes:
        # A worker that waits for a dead one does not react to SIGTERM.
        process.kill()
        process.wait()
    failed = [worker for worker, code in enumerate(codes) if code not in (0, -signal.SIGKILL, None)]
    if failed and -signal.SIGKILL not in codes:
        output = (logs / f"{failed[0]}.log").read_text()[-3000:]
        raise SystemExit(f"Worker {failed[0]} failed without a planned fault:\n{output}")
    steps = [line for line in (logs / "0.log").read_text().splitlines() if line.startswith("step ")]
    return all(code == 0 for code in codes), len(steps)


def soak(folder, workers, kills, random):
    """Return a row of the table and the largest difference of the states."""
    for name in ("whole", "killed"):
        (folder / name).mkdir(parents=True)
    finished, steps = run_workers(folder / "whole", workers, {})
    assert finished
    moments, num_steps, num_kills, num_starts = dict.fromkeys(MOMENTS, 0), 0, 0, 0
    num_chief_kills = 0
    done = False
    while not done:
        plans = {}
        if num_kills < kills:
            moment = random.choices(list(MOMENTS), [frequency for frequency, _ in MOMENTS.values()])[0]
            # Only the first worker writes checkpoints.
            victim = 0 if moment in ("hash", "fsync") else random.randrange(workers)
            after = random.uniform(0.0, 0.02) if moment == "step" else 0
            count = random.randint(1, MOMENTS[moment][1])
            plans = {victim: [{"signal": "SIGKILL", "at": moment, "count": count, "after": after}]}
        done, num_new_steps = run_workers(folder / "killed", workers, plans)
        num_starts += 1
        num_steps += num_new_steps
        if not done:
            num_kills += 1
            moments[moment] += 1
            num_chief_kills += victim == 0
            print(
                f"  {workers} workers: killed worker {victim} at {moment} {count}, after {num_new_steps} steps",
                flush=True,
            )
    largest_difference = 0.0
    for worker in range(workers):
        one, other = (list(np.load(folder / name / f"{worker}.npz").values()) for name in ("whole", "killed"))
        for a, b in zip(one, other, strict=True):
            largest_difference = max(
                largest_difference, float(np.max(np.abs(a.astype("float64") - b.astype("float64")), initial=0.0))
            )
        histories = [json.loads((folder / name / f"{worker}.json").read_text()) for name in ("whole", "killed")]
        for name, values in histories[0].items():
            np.testing.assert_allclose(histories[1][name], values, rtol=max(TOLERANCE[workers], 1e-12), err_msg=name)
    kill_counts = f"{num_chief_kills} of the first worker; " + ", ".join(
        f"{count} {moment}" for moment, count in moments.items()
    )
    return [
        workers,
        num_kills,
        kill_counts,
        num_starts - 1,
        steps,
        num_steps,
        f"{largest_difference:.1e}",
    ], largest_difference


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=7, help="kills for each number of workers (default: 7)")
    options.add_argument("--seed", type=int, default=0, help="seed of the random kills (default: 0)")
    options.add_argument("--workers", type=int, nargs="*", default=WORKERS, help="numbers of workers (default: 1 2 3)")
    options = options.parse_args()
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for workers in options.workers:
            row, largest_difference = soak(
                pathlib.Path(folder) / str(workers), workers, options.kills, random.Random(f"{options.seed} {workers}")
            )
            rows.append(row)
            if largest_difference > TOLERANCE[workers]:
                failed.append(workers)
    head = ["workers", "kills", "kills by moment", "resumed", "steps", "steps made", "largest difference"]
    for row in [head, ["---"] * len(head), *rows]:
        print("|", " | ".join(map(str, row)), "|")
    sys.exit(f"The state differs from that of an uninterrupted training with {failed} workers" if failed else 0)


if __name__ == "__main__":
    main()
