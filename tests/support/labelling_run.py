"""Run LabelWithTeacher, and kill a worker on request: `python -m tests.support.labelling_run RUNNER FOLDER [FAILURE]`.

RUNNER is "processes", Beam's FnApiRunner with two worker processes, or "dask", a cluster with two workers. With the
FAILURE "run" or "write", the first worker that reaches its fourth batch, or its sixth file, kills itself with SIGKILL.
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
from keras_distill.pipelines.beam import LabelWithTeacher, _TeacherRunner
from tests.support.helpers import data

SETTINGS = {"taps": ("output", "features"), "batch_size": 10, "shard_bytes": 2000}
# The function that kills the worker, and the number of the call.
FAILURES = {"none": None, "run": (_TeacherRunner, "outputs", 4), "write": (shards, "_replace", 6)}


def examples():
    return data(200)[0]


def teacher(folder, failure):
    """Load the teacher in a worker. If a failure is given, kill the worker at that call."""
    if FAILURES[failure] is not None:
        owner, name, fatal_call = FAILURES[failure]
        function, calls = getattr(owner, name), 0

        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            # Kill only one worker, and only once.
            if calls == fatal_call and not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        setattr(owner, name, call)
    return keras.saving.load_model(folder / "teacher.keras")


def with_index(index):
    return index, examples()[index]


def main(runner, folder, failure="none"):
    if runner == "dask":
        from distributed import LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        options = ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"]
        options += [f"--dask_client_address={cluster.scheduler_address}", "--dask_partition_size=20"]
    else:
        options = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
        # Without this option, Beam requires a container image.
        options += ["--sdk_container_image=unused"]
    x = examples()
    load = functools.partial(teacher, folder, failure)
    # A different order in every run.
    order = np.random.default_rng().permutation(len(x)).tolist()
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        _ = (
            pipeline
            | beam.Create(order)
            | beam.Map(with_index)
            | LabelWithTeacher(load, folder / "cache", x[0], **SETTINGS)
        )


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
