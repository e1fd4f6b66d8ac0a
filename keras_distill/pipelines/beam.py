"""LabelWithTeacher: `label` for data sets that take many machines."""

import dataclasses
import math
import os

import apache_beam as beam
import keras
import numpy as np
import tensorflow as tf
from apache_beam.utils import shared

from keras_distill.cache import fingerprint, labelling, packing, shards
from keras_distill.cache.shards import EXAMPLES
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import as_teacher


class LabelWithTeacher(beam.PTransform):
    """Runs a teacher over examples on any runner of Beam, and keeps its activations as `label` does.

    ```python
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(range(len(x)))
            | beam.Map(lambda number: (number, x[number]))
            | LabelWithTeacher("teacher.keras", "cache", inputs=x[0])
        )
    stored = cached("cache")
    ```

    Takes pairs `(number, inputs)` in any order: the numbers that `cache.indexed` gives the examples, 0, 1, 2 and so on.
    An example that comes twice, as from a source that was asked again, is kept once. The teacher sees the same batches
    as in `label`, whatever the order and the number of workers; each shard is written by one of these, as a whole or
    not at all. Started again after it was killed, it asks the teacher about the examples of unfinished shards only, and
    compares the others with what was labelled.

    Gives the directory, once the cache is finished.

    Args:
        teacher: Path of a `.keras` file, or a function without arguments that gives what a `Distiller` takes as a
            teacher. Each process of a worker loads it once.
        directory: Where to: one that all workers reach, local or in a cloud storage that `etils.epath` knows.
        inputs: An example's inputs, or a structure of `tf.TensorSpec` of them.
        taps, dtype, top_k, version: As for `label`.
        batch_size: Examples that the teacher sees at once.
        shard_bytes: About the size of a shard, which is what a worker holds in memory, and what its death loses.
            Defaults to 64 MiB.

    Raises:
        ValueError: When the pipeline is made, if the directory holds activations of something else. When it runs, for
            an example that is missing, that comes twice with other inputs, or that is not what was labelled before.
    """

    def __init__(
        self,
        teacher,
        directory,
        inputs,
        taps=(OUTPUT,),
        dtype="float32",
        top_k=None,
        version=None,
        batch_size=128,
        shard_bytes=2**26,
    ):
        super().__init__()
        self._load = _Load(teacher, list(taps))
        self._directory = os.fspath(directory)
        self._inputs = keras.tree.map_structure(_spec, inputs)
        self._kept = {"taps": list(taps), "dtype": dtype, "top_k": top_k, "views": 1, "version": version}
        self._sizes = {"shard_bytes": shard_bytes, "batch_size": batch_size}

    def expand(self, examples):
        directory = self._directory
        requested = labelling.new_manifest(self._load(), self._inputs, **self._kept, **self._sizes)
        with shards.write_lock(directory):
            manifest = labelling.begin_or_resume(directory, requested, self._sizes["batch_size"])
        # A finished cache is only compared, by batches of any size: none may lie across two of its shards.
        size = math.gcd(self._sizes["batch_size"], manifest.shard_examples)
        # Keys are integers: Dask takes others for different ones in different processes. And no step waits for the end
        # of a bundle to put out what it holds: Dask would lose it.
        written = (
            examples
            | "Batch" >> beam.Map(_in_batch, size)
            | "Batches" >> beam.GroupByKey()
            | "Ask" >> beam.ParDo(_Ask(self._load, self._inputs, directory, manifest, size))
            | "Shards" >> beam.GroupByKey()
            | "Write" >> beam.Map(_written, directory, manifest)
        )
        # Without examples, too, there is an end.
        none = examples.pipeline | "None" >> beam.Create([(0, -1)])
        return (
            (written, none)
            | "End" >> beam.Flatten()
            | "All" >> beam.GroupByKey()
            | "Finish" >> beam.Map(_finished, directory, manifest)
        )


class _Load:
    """Loads a teacher; pickled in place of it."""

    def __init__(self, teacher, taps):
        self._teacher, self._taps = teacher, taps

    def __call__(self):
        made = self._teacher() if callable(self._teacher) else keras.saving.load_model(self._teacher)
        teacher = as_teacher(made)
        teacher.connect(self._taps)
        return teacher


