"""Trainings that are killed again and again, beside unbroken ones: `python -m tests.soak [--kills=7] [--seed=0]`.

For one, two and three worker processes: a training is killed at moments drawn at random, a worker drawn at random each
time: in a step, when an epoch ends, in a validation, and while a backup is written. What is left of the others is then
killed too, all are started again as a supervisor would, and in the end each worker's state is compared with that of a
training that nobody killed. Prints a table; fails if a state is another than it would have been.
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
# What the last step of a float32 sum over several workers may come to.
TOLERANCE = {1: 0.0, 2: 1e-6, 3: 1e-6}
# How often each is drawn, and which of its occurrences in a process may be chosen.
MOMENTS = {"step": (3, 9), "epoch": (1, 1), "validation": (1, 4), "hash": (1, 180), "fsync": (1, 6)}


def supervised(folder, workers, plans, deadline=300):
    """Runs all workers once, as whoever keeps a cluster alive does.

    Returns:
        `(whether all ended well, steps made by the first worker)`.
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
        # Those that wait for the dead one may wait for long, and heed nothing else.
        process.kill()
        process.wait()
    unexpected = [worker for worker, code in enumerate(codes) if code not in (0, -signal.SIGKILL, None)]
    if unexpected and -signal.SIGKILL not in codes:
        raise SystemExit(
            f"Worker {unexpected[0]} failed by itself:\n{(logs / f'{unexpected[0]}.log').read_text()[-3000:]}"
        )
    steps = [line for line in (logs / "0.log").read_text().splitlines() if line.startswith("step ")]
    return all(code == 0 for code in codes), len(steps)


def soaked(folder, workers, kills, random):
    """One row of the table."""
    for name in ("whole", "killed"):
        (folder / name).mkdir(parents=True)
    whole, steps = supervised(folder / "whole", workers, {})
    assert whole
    moments, made, killed, starts = dict.fromkeys(MOMENTS, 0), 0, 0, 0
    chief = 0
    done = False
    while not done:
        plans = {}
        if killed < kills:
            at = random.choices(list(MOMENTS), [share for share, _ in MOMENTS.values()])[0]
            # Only the first worker writes.
            victim = 0 if at in ("hash", "fsync") else random.randrange(workers)
            after = random.uniform(0.0, 0.02) if at == "step" else 0
            count = random.randint(1, MOMENTS[at][1])
            plans = {victim: [{"signal": "SIGKILL", "at": at, "count": count, "after": after}]}
        done, now = supervised(folder / "killed", workers, plans)
        starts += 1
        made += now
        if not done:
            killed += 1
            moments[at] += 1
            chief += victim == 0
            print(f"  {workers} workers: killed worker {victim}, {at} {count}, after {now} steps", flush=True)
    worst = 0.0
    for worker in range(workers):
        one, other = (list(np.load(folder / name / f"{worker}.npz").values()) for name in ("whole", "killed"))
        for a, b in zip(one, other, strict=True):
            worst = max(worst, float(np.max(np.abs(a.astype("float64") - b.astype("float64")), initial=0.0)))
        histories = [json.loads((folder / name / f"{worker}.json").read_text()) for name in ("whole", "killed")]
        for name, values in histories[0].items():
            np.testing.assert_allclose(histories[1][name], values, rtol=max(TOLERANCE[workers], 1e-12), err_msg=name)
    where = ", ".join(f"{count} {at}" for at, count in moments.items())
    return [workers, killed, f"{chief} the first; {where}", starts - 1, steps, made, f"{worst:.1e}"], worst


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=7, help="For each number of workers.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    options = options.parse_args()
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for workers in options.workers:
            row, worst = soaked(
                pathlib.Path(folder) / str(workers), workers, options.kills, random.Random(f"{options.seed} {workers}")
            )
            rows.append(row)
            if worst > TOLERANCE[workers]:
                failed.append(workers)
    head = ["workers", "kills", "of which", "resumed", "steps", "steps made", "largest difference"]
    for row in [head, ["---"] * len(head), *rows]:
        print("|", " | ".join(map(str, row)), "|")
    sys.exit(f"Another state than unbroken, with workers: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
