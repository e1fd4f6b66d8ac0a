"""Teacher caches: joining stored activations with the examples they belong to."""

import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import fingerprint, packing, shards
from keras_distill.cache.arrays import ShardArray, file_error, is_usable
from keras_distill.cache.indexing import as_element, indexed, input_signature, is_indexed, split_element
from keras_distill.cache.lengths import LENGTHS, positions_of
from keras_distill.cache.manifest import EXAMPLES, Manifest
from keras_distill.cache.views import Views
from keras_distill.data.batch import with_activations, with_index
from keras_distill.teachers import Teacher, as_teacher
from keras_distill.types import Structure
from keras_distill.utils.progress import progress_bar


def open_cache(directory: str | os.PathLike, teacher: Teacher | Callable | None = None) -> "TeacherCache":
    """Open the teacher cache that `label` wrote.

    Example:
    >>> label(teacher, (x, y), "cache", verbose=0)
    >>> teacher_cache = open_cache("cache", teacher)
    >>> teacher_cache.examples
    32

    Args:
        directory: Directory of the cache, as passed to `label`.
        teacher: Teacher whose weights are compared with those of the teacher that labeled the dataset. None skips the
            comparison; the teacher is not needed otherwise. Defaults to None.

    Returns:
        A `TeacherCache`.

    Raises:
        ValueError: If the directory holds no complete cache, if a file of the cache is missing or corrupted, or if
            another teacher labeled the dataset.
    """
    manifest = shards.read_manifest(directory)
    if manifest is None or not manifest.complete:
        state, action = ("no cache", "") if manifest is None else ("an unfinished cache", " again, which resumes")
        raise ValueError(f"'{directory}' holds {state}. Run `label(teacher, dataset, '{directory}')`{action}.")
    if teacher is not None:
        found = fingerprint.of_teacher(as_teacher(teacher))
        if found != manifest.teacher:
            raise ValueError(
                f"'{directory}' holds a cache of another teacher: its teacher has the fingerprint {manifest.teacher}, "
                f"the given one {found}. Run `label(...)` again into another directory."
            )
    return TeacherCache(directory, manifest)