class _Ask(beam.DoFn):
    """All of a batch's `(number, inputs)` in; `(shard, (first row, rows))` out, of what the teacher says of them.

    Of a shard that is written the number alone comes out: in the end it is asked whether all are there.
    """

    def __init__(self, load, inputs, directory, manifest, batch_size):
        self._load, self._inputs, self._directory, self._manifest = load, inputs, directory, manifest
        self._batch_size = batch_size
        self._handle = shared.Shared()

    def setup(self):
        # One copy of the teacher in each process, whatever the number of its threads.
        self._speaking = self._handle.acquire(lambda: _Speaking(self._load(), self._inputs, self._manifest.taps))
        self._done = {}

    def process(self, grouped):
        batch, pairs = grouped
        pairs = sorted(pairs, key=lambda pair: pair[0])
        numbers = np.array([number for number, _ in pairs])
        inputs = [keras.tree.map_structure(_as, self._inputs, example) for _, example in pairs]
        inputs = keras.tree.map_structure(lambda *leaves: np.stack(leaves), *inputs)
        prints = self._speaking.prints(inputs)
        numbers, first, which = np.unique(numbers, return_index=True, return_inverse=True)
        _check_batch(batch * self._batch_size, numbers, prints != prints[first][which], which)
        inputs, prints = keras.tree.map_structure(lambda leaf: leaf[first], inputs), prints[first]
        shard, row = divmod(batch * self._batch_size, self._manifest.shard_examples)
        written = self._written(shard)
        if written is None:
            yield shard, (row, self._speaking(inputs) | {EXAMPLES: prints})
        else:
            _check_written(numbers, prints, written[row : row + len(prints)], self._directory)
            yield shard, None

    def _written(self, shard):
        """The fingerprints in a shard that was there when this worker first heard of it; None if it was not."""
        if shard not in self._done:
            entry = _entry(self._directory, shard, self._manifest)
            if entry is not None:
                self._done[shard] = shards.open_array(self._directory, entry, EXAMPLES)
            else:
                # Nothing is added to what is complete.
                self._done[shard] = np.zeros(0, "uint8") if self._manifest.complete else None
        return self._done[shard]


class _Speaking:
    """What a teacher says of batches, and the fingerprints of their examples."""

    def __init__(self, teacher, inputs, taps):
        self._speak = labelling.teacher_function(teacher, taps)
        self._dtype = packing.fingerprint_dtype(taps)
        self._prints = tf.function(
            lambda inputs: tf.map_fn(fingerprint.of_example, inputs, fn_output_signature=tf.int64),
            input_signature=[
                keras.tree.map_structure(lambda spec: tf.TensorSpec((None, *spec.shape), spec.dtype), inputs)
            ],
        )

    def __call__(self, inputs):
        return self._speak(keras.tree.map_structure(tf.convert_to_tensor, inputs))

    def prints(self, inputs):
        return self._prints(inputs).numpy().astype(self._dtype)


def _in_batch(example, size):
    number, inputs = example
    if number < 0:
        raise ValueError(f"Examples are numbered from 0 on, as `cache.indexed` does. Received: {number}.")
    return int(number) // size, (int(number), inputs)


def _written(grouped, directory, manifest):
    """Writes one shard, unless it is there; returns its number under one key for all."""
    shard, parts = grouped
    parts = sorted((part for part in parts if part is not None), key=lambda part: part[0])
    if parts and _entry(directory, shard, manifest) is None:
        end = 0
        for row, arrays in parts:
            if row != end:
                raise _missing(shard * manifest.shard_examples + end)
            end = row + len(arrays[EXAMPLES])
        arrays = {name: np.concatenate([arrays[name] for _, arrays in parts]) for name in parts[0][1]}
        entry = shards.write_shard(directory, shard, arrays, concurrent=True)
        shards.write_entry(directory, shard, entry, manifest)
    return 0, shard


def _finished(grouped, directory, manifest):
    """Enters all shards in the manifest, and returns the directory."""
    last = max(grouped[1])
    if last < 0:
        raise ValueError("There were no examples to label.")
    if manifest.complete:
        return directory
    entries = []
    for shard in range(last + 1):
        entry = _entry(directory, shard, manifest)
        there = 0 if entry is None else entry.examples
        if there < (1 if shard == last else manifest.shard_examples):
            raise _missing(shard * manifest.shard_examples + there)
        entries.append(entry)
    shards.write_manifest(directory, dataclasses.replace(manifest, shards=tuple(entries), complete=True))
    shards.remove_entries(directory)
    return directory


def _entry(directory, shard, manifest):
    """A shard's entry if it is written: from the manifest, or kept apart since this run or an earlier one."""
    if shard < len(manifest.shards):
        return manifest.shards[shard]
    return shards.read_entry(directory, shard, manifest)


def _check_batch(start, numbers, differ, which):
    """Refuses a batch in which examples are missing before the last, or which has two under one number."""
    if differ.any():
        raise ValueError(
            f"Two different examples came as number {numbers[which[differ]][0]}. Give each a number of its own."
        )
    missing = np.flatnonzero(numbers != start + np.arange(len(numbers)))
    if len(missing):
        raise _missing(start + missing[0])


def _check_written(numbers, prints, written, directory):
    """Refuses examples that are not those of a shard that is written."""
    same = prints[: len(written)] == written[: len(prints)]
    if len(prints) > len(written) or not same.all():
        wrong = numbers[: len(same)][~same] if not same.all() else numbers[len(same) :]
        raise ValueError(
            f"Example {wrong[0]} is not one that was labelled in '{directory}'. Give the examples the numbers that "
            "they had then, or choose another directory."
        )


def _missing(number):
    return ValueError(f"Example {number} is missing, but later ones came. Number them from 0 on, as `cache.indexed`.")


def _spec(leaf):
    if isinstance(leaf, tf.TensorSpec):
        return leaf
    array = np.asarray(leaf)
    return tf.TensorSpec(array.shape, array.dtype)


def _as(spec, leaf):
    return np.asarray(leaf, spec.dtype.as_numpy_dtype)
