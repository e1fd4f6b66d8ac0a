"""Soak test of fault-tolerant training: `python -m tests.soak [--kills=7] [--seed=0]`.

A training on one, two and three worker processes is killed again and again: a random worker at a random moment, in a
step, at the end of an epoch, in a validation, or while a checkpoint is written. The other workers are then killed, too,
and all are restarted, as a supervisor would do. At the end the state of each worker is compared with that of an
uninterrupted training. Prints a table. Fails if the states differ.
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
# Largest difference by number of workers: float32 sums over several workers depend on their order.
TOLERANCE = {1: 0.0, 2: 1e-6, 3: 1e-6}
# Moments of a kill: relative frequency, and the largest number of the occurrence in a process.
MOMENTS = {"step": (3, 9), "epoch": (1, 1), "validation": (1, 4), "hash": (1, 180), "fsync": (1, 6)}


def run_workers(folder, workers, plans, deadline=300):
    """Run all workers once, as a supervisor does, and kill the rest when one of them ends with an error.

    Args:
        folder: Folder of checkpoints and results.
        workers: Number of workers.
        plans: `{worker: list of faults}`.
        deadline: Seconds.

    Returns:
        True if all workers finished, and the number of steps that the first worker made.
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
    unexpected = [worker for worker, code in enumerate(codes) if code not in (0, -signal.SIGKILL, None)]
    if unexpected and -signal.SIGKILL not in codes:
        output = (logs / f"{unexpected[0]}.log").read_text()[-3000:]
        raise SystemExit(f"Worker {unexpected[0]} failed without a planned fault:\n{output}")
    steps = [line for line in (logs / "0.log").read_text().splitlines() if line.startswith("step ")]
    return all(code == 0 for code in codes), len(steps)


def soak(folder, workers, kills, random):
    """Return a row of the table and the largest difference of the states."""
    for name in ("whole", "killed"):
        (folder / name).mkdir(parents=True)
    finished, steps = run_workers(folder / "whole", workers, {})
    assert finished
    moments, made, killed, starts = dict.fromkeys(MOMENTS, 0), 0, 0, 0
    chief = 0
    done = False
    while not done:
        plans = {}
        if killed < kills:
            at = random.choices(list(MOMENTS), [frequency for frequency, _ in MOMENTS.values()])[0]
            # Only the first worker writes checkpoints.
            victim = 0 if at in ("hash", "fsync") else random.randrange(workers)
            after = random.uniform(0.0, 0.02) if at == "step" else 0
            count = random.randint(1, MOMENTS[at][1])
            plans = {victim: [{"signal": "SIGKILL", "at": at, "count": count, "after": after}]}
        done, now = run_workers(folder / "killed", workers, plans)
        starts += 1
        made += now
        if not done:
            killed += 1
            moments[at] += 1
            chief += victim == 0
            print(f"  {workers} workers: killed worker {victim} at {at} {count}, after {now} steps", flush=True)
    worst = 0.0
    for worker in range(workers):
        one, other = (list(np.load(folder / name / f"{worker}.npz").values()) for name in ("whole", "killed"))
        for a, b in zip(one, other, strict=True):
            worst = max(worst, float(np.max(np.abs(a.astype("float64") - b.astype("float64")), initial=0.0)))
        histories = [json.loads((folder / name / f"{worker}.json").read_text()) for name in ("whole", "killed")]
        for name, values in histories[0].items():
            np.testing.assert_allclose(histories[1][name], values, rtol=max(TOLERANCE[workers], 1e-12), err_msg=name)
    kinds = f"{chief} of the first worker; " + ", ".join(f"{count} {at}" for at, count in moments.items())
    return [workers, killed, kinds, starts - 1, steps, made, f"{worst:.1e}"], worst


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=7, help="kills for each number of workers (default: 7)")
    options.add_argument("--seed", type=int, default=0, help="seed of the random kills (default: 0)")
    options.add_argument("--workers", type=int, nargs="*", default=WORKERS, help="numbers of workers (default: 1 2 3)")
    options = options.parse_args()
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for workers in options.workers:
            row, worst = soak(
                pathlib.Path(folder) / str(workers), workers, options.kills, random.Random(f"{options.seed} {workers}")
            )
            rows.append(row)
            if worst > TOLERANCE[workers]:
                failed.append(workers)
    head = ["workers", "kills", "kills by moment", "resumed", "steps", "steps made", "largest difference"]
    for row in [head, ["---"] * len(head), *rows]:
        print("|", " | ".join(map(str, row)), "|")
    sys.exit(f"The state differs from that of an uninterrupted training with {failed} workers" if failed else 0)


if __name__ == "__main__":
    main()
