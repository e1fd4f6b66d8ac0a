"""A labelling by Beam whose workers may die: `python -m tests.support.labelling_run RUNNER FOLDER [DOOM]`.

RUNNER is "processes", Beam's own runner with two worker processes, or "dask", a cluster of two. With DOOM, "speak" or
"write", the first worker that comes to its fourth batch, or to its sixth file, kills itself with SIGKILL.
"""

import functools
import os
import pathlib
import signal
import sys

import apache_beam as beam
import keras
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from keras_distill.cache import shards
from keras_distill.pipelines.beam import LabelWithTeacher, _Speaking
from tests.support.helpers import data

SETTINGS = {"taps": ("output", "features"), "batch_size": 10, "shard_bytes": 2000}
DOOMS = {"none": None, "speak": (_Speaking, "__call__", 4), "write": (shards, "_replace", 6)}


def examples():
    return data(200)[0]


def teacher(folder, doom):
    """Loads it, in a worker that may have to die."""
    if DOOMS[doom] is not None:
        owner, name, last = DOOMS[doom]
        function, calls = getattr(owner, name), 0

        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            # Of several workers one dies, and only once.
            if calls == last and not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        setattr(owner, name, call)
    return keras.saving.load_model(folder / "teacher.keras")


def numbered(number):
    return number, examples()[number]


def main(runner, folder, doom="none"):
    if runner == "dask":
        from distributed import LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        options = ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"]
        options += [f"--dask_client_address={cluster.scheduler_address}", "--dask_partition_size=20"]
    else:
        options = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
        # Spares a look for a container.
        options += ["--sdk_container_image=unused"]
    x = examples()
    load = functools.partial(teacher, folder, doom)
    # In another order in every run.
    order = np.random.default_rng().permutation(len(x)).tolist()
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        _ = (
            pipeline
            | beam.Create(order)
            | beam.Map(numbered)
            | LabelWithTeacher(load, folder / "cache", x[0], **SETTINGS)
        )


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
