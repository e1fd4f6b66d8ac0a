"""Beam transform LabelWithTeacher: cache teacher outputs of large datasets on many machines."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import keras
import numpy as np
import tensorflow as tf
from apache_beam.utils import shared

from keras_distill.cache import fingerprint, labelling, packing, shards
from keras_distill.cache.arrays import ShardArray
from keras_distill.cache.manifest import EXAMPLES
from keras_distill.cache.teacher_outputs import teacher_function
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import as_teacher
from keras_distill.teachers.checks import check_finite_weights
from keras_distill.types import Structure


class LabelWithTeacher(beam.PTransform):
    """Transform that runs a teacher over a dataset on any Beam runner and writes its activations to a teacher cache.

    The cache has the same files as that of `label`: the teacher sees the same batches, in any order of the examples and
    with any number of workers.

    The input is a collection of pairs `(index, inputs)` in any order, with the indices 0, 1, 2 and so on, as
    `cache.indexed` numbers the examples. If an index arrives more than once, because Beam retried a step, it is stored
    once. The output is the directory, once the cache is complete.

    One worker writes each shard, atomically. Rerun the pipeline to resume an interrupted run: the teacher runs only on
    the examples of unfinished shards, and the other examples are compared with the stored fingerprints.

    Example:

    >>> import apache_beam as beam
    >>> from keras_distill.pipelines.beam import LabelWithTeacher
    >>> teacher.save("teacher.keras")
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     examples = pipeline | beam.Create(list(enumerate(x)))
    ...     _ = examples | LabelWithTeacher("teacher.keras", "cache", inputs=x[0])
    >>> stored = open_cache("cache")

    Args:
        teacher: Path of a `.keras` file, or a picklable function without arguments that returns a teacher for
            `Distiller`. Each worker process loads the teacher once.
        directory: Directory of the cache, local or in a cloud storage supported by `etils.epath`. All workers must be
            able to write to it.
        inputs: Inputs of one example, or a structure of `tf.TensorSpec` of one example.
        taps: Taps to store, as in `label`. Defaults to `("output",)`.
        dtype: "float32", "float16" or "bfloat16", or a dictionary `{tap: dtype}`. Defaults to "float32".
        top_k: Number of most probable classes to store at the tap "output", or a dictionary `{tap: number}`, as in
            `label`. 10 to 100 is typical for thousands of classes. Defaults to None: all classes.
        version: Version of the teacher, a string, for changes that its weights do not show, such as other
            preprocessing. Defaults to None.
        batch_size: Number of examples in a batch of the teacher, >= 1. Defaults to 128.
        shard_bytes: Approximate size of a shard in bytes. A worker holds one shard in memory, and loses at most one if
            it dies. Defaults to 64 MiB.

    Raises:
        ValueError: When the transform is applied, if the directory holds a cache of another teacher, other taps or
            other settings. When the pipeline runs, if an example is missing, arrives twice with different inputs, or
            differs from the example that is stored under its index.
    """

    def __init__(
        self,
        teacher: str | os.PathLike | Callable[[], Any],
        directory: str | os.PathLike,
        inputs: Structure,
        taps: Sequence[str] = (OUTPUT,),
        dtype: str | dict[str, str] = "float32",
        top_k: int | dict[str, int | None] | None = None,
        version: str | None = None,
        batch_size: int = 128,
        shard_bytes: int = 2**26,
    ):
        super().__init__()
        self._load = _TeacherLoader(teacher, list(taps))
        self._directory = os.fspath(directory)
        self._inputs = keras.tree.map_structure(_spec, inputs)
        self._settings = {"taps": list(taps), "dtype": dtype, "top_k": top_k, "views": 1, "version": version}
        self._sizes = {"shard_bytes": shard_bytes, "batch_size": batch_size}

    def expand(self, examples):
        directory = self._directory
        teacher = self._load()
        check_finite_weights(teacher)
        requested = labelling.new_manifest(teacher, self._inputs, **self._settings, **self._sizes)
        if requested.varies:
            shapes = {tap: stored.shape for tap, stored in requested.taps.items()}
            raise ValueError(
                f"LabelWithTeacher stores activations of fixed shape. Pad the examples to one length, or use `label`. "
                f"Received: taps {shapes}"
            )
        stored = shards.read_manifest(directory)
        is_finished = stored is not None and stored.complete
        with contextlib.nullcontext() if is_finished else shards.write_lock(directory):
            manifest = labelling.begin_or_resume(directory, requested, self._sizes["batch_size"])
        # A complete cache is only compared with the examples, so its batch size need not match. No batch may cross the
        # border between two of its shards, hence the common divisor.
        size = math.gcd(self._sizes["batch_size"], manifest.shard_examples)
        # Keys are integers, because Dask hashes other types differently in different processes. No step buffers
        # elements until the end of a bundle, because Dask would lose them.
        written = (
            examples
            | "Batch" >> beam.Map(_with_batch_number, size)
            | "GroupBatches" >> beam.GroupByKey()
            | "RunTeacher" >> beam.ParDo(_RunTeacher(self._load, self._inputs, directory, manifest, size))
            | "GroupShards" >> beam.GroupByKey()
            | "WriteShards" >> beam.Map(_write_shard, directory, manifest)
        )
        # The sentinel makes the last step run on an empty dataset, too, where it raises an error.
        sentinel = examples.pipeline | "Sentinel" >> beam.Create([(0, -1)])
        return (
            (written, sentinel)
            | "AddSentinel" >> beam.Flatten()
            | "GroupAll" >> beam.GroupByKey()
            | "Finish" >> beam.Map(_finish, directory, manifest)
        )


class _TeacherLoader:
    """Load a teacher. Pickled instead of the teacher itself."""

    def __init__(self, teacher, taps):
        self._teacher, self._taps = teacher, taps

    def __call__(self):
        teacher = as_teacher(self._teacher() if callable(self._teacher) else keras.saving.load_model(self._teacher))
        teacher.connect(self._taps)
        return teacher


class _RunTeacher(beam.DoFn):
    """Compute the teacher outputs of batches.

    The input is a batch with its number, `(batch, [(index, inputs), ...])`. The output is
    `(shard, (first row, arrays))`, or `(shard, None)` for a shard that is already written, so that the last step can
    count the shards.
    """

    def __init__(self, load, inputs, directory, manifest, batch_size):
        self._load, self._inputs, self._directory, self._manifest = load, inputs, directory, manifest
        self._batch_size = batch_size
        self._handle = shared.Shared()

    def setup(self):
        # One copy of the teacher in each process, whatever the number of its threads.
        self._runner = self._handle.acquire(lambda: _TeacherRunner(self._load(), self._inputs, self._manifest.taps))
        self._written = {}

    def process(self, grouped):
        batch, pairs = grouped
        pairs = sorted(pairs, key=lambda pair: pair[0])
        indices = np.array([index for index, _ in pairs])
        inputs = [keras.tree.map_structure(_to_array, self._inputs, example) for _, example in pairs]
        inputs = keras.tree.map_structure(lambda *leaves: np.stack(leaves), *inputs)
        prints = self._runner.fingerprints(inputs)
        # A retried step may deliver an example twice: keep the first one, and compare the others with it.
        indices, first, positions = np.unique(indices, return_index=True, return_inverse=True)
        _check_batch(batch * self._batch_size, indices, prints != prints[first][positions], positions)
        inputs, prints = keras.tree.map_structure(lambda leaf: leaf[first], inputs), prints[first]
        shard, row = divmod(batch * self._batch_size, self._manifest.shard_examples)
        written = self._written_fingerprints(shard)
        if written is None:
            yield shard, (row, self._runner.outputs(inputs, indices) | {EXAMPLES: prints})
        else:
            _check_written(indices, prints, written[row : row + len(prints)], self._directory)
            yield shard, None

    def _written_fingerprints(self, shard):
        """Return the fingerprints in a shard that existed when this worker first looked, or else None."""
        if shard not in self._written:
            entry = _read_entry(self._directory, shard, self._manifest)
            if entry is not None:
                self._written[shard] = ShardArray(self._directory, self._manifest, entry, EXAMPLES).all_rows()
            else:
                # A complete cache gets no more shards: an empty array makes the comparison fail.
                self._written[shard] = np.zeros(0, "uint8") if self._manifest.complete else None
        return self._written[shard]


class _TeacherRunner:
    """Teacher outputs of batches, packed for the cache, and fingerprints of their examples."""

    def __init__(self, teacher, inputs, taps):
        self._teacher = teacher_function(teacher, taps)
        self._dtype = packing.fingerprint_dtype(taps)
        self._fingerprints = tf.function(
            lambda inputs: tf.map_fn(fingerprint.of_example, inputs, fn_output_signature=tf.int64),
            input_signature=[
                keras.tree.map_structure(lambda spec: tf.TensorSpec((None, *spec.shape), spec.dtype), inputs)
            ],
        )

    def outputs(self, inputs, indices):
        return self._teacher(keras.tree.map_structure(tf.convert_to_tensor, inputs), indices)

    def fingerprints(self, inputs):
        return self._fingerprints(inputs).numpy().astype(self._dtype)


def _with_batch_number(example, size):
    index, inputs = example
    if index < 0:
        raise ValueError(f"The index of an example must be >= 0, as from `cache.indexed`. Received: {index}")
    return int(index) // size, (int(index), inputs)


def _write_shard(grouped, directory, manifest):
    """Write one shard unless it exists. Return its number, under one key for all shards."""
    shard, parts = grouped
    parts = sorted((part for part in parts if part is not None), key=lambda part: part[0])
    if parts and _read_entry(directory, shard, manifest) is None:
        end = 0
        for row, arrays in parts:
            if row != end:
                raise _missing_error(shard * manifest.shard_examples + end)
            end = row + len(arrays[EXAMPLES])
        arrays = {name: np.concatenate([arrays[name] for _, arrays in parts]) for name in parts[0][1]}
        entry = shards.write_shard(directory, shard, arrays, concurrent=True)
        shards.write_entry(directory, shard, entry, manifest)
    return 0, shard


def _finish(grouped, directory, manifest):
    """List all shards in the manifest, and return the directory."""
    last = max(grouped[1])
    if last < 0:
        raise ValueError("The dataset has no examples. Pass at least one pair `(index, inputs)`.")
    if manifest.complete:
        return directory
    entries = []
    for shard in range(last + 1):
        entry = _read_entry(directory, shard, manifest)
        num_examples = 0 if entry is None else entry.examples
        if num_examples < (1 if shard == last else manifest.shard_examples):
            raise _missing_error(shard * manifest.shard_examples + num_examples)
        entries.append(entry)
    shards.write_manifest(directory, dataclasses.replace(manifest, shards=tuple(entries), complete=True))
    shards.remove_entries(directory)
    return directory


def _read_entry(directory, shard, manifest):
    """Return a written shard's entry: from the manifest, or from a separate file written by this or an earlier run."""
    if shard < len(manifest.shards):
        return manifest.shards[shard]
    return shards.read_entry(directory, shard, manifest)