class TeacherCache:
    """Teacher activations on disk, opened by `open_cache`.

    Example:
    >>> label(teacher, (x, y), "cache", verbose=0)
    >>> teacher_cache = open_cache("cache")
    >>> distiller = Distiller(student=student, teacher=teacher_cache.teacher, terms=[Term(KLDivergence())])
    >>> dataset = teacher_cache.join(indexed((x, y)).shuffle(32).batch(16))

    `distiller.fit(dataset)` then trains without running the teacher.

    Attributes:
        directory: Directory of the cache.
        teacher: `CachedTeacher` to pass to a `Distiller`.
        taps: `{tap: tf.TensorSpec of one example}`.
        tops: `{tap: number of classes that are stored}` of the taps that were labeled with `top_k`.
        examples: Number of examples; every view counts.
        views: Number of views per example, 1 without augmentation.
        engine: Runtime that ran the teacher, "keras" or "onnx".

    Args:
        directory: Directory of the cache.
        manifest: `Manifest` of the cache; it is complete.

    Raises:
        ValueError: If a file of the cache is missing or corrupted.
    """

    def __init__(self, directory: str | os.PathLike, manifest: Manifest):
        self.directory = directory
        self.examples = manifest.examples
        self.views = manifest.views
        self.engine = manifest.engine
        self.taps = {tap: tf.TensorSpec(stored.shape, stored.dtype) for tap, stored in manifest.taps.items()}
        self.tops = {tap: stored.top_k for tap, stored in manifest.taps.items() if stored.top_k is not None}
        self.teacher = packing.cached_teacher(manifest.taps)
        self._manifest = manifest
        self._fields = packing.all_fields(manifest.taps)
        self._rows_of = manifest.rows()
        self._arrays = [
            {name: ShardArray(directory, manifest, shard, name) for name in shard.files} for shard in manifest.shards
        ]
        self._lengths = [arrays[LENGTHS].all_rows() for arrays in self._arrays] if manifest.varies else []
        for arrays, lengths, shard in zip(self._arrays, self._lengths, manifest.shards):
            if (lengths < 0).any() or lengths.sum() != shard.positions:
                raise file_error(arrays[LENGTHS].path, f"does not list the lengths of {shard.positions} positions")

    def __repr__(self):
        taps = ", ".join(f"'{tap}': {tuple(spec.shape)} {spec.dtype.name}" for tap, spec in self.taps.items())
        views = "" if self.views == 1 else f", {self.views} views each"
        return f"<TeacherCache '{self.directory}': {self.examples:,} examples{views}, taps {{{taps}}}>"

    def join(
        self, dataset: tf.data.Dataset | tuple, views: Views | None = None, seed: int | None = None
    ) -> tf.data.Dataset:
        """Add the teacher's activations to a dataset for `fit`.

        Joining after `batch` is faster than before it, since each batch is read at once. Activations of examples of
        different lengths are padded with zeros to the longest of a batch, as `padded_batch` pads the inputs.

        Args:
            dataset: The dataset that was labeled, with the same examples in the same order; or an `indexed` dataset
                that was shuffled, filtered, augmented or batched afterwards; or the tuple of arrays that was labeled.
            views: The `Views` that the dataset was labeled with: each example is replaced by one of its views, chosen
                at random in every epoch. The dataset must not be batched yet. Defaults to None.
            seed: Seed of the choice of views. None for another choice in every run. Defaults to None.

        Returns:
            A `tf.data.Dataset`.

        Raises:
            ValueError: If the number of views differs, or, for a dataset that is not indexed, if shapes or dtypes of
                the examples differ from those that were labeled. An example that was not labeled raises
                `tf.errors.InvalidArgumentError` while the dataset is read.
        """
        if not isinstance(dataset, tf.data.Dataset) or not is_indexed(dataset):
            dataset = self._indexed(dataset)
        num_views = 1 if views is None else views.count
        if num_views != self.views:
            raise ValueError(
                f"'{self.directory}' holds {self.views} views of each example. Pass the `views` that the dataset was "
                f"labeled with. Received: {views}"
            )
        if views is not None:
            if split_element(dataset.element_spec)[1].shape.rank:
                raise ValueError(
                    "Views are generated from single examples, but the dataset is batched. Join first, then batch: "
                    "`teacher_cache.join(dataset, views=views).batch(128)`."
                )
            dataset = views.one_of(dataset, seed)
        return dataset.map(self._joined, num_parallel_calls=tf.data.AUTOTUNE)

    def load(self, inputs: Structure) -> Structure:
        """Return the inputs with the teacher's activations as arrays in memory, for `fit(teacher_cache.load(x), y)`.

        Args:
            inputs: Structure of arrays of shape `[examples, ...]`: the examples that were labeled, or the first of
                them, in the same order.

        Returns:
            The same as `with_activations(inputs, activations)`.

        Raises:
            ValueError: If the cache holds several views of each example or examples of different lengths, or if an
                example is not the one that was labeled, e.g. of another shape or in another order.
        """
        if self.views != 1:
            raise ValueError(
                f"'{self.directory}' holds {self.views} views of each example, of which `load` cannot choose. Use "
                "`join(dataset, views=views)`."
            )
        if self._manifest.varies:
            raise ValueError(
                f"'{self.directory}' holds examples of different lengths. Use `join(dataset)`, then `padded_batch`."
            )
        first = keras.tree.map_structure(lambda array: array[:1], inputs)
        self._check_signature(tf.data.Dataset.from_tensor_slices((first,)).element_spec[0])
        fingerprints = fingerprint.of_examples(inputs)
        activations = self._decoded(self._rows(np.arange(len(fingerprints)), fingerprints))
        return with_activations(inputs, keras.tree.map_structure(np.asarray, activations))

    def check_values(self) -> None:
        """Read all activations of the cache, and look for values that no loss can use.

        Raises:
            ValueError: If an activation is NaN or +infinity. The error names the example.
            OSError: If the file system fails.
        """
        for number, arrays in enumerate(self._arrays):
            for name, spec in self._fields.items():
                row = arrays[name].find_unusable(spec.dtype)
                if row is not None:
                    if spec.shape[:1] == [None]:
                        row = int(np.searchsorted(np.cumsum(self._lengths[number]), row, side="right"))
                    raise self._unusable_error(name, number * self._manifest.shard_examples + row)

    def verify(self, verbose: int = 0) -> None:
        """Read all files of the cache: compare them with the checksums that `label` stored, and check the values.

        Args:
            verbose: 1 shows a progress bar, 0 is silent. Defaults to 0.

        Raises:
            ValueError: If a file is missing or has changed, or an activation is NaN or +infinity.
        """
        progress = progress_bar(len(self._manifest.shards), "shard", verbose)
        for shard in self._manifest.shards:
            shards.verify_checksums(self.directory, shard)
            progress.add(1)
        self.check_values()

    def _indexed(self, dataset):
        dataset = indexed(dataset)
        self._check_signature(split_element(dataset.element_spec)[0])
        return dataset

    def _check_signature(self, inputs):
        signature = input_signature(inputs)
        if signature != self._manifest.inputs:
            raise ValueError(
                f"The examples of the dataset are {signature}, but those of the cache '{self.directory}' are "
                f"{self._manifest.inputs}. Index the dataset before it is batched or changed: "
                "`teacher_cache.join(indexed(dataset).batch(128))`."
            )

    def _joined(self, *element):
        inputs, index, fingerprints, rest = split_element(as_element(element))
        dtypes = [tf.as_dtype(self._rows_of[name][0]) for name in self._fields]
        rows = tf.numpy_function(self._rows, [index, fingerprints], dtypes, stateful=False)
        for spec, tensor in zip(self._fields.values(), rows):
            tensor.set_shape((*index.shape, *spec.shape))
        joined = with_index(with_activations(inputs, self._decoded(rows)), index)
        return (joined, *rest) if rest else joined

    def _decoded(self, rows):
        """Return `{tap: activation}` of the stored rows."""
        tensors = {
            name: tf.bitcast(values, tf.bfloat16) if spec.dtype == tf.bfloat16 else values
            for (name, spec), values in zip(self._fields.items(), rows)
        }
        return {tap: stored.decode(tap, tensors) for tap, stored in self._manifest.taps.items()}

    def _rows(self, index, fingerprints):
        """Return the stored rows of these examples as NumPy arrays, for a scalar index or a vector of a batch."""
        index, fingerprints = np.asarray(index), np.asarray(fingerprints)
        flat = index.reshape(-1)
        missing = flat[(flat < 0) | (flat >= self.examples)]
        if len(missing):
            raise ValueError(
                f"The cache '{self.directory}' holds {self.examples} examples, but the dataset has an example "
                f"{missing[0]}. Run `label(...)` for this dataset into another directory."
            )
        stored = self._gather(EXAMPLES, flat)
        different = np.flatnonzero(stored != fingerprints.reshape(-1).astype(stored.dtype))
        if len(different):
            raise ValueError(
                f"Example {flat[different[0]]} does not match its fingerprint in cache '{self.directory}'. If the "
                "dataset is shuffled, filtered or changed, call `indexed(dataset)` before that; else run `label(...)` "
                "for this dataset into another directory."
            )
        rows = {name: self._gather(name, flat) for name in self._fields}
        for name, spec in self._fields.items():
            usable = is_usable(rows[name], spec.dtype)
            if not usable.all():
                raise self._unusable_error(name, int(flat[np.argmin(usable)]))
        return [rows[name].reshape(*index.shape, *rows[name].shape[1:]) for name in self._fields]

    def _gather(self, name, index):
        shard, row = np.divmod(index, self._manifest.shard_examples)
        dtype, shape = self._rows_of[name]
        if shape[:1] == (None,):
            return self._gather_positions(name, shard, row)
        if len(self._arrays) == 1:
            return self._arrays[0][name].rows(index)
        rows = np.empty((len(index), *shape), dtype)
        for number in np.unique(shard):
            in_shard = shard == number
            rows[in_shard] = self._arrays[number][name].rows(row[in_shard])
        return rows

    def _gather_positions(self, name, shard, row):
        """Return the positions of examples of different lengths, padded to the longest."""
        dtype, shape = self._rows_of[name]
        lengths = np.array([self._lengths[number][one] for number, one in zip(shard, row)], int)
        counted = np.arange(max(lengths, default=0)) < lengths[:, None]
        rows = np.zeros((*counted.shape, *shape[1:]), dtype)
        for number in np.unique(shard):
            in_shard = shard == number
            positions = positions_of(row[in_shard], self._lengths[number])
            rows[in_shard[:, None] & counted] = self._arrays[number][name].rows(positions)
        return rows

    def _unusable_error(self, name, index):
        shard, row = divmod(index, self._manifest.shard_examples)
        return file_error(
            self._arrays[shard][name].path, f"holds NaN or infinity in the activations of example {index} (row {row})"
        )
