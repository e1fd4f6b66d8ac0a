"""Writing a teacher's activations beside a data set."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import fingerprint, packing, shards
from keras_distill.cache.indexing import indexed, input_signature, split_element
from keras_distill.data.batch import Batch
from keras_distill.models.specs import trace
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import as_teacher


def label(
    teacher,
    dataset,
    directory,
    taps=(OUTPUT,),
    dtype="float32",
    top_k=None,
    views=None,
    batch_size=128,
    shard_bytes=2**26,
    version=None,
    verbose=1,
):
    """Runs a teacher once over a data set and keeps its activations on disk.

    ```python
    label(teacher, dataset, "cache")
    stored = cached("cache")
    distiller = Distiller(student=student, teacher=stored.teacher, terms=[Term(KLDivergence())])
    distiller.fit(stored.join(indexed(dataset).shuffle(10_000).batch(128)), epochs=10)
    ```

    Started again after it was interrupted, it goes on behind the last finished shard, and ends with the same bytes as
    if it never had been. A finished cache of the same teacher and settings is left alone.

    Args:
        teacher: As for `Distiller`.
        dataset: A `tf.data.Dataset` of single examples `x`, `(x, y)` or `(x, y, sample_weight)`, always in the same
            order; or such a tuple of arrays.
        directory: Where to, local or in a cloud storage that `etils.epath` knows.
        taps: What to keep, as `Taps` reads it.
        dtype: "float32", "float16" or "bfloat16", or one for each tap in a dictionary.
        top_k: How many classes of the "output" are kept, with their sum for the others, or one number for each tap in a
            dictionary; None keeps all. At temperature 1 nothing is lost for a `TopK` of that `k`; at others, and for
            losses of all classes, the others' probability is taken as shared out evenly.
        views: A `Views`, where the teacher shall see augmented examples, and the student the very same.
        batch_size: Examples that the teacher sees at once.
        shard_bytes: About the size of a shard, which is what an interruption loses at most. Defaults to 64 MiB.
        version: What tells this teacher from others, where its weights do not: of a function, or of preprocessing.
        verbose: 1 shows the size before it starts, and a progress bar; 0 is silent.

    Raises:
        ValueError: If the directory holds the activations of another teacher, data set, taps or dtypes.
        RuntimeError: If another process is writing there.
        OSError: As the file system says, such as for a full disk; finished shards stay.
    """
    teacher = as_teacher(teacher)
    dataset = indexed(dataset) if views is None else views.all_of(indexed(dataset))
    inputs = split_element(dataset.element_spec)[0]
    about = new_manifest(teacher, inputs, taps, dtype, top_k, 1 if views is None else views.count, version)
    with shards.write_lock(directory):
        manifest = begin(directory, about, shard_bytes, batch_size)
        _check_examples(directory, manifest, dataset)
        if not manifest["complete"]:
            _go_on(teacher, dataset, directory, manifest, batch_size, verbose)


def new_manifest(teacher, inputs, taps, dtype, top_k, views, version):
    """What a manifest says of a cache before there are shards.

    Args:
        teacher: A `Teacher`; it is connected to the taps.
        inputs: Structure of `tf.TensorSpec`, of one example.
        taps, dtype, top_k, version: As `label` takes them.
        views: How many of each example.

    Raises:
        ValueError: If taps, dtypes or numbers of classes do not fit the teacher.
    """
    teacher.connect(list(taps))
    batches = keras.tree.map_structure(lambda spec: tf.TensorSpec((None, *spec.shape), spec.dtype), inputs)
    specs = trace(lambda x: {tap: a for tap, a in teacher.activations(Batch(x)).items() if tap in taps}, batches)
    return {
        "format": shards.FORMAT,
        "teacher": fingerprint.of_teacher(teacher),
        "version": version,
        "inputs": input_signature(inputs),
        "views": views,
        "taps": packing.stored_taps({tap: specs[tap] for tap in taps}, dtype, top_k),
    }


def begin(directory, about, shard_bytes, batch_size):
    """The manifest that is there, if it is of the same, or a new one.

    Args:
        directory: Of the cache, which is there.
        about: What `about_cache` gave.
        shard_bytes: About the size of a shard.
        batch_size: Of which its length is a multiple.

    Raises:
        ValueError: If it is of something else.
    """
    manifest = shards.read_manifest(directory)
    if manifest is None:
        batches = max(1, shard_bytes // (packing.row_bytes(about["taps"]) * batch_size))
        manifest = {**about, "shard_examples": batches * batch_size, "shards": [], "complete": False}
        shards.write_manifest(directory, manifest)
    if not manifest["complete"] and manifest["shard_examples"] % batch_size:
        raise ValueError(
            f"'{directory}' was begun in shards of {manifest['shard_examples']} examples. Go on with the batch_size of "
            f"then, or another divisor of that. Received: batch_size={batch_size}"
        )
    differs = [
        f"{key} {manifest[key]!r} instead of {value!r}" for key, value in about.items() if manifest[key] != value
    ]
    if differs:
        raise ValueError(
            f"'{directory}' holds activations of something else: {', '.join(differs)}. Choose another directory."
        )
    return manifest


def teacher_function(teacher, taps):
    """A function that gives what is stored of a batch, `{name: array}`, of its inputs.

    Args:
        teacher: A `Teacher` that is connected.
        taps: The manifest's.
    """

    @tf.function(reduce_retracing=True)
    def speak(inputs):
        found = teacher.activations(Batch(inputs))
        packed = [packing.pack(tap, found[tap], about) for tap, about in taps.items()]
        return {name: tensor for arrays in packed for name, tensor in arrays.items()}

    return lambda inputs: {name: packing.bits(tensor) for name, tensor in speak(inputs).items()}


def _check_examples(directory, manifest, dataset):
    """Refuses to go on with, or to take for finished, a cache of other examples."""
    stored = [shards.open_array(directory, shard, shards.EXAMPLES) for shard in manifest["shards"]]
    if not stored:
        return
    stored = np.concatenate(stored)
    # One more, to see whether the data set goes on behind a finished cache.
    seen = dataset.take(len(stored) + manifest["complete"]).batch(1024)
    seen = np.concatenate([np.zeros(0, "int64"), *(split_element(element)[2].numpy() for element in seen)]).astype(
        stored.dtype
    )
    shorter = min(len(seen), len(stored))
    differs = np.flatnonzero(seen[:shorter] != stored[:shorter])
    if len(differs) or len(seen) != len(stored):
        first = differs[0] if len(differs) else shorter
        raise ValueError(
            f"'{directory}' holds activations of other examples: they differ at number {first}. Give the data set in "
            "the order in which it was labelled, or choose another directory."
        )


def _go_on(teacher, dataset, directory, manifest, batch_size, verbose):
    """Writes the shards that are not there yet."""
    done = sum(shard["examples"] for shard in manifest["shards"])
    count = int(dataset.cardinality())
    count = count if count > 0 else None
    if verbose:
        row = packing.row_bytes(manifest["taps"])
        size = f"{count * row / 2**20:,.1f} MiB for {count:,} examples" if count else "how many are not known yet"
        print(f"labelling into {directory}: {row:,} bytes an example, {size}; {done:,} are there")
    bar = keras.utils.Progbar(count, unit_name="example", verbose=verbose)
    bar.update(done)
    batches = _spoken(teacher, dataset.skip(done).batch(batch_size).prefetch(tf.data.AUTOTUNE), manifest["taps"], bar)
    while shard := list(itertools.islice(batches, manifest["shard_examples"] // batch_size)):
        arrays = {name: np.concatenate([batch[name] for batch in shard]) for name in shard[0]}
        manifest["shards"].append(shards.write_shard(directory, len(manifest["shards"]), arrays))
        shards.write_manifest(directory, manifest)
    if not manifest["shards"]:
        raise ValueError("The data set holds no example.")
    shards.write_manifest(directory, {**manifest, "complete": True})


def _spoken(teacher, batches, taps, bar):
    """What is stored of each batch, `{name: array}`, with the examples' fingerprints."""
    speak = teacher_function(teacher, taps)
    for element in batches:
        inputs, _, prints, _ = split_element(element)
        prints = prints.numpy().astype(packing.print_dtype(taps))
        yield speak(inputs) | {shards.EXAMPLES: prints}
        bar.add(len(prints))
