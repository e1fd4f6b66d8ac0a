"""Caching of a teacher's outputs for a dataset."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import fingerprint, packing, shards
from keras_distill.cache.arrays import ShardArray
from keras_distill.cache.examples import Examples
from keras_distill.cache.indexing import input_signature, split_element
from keras_distill.cache.lengths import LENGTHS, vary
from keras_distill.cache.manifest import ENGINES, EXAMPLES, KERAS, Manifest
from keras_distill.cache.onnx_engine import onnx_activations
from keras_distill.cache.teacher_outputs import teacher_function
from keras_distill.cache.views import Views
from keras_distill.data.batch import Batch
from keras_distill.models.specs import trace
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import Teacher, as_teacher
from keras_distill.teachers.checks import check_finite_weights
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_integer
from keras_distill.utils.progress import progress_bar


def label(
    teacher: Teacher | Callable,
    dataset: tf.data.Dataset | tuple,
    directory: str | os.PathLike,
    taps: Sequence[str] = (OUTPUT,),
    dtype: str | Mapping[str, str] = "float32",
    top_k: int | Mapping[str, int | None] | None = None,
    views: Views | None = None,
    batch_size: int = 128,
    shard_bytes: int = 2**26,
    version: str | None = None,
    verbose: int = 1,
    engine: str = KERAS,
) -> None:
    """Run a teacher once over a dataset and store its activations on disk.

    If labeling is interrupted, call `label` again with the same arguments: it resumes after the last finished shard,
    and writes the same bytes as an uninterrupted run. If the cache is complete, `label` only verifies that teacher,
    settings and examples are the same.

    Example:
    >>> label(teacher, (x, y), "cache", verbose=0)
    >>> teacher_cache = open_cache("cache")
    >>> distiller = Distiller(student=student, teacher=teacher_cache.teacher, terms=[Term(KLDivergence())])
    >>> dataset = teacher_cache.join(indexed((x, y)).shuffle(32).batch(16))

    `distiller.fit(dataset)` then trains without running the teacher.

    Args:
        teacher: `keras.Model`, function of a batch of inputs, or `Teacher`, as for `Distiller`.
        dataset: `tf.data.Dataset` of single examples `x`, `(x, y)` or `(x, y, sample_weight)`, not batched and always
            in the same order; or such a tuple of arrays.
        directory: Directory of the cache, local or in a cloud storage that `etils.epath` supports. It is created.
        taps: Activations to store, as `models.Taps` reads them. Each must have a fixed shape; only the first axis may
            have an unknown length, such as the tokens of texts, if it is that of the inputs: examples are then batched
            by `padded_batch`, and only their own positions are stored. Defaults to the model's output.
        dtype: Dtype of the stored floats, "float32", "float16" or "bfloat16", or a dictionary with one for each tap.
            float16 halves the size and suits logits. Defaults to "float32".
        top_k: Number of classes of the "output" that are stored, with the total probability of the others, from 1 to
            the number of classes less 1; or a dictionary with a number, or None, for each tap. 10 to 100 is typical
            for 1,000 classes or more. At temperature 1 the loss `TopK` of the same `k` is exact; for other
            temperatures and for losses of all classes, the remaining probability is distributed evenly among the
            other classes. `TopK` computes with the stored classes; losses such as `KLDivergence` with logits of all
            classes, within `Chunked` for a few tokens at a time. None stores all classes. Defaults to None.
        views: `Views`, to give teacher and student the same augmented examples. The views of a few examples are made
            twice, to check that they are repeatable. None labels the examples without augmentation. Defaults to None.
        batch_size: Number of examples per forward pass of the teacher, >= 1. Defaults to 128.
        shard_bytes: Approximate size of a shard in bytes, >= 1. An interruption loses at most one shard. Defaults to
            64 MiB.
        version: Any text that distinguishes this teacher from others where its weights do not, e.g. for a function or
            for the preprocessing. Defaults to None.
        verbose: 1 prints the size before labeling starts, and a progress bar; 0 is silent. Defaults to 1.
        engine: Runtime of the teacher, "keras" or "onnx". "onnx" exports a `keras.Model`, compares the activations of
            the first batch, and runs the teacher in ONNX Runtime on the CPU, with as many threads as TensorFlow. It is
            often faster there; see the guide "Caching". The manifest lists it: another engine does not resume the
            cache. Defaults to "keras".

    Raises:
        ValueError: If the directory holds a cache of another teacher, dataset or settings, or one that is corrupted or
            was written by keras_distill 0.1.0; if the dataset has no examples, or no end; if the teacher's weights or
            outputs contain NaN or infinity, or its outputs exceed the range of `dtype`; if `views` are not repeatable;
            if `taps`, `dtype`, `top_k`, `batch_size`, `shard_bytes` or `engine` are invalid; or if `engine` is "onnx"
            and the teacher cannot be exported, its activations differ, or a package is missing.
        RuntimeError: If another process is writing into the directory.
        OSError: As raised by the file system, e.g. if the disk is full. Finished shards are kept.
    """
    teacher = as_teacher(teacher)
    check_finite_weights(teacher)
    examples = Examples(dataset, views)
    num_views = 1 if views is None else views.count
    settings = taps, dtype, top_k, num_views, version, shard_bytes, batch_size, engine
    requested = new_manifest(teacher, examples.inputs, *settings)
    stored = shards.read_manifest(directory)
    # Reading needs no lock: a finished cache may be on a read-only file system.
    is_finished = stored is not None and stored.complete
    with contextlib.nullcontext() if is_finished else shards.write_lock(directory):
        # Before the manifest is written: the directory stays empty if the teacher cannot be exported.
        activations = None if is_finished else _activations(teacher, requested, examples, batch_size)
        manifest = begin_or_resume(directory, requested, batch_size)
        _check_examples(directory, manifest, examples)
        if not manifest.complete:
            encode = teacher_function(teacher, manifest.taps, activations)
            _write_missing_shards(encode, examples, directory, manifest, batch_size, verbose)


def new_manifest(
    teacher: Teacher,
    inputs: Structure,
    taps: Sequence[str],
    dtype: str | Mapping[str, str],
    top_k: int | Mapping[str, int | None] | None,
    views: int,
    version: str | None,
    shard_bytes: int,
    batch_size: int,
    engine: str = KERAS,
) -> Manifest:
    """Return the manifest of a cache without shards.

    Args:
        teacher: A `Teacher`; it is connected to the taps.
        inputs: Structure of `tf.TensorSpec` of one example.
        taps: Activations to store.
        dtype: Dtype of the stored floats, or a dictionary with one for each tap.
        top_k: Number of classes that are stored, or a dictionary with one for each tap, or None for all.
        views: Number of views per example, >= 1.
        version: Version of the teacher.
        shard_bytes: Approximate size of a shard.
        batch_size: Number of examples per forward pass; the number of examples per shard is a multiple of it.
        engine: Runtime of the teacher, one of `ENGINES`. Defaults to "keras".

    Raises:
        ValueError: If taps, dtypes or numbers are invalid, or do not fit the teacher.
    """
    check_integer(batch_size, "batch_size")
    check_integer(shard_bytes, "shard_bytes")
    if engine not in ENGINES:
        raise ValueError(f"`engine` must be one of {ENGINES}. Received: {engine!r}")
    teacher.connect(list(taps))
    batches = keras.tree.map_structure(lambda spec: tf.TensorSpec((None, *spec.shape), spec.dtype), inputs)
    specs = trace(lambda x: {tap: a for tap, a in teacher.activations(Batch(x)).items() if tap in taps}, batches)
    stored = packing.stored_taps({tap: specs[tap] for tap in taps}, dtype, top_k, lengths=vary(inputs))
    for name in {EXAMPLES, LENGTHS} & set(stored):
        raise ValueError(
            f"A cache stores another array under the name '{name}', so that no tap may have it. Rename the "
            f"layer: `model.get_layer('{name}').name = 'example_features'`."
        )
    shard_batches = max(1, shard_bytes // (packing.row_bytes(stored) * batch_size))
    return Manifest(
        teacher=fingerprint.of_teacher(teacher),
        version=version,
        inputs=input_signature(inputs),
        views=views,
        taps=stored,
        shard_examples=shard_batches * batch_size,
        engine=engine,
    )


def begin_or_resume(directory: str | os.PathLike, requested: Manifest, batch_size: int) -> Manifest:
    """Return the manifest of the cache to resume, or write the requested one if the directory has none.

    Args:
        directory: Directory of the cache; it exists.
        requested: Manifest without shards, as returned by `new_manifest`.
        batch_size: Number of examples per forward pass.

    Raises:
        ValueError: If the directory holds a cache with other settings, or one whose shards are
            not a multiple of `batch_size`.
    """
    manifest = shards.read_manifest(directory)
    if manifest is None:
        manifest = requested
        shards.write_manifest(directory, manifest)
    if not manifest.complete and manifest.shard_examples % batch_size:
        raise ValueError(
            f"The unfinished cache '{directory}' has shards of {manifest.shard_examples} examples. Resume it with a "
            f"`batch_size` that divides {manifest.shard_examples}. Received: {batch_size}"
        )
    settings, wanted = ({"engine": KERAS, **one.settings()} for one in (manifest, requested))
    differences = [
        f"{key} {settings[key]!r} instead of {value!r}" for key, value in wanted.items() if settings[key] != value
    ]
    if differences:
        raise ValueError(
            f"'{directory}' holds a cache with other settings: {', '.join(differences)}. Choose another directory."
        )
    return manifest


def _check_examples(directory: str | os.PathLike, manifest: Manifest, examples: Examples) -> None:
    """Raise if the finished shards hold other examples."""
    if not manifest.shards:
        return
    stored = np.concatenate([ShardArray(directory, manifest, shard, EXAMPLES).all_rows() for shard in manifest.shards])
    # A complete cache is compared with one example more, to detect a longer dataset.
    fingerprints = examples.fingerprints(len(stored) + manifest.complete).astype(stored.dtype)
    shorter = min(len(fingerprints), len(stored))
    different = np.flatnonzero(fingerprints[:shorter] != stored[:shorter])
    if len(different) or len(fingerprints) != len(stored):
        first = different[0] if len(different) else shorter
        raise ValueError(
            f"'{directory}' holds a cache of other examples: they differ from example {first} on. Pass the dataset in "
            "the order in which it was labeled, or choose another directory."
        )


def _activations(teacher, manifest, examples, batch_size):
    """Return the function of the engine for `teacher_function`; None for Keras."""
    if manifest.engine == KERAS:
        return None
    element, _ = next(examples.batches(0, batch_size), (None, None))
    sample = None if element is None else split_element(element)[0]
    return onnx_activations(teacher, manifest.taps, examples.inputs, sample)


def _write_missing_shards(
    encode: Callable[..., dict[str, np.ndarray]],
    examples: Examples,
    directory: str | os.PathLike,
    manifest: Manifest,
    batch_size: int,
    verbose: int,
) -> None:
    done, count = manifest.examples, examples.count
    if verbose:
        size = "unknown number of examples"
        if count:
            size = f"{count * manifest.row_bytes / 2**20:,.1f} MiB for {count:,} examples"
        print(f"Labeling into {directory}: {manifest.row_bytes:,} bytes per example, {size}; {done:,} examples done")
    progress = progress_bar(count, "example", verbose)
    progress.update(done)
    batches = _labeled_batches(encode, examples.batches(done, batch_size), manifest, progress)
    while shard := list(itertools.islice(batches, manifest.shard_examples // batch_size)):
        arrays = {name: np.concatenate([batch[name] for batch in shard]) for name in shard[0]}
        written = shards.write_shard(directory, len(manifest.shards), arrays)
        manifest = dataclasses.replace(manifest, shards=(*manifest.shards, written))
        shards.write_manifest(directory, manifest)
    if not manifest.shards:
        raise ValueError("The dataset holds no examples.")
    shards.write_manifest(directory, dataclasses.replace(manifest, complete=True))


def _labeled_batches(
    encode: Callable[..., dict[str, np.ndarray]], batches: Iterator[Any], manifest: Manifest, progress: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays to store for each batch, `{name: array}`, with the fingerprints of the examples."""
    for element, lengths in batches:
        inputs, index, fingerprints, _ = split_element(element)
        fingerprints = fingerprints.numpy().astype(packing.fingerprint_dtype(manifest.taps))
        # All views of an example count as the example.
        arrays = encode(inputs, index.numpy() // manifest.views, lengths) | {EXAMPLES: fingerprints}
        yield arrays | {LENGTHS: lengths.numpy()} if manifest.varies else arrays
        progress.add(len(fingerprints))