def _check_batch(start, indices, differs, positions):
    """Raise ValueError if two examples share an index, or an example before the last one is missing."""
    if differs.any():
        raise ValueError(
            f"Two different examples have the index {indices[positions[differs]][0]}. Give each example a unique index."
        )
    missing = np.flatnonzero(indices != start + np.arange(len(indices)))
    if len(missing):
        raise _missing_error(start + missing[0])


def _check_written(indices, prints, written, directory):
    """Raise ValueError if examples differ from those of a shard that is written."""
    same = prints[: len(written)] == written[: len(prints)]
    if len(prints) > len(written) or not same.all():
        wrong = indices[: len(same)][~same] if not same.all() else indices[len(same) :]
        raise ValueError(
            f"Example {wrong[0]} does not match its fingerprint in cache '{directory}'. Give the examples the same "
            "indices as in the first run, or choose another directory."
        )


def _missing_error(index):
    return ValueError(
        f"Example {index} is missing, but later ones exist. Number the examples 0, 1, 2 ... without gaps."
    )


def _spec(leaf):
    if isinstance(leaf, tf.TensorSpec):
        return leaf
    array = np.asarray(leaf)
    return tf.TensorSpec(array.shape, array.dtype)


def _to_array(spec, leaf):
    return np.asarray(leaf, spec.dtype.as_numpy_dtype)
