"""Training and validation examples of `check` and `distill`."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import TeacherCache, indexed, label, open_cache
from keras_distill.cache.indexing import as_element, split_element
from keras_distill.cache.shards import read_manifest
from keras_distill.data.datasets import has_splits
from keras_distill.data.labels import UNLABELLED

from .common import CommandError
from .labels import class_error, invalid_classes, label_kind
from .reading import examples

if TYPE_CHECKING:
    from .job import DistillationJob

# Memory of the shuffle buffer; datasets that fit into it are shuffled uniformly.
_SHUFFLE_BYTES = 2**30
# Examples that are checked at once.
_CHECKED = 256


class Data:
    """Training and validation examples, and the teacher or a cache of its outputs.

    Attributes:
        teacher: Teacher of a `Distiller`: the model, or its cache.
        labels: "integer", "one-hot", or None if the dataset has no labels.
        num_training: Number of training examples.
        num_validation: Number of validation examples.

    Args:
        options: Options of the command.
        job: Models and terms.
        validation: Fraction of the dataset to split off, or the name of a split or of another dataset. Defaults to 0.0,
            no validation.

    Raises:
        CommandError: If a dataset is empty or too small, or labels or the validation dataset do not fit.
        ValueError: If a dataset cannot be opened, or does not fit the models.
    """

    def __init__(self, options: argparse.Namespace, job: "DistillationJob", validation: float | str = 0.0):
        self._batch_size = options.batch_size
        self._source = options.dataset
        self._job = job
        self.teacher = job.teacher
        models = job.student, job.teacher
        dataset = examples(options, *models)
        self.labels = label_kind(options.dataset, dataset.element_spec, job.classes)
        self._training = self._whole = _check_not_empty(indexed(dataset), options.dataset)
        # `_other` is the validation dataset if it is not a part of `_whole`.
        self._validation, self._other = self._training.take(0), None
        if isinstance(validation, str):
            other = _validation_examples(options, validation, *models)
            if other.element_spec != dataset.element_spec:
                raise CommandError(
                    f"examples of --validation={validation} are {other.element_spec}, but those of {options.dataset} "
                    f"are {dataset.element_spec}. Shapes and dtypes must be equal."
                )
            self._validation = self._other = _check_not_empty(indexed(other), validation)
        elif validation:
            self._training, self._validation = _split(self._whole, validation, options.dataset)
        self.num_training, self.num_validation = num_examples(self._training), num_examples(self._validation)
        self._shuffle_buffer = min(self.num_training, max(_SHUFFLE_BYTES // _num_bytes(dataset.element_spec), 1))
        self._stored = self._stored_validation = None

    def check_cache(self, directory: str) -> None:
        """Raise an error for a finished cache that cannot be used. A new or unfinished one passes.

        Args:
            directory: Directory of the cache.

        Raises:
            CommandError: If it is a file.
            ValueError: If the cache is corrupted, contains NaN or infinity, or is of another teacher.
        """
        if pathlib.Path(directory).is_file():
            raise CommandError(f"--cache={directory} is a file, not a directory. Choose another --cache.")
        manifest = read_manifest(directory)
        if manifest is not None and manifest.complete:
            open_cache(directory, self._job.teacher).check_values()

    def check_labels(self) -> None:
        """Read all training examples, and raise CommandError for a class index that is not a class of the student."""
        if self.labels != "integer":
            return
        for element in self._training.batch(_CHECKED).prefetch(tf.data.AUTOTUNE):
            _, index, _, (labels, *_) = split_element(element)
            invalid = invalid_classes(labels.numpy(), self._job.classes)
            if invalid.any():
                position = int(np.argmax(invalid))
                raise class_error(
                    labels.numpy().reshape(len(labels))[position],
                    f"example {int(index[position])} of {self._source}",
                    self._job.classes,
                )

    def describe_non_finite(self) -> str:
        """Return a sentence that names the first training example with NaN or infinity in its inputs, or ""."""
        for element in self._training.batch(_CHECKED):
            inputs, index, _, _ = split_element(element)
            for leaf in keras.tree.flatten(inputs):
                if leaf.dtype.is_floating:
                    finite = tf.reduce_all(tf.math.is_finite(tf.reshape(leaf, (len(leaf), -1))), axis=1).numpy()
                    if not finite.all():
                        example = int(index[int(np.argmin(finite))])
                        return f"Example {example} of {self._source} has NaN or infinity in its inputs."
        return ""

    def use_cache(self, directory: str, validation_directory: pathlib.Path) -> None:
        """Read the teacher's outputs from a cache. It is written first if it does not exist.

        Args:
            directory: Directory of the cache.
            validation_directory: Directory of the cache for a validation dataset that is not a part of `--dataset`.

        Raises:
            CommandError: If the cache has other taps.
            ValueError: If the cache is of another teacher or dataset.
        """
        manifest = read_manifest(directory)
        stored_taps = {} if manifest is None else manifest.taps
        missing = [tap for tap in self._job.taps if stored_taps and tap not in stored_taps]
        if missing:
            taps = " ".join(f"--tap='{tap}'" for tap in self._job.taps)
            raise CommandError(
                f"the cache {directory} contains {list(stored_taps)}, but not {missing}. Run `keras-distill label` "
                f"with {taps} and another --out, or choose another --cache."
            )
        kept = {
            "taps": list(stored_taps) or self._job.taps,
            "dtype": {tap: stored.dtype for tap, stored in stored_taps.items()} or "float32",
            "top_k": {tap: stored.top_k for tap, stored in stored_taps.items() if stored.top_k is not None} or None,
        }
        # `label` only compares a finished cache with the teacher and the examples.
        finished = manifest is not None and manifest.complete
        label(self._job.teacher, self._whole, directory, **kept, verbose=int(not finished))
        self._stored = self._stored_validation = open_cache(directory, self._job.teacher)
        if not finished:
            # Some shards may be those of an earlier process.
            self._stored.check_values()
        if self._other is not None:
            label(self._job.teacher, self._other, validation_directory, **kept, verbose=0)
            self._stored_validation = open_cache(validation_directory, self._job.teacher)
        self.teacher = self._stored.teacher

    def batches(self, seed: Any = None, with_teacher: bool = True) -> tf.data.Dataset:
        """Return the training examples in batches.

        Args:
            seed: Seed of the order, a scalar int64 tensor or an integer. None for the order of the dataset. Defaults to
                None.
            with_teacher: Whether the batches contain the teacher's outputs from the cache, if there is one. Defaults to
                True.
        """
        dataset = self._training if seed is None else self._training.shuffle(self._shuffle_buffer, seed=seed)
        return self._with_indices(self._batched(dataset, self._stored if with_teacher else None))

    def validation_batches(self, with_teacher: bool = True) -> tf.data.Dataset | None:
        """Return the validation examples in batches, or None if there are none.

        Args:
            with_teacher: As for `batches`. Defaults to True.
        """
        if not self.num_validation:
            return None
        return self._with_indices(self._batched(self._validation, self._stored_validation if with_teacher else None))

    def validation_arrays(self) -> tuple[Any, np.ndarray | None]:
        """Return the validation examples in memory, without those that have no label.

        Returns:
            Structure of inputs, and class indices of shape `[examples]`, or None if the dataset has no labels.

        Raises:
            CommandError: If no example has a label, or a label is out of range.
        """
        elements = [
            element if isinstance(element, tuple) else (element, None)
            for element in self._batched(self._validation, None).as_numpy_iterator()
        ]
        inputs = keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *(batch_inputs for batch_inputs, _ in elements)
        )
        if self.labels is None:
            return inputs, None
        labels = np.concatenate([batch_labels for _, batch_labels in elements])
        indices = labels.argmax(-1) if self.labels == "one-hot" else labels.reshape(len(labels))
        is_labeled = ~np.isnan(labels).reshape(len(labels), -1).any(-1) & (indices != UNLABELLED)
        indices = indices[is_labeled]
        if not len(indices):
            raise CommandError("no validation example has a label. Choose another --validation.")
        invalid = invalid_classes(indices, self._job.classes)
        if invalid.any():
            raise class_error(indices[np.argmax(invalid)], "a validation example", self._job.classes)
        indices = indices.astype("int64")
        return keras.tree.map_structure(lambda array: array[is_labeled], inputs), indices

    def _batched(self, dataset: tf.data.Dataset, stored: TeacherCache | None) -> tf.data.Dataset:
        dataset = dataset.batch(self._batch_size)
        if stored is None:
            dataset = dataset.map(_without_index, num_parallel_calls=tf.data.AUTOTUNE)
        else:
            dataset = stored.join(dataset)
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _with_indices(self, dataset):
        return dataset.map(_with_class_indices) if self.labels == "integer" else dataset


def _check_not_empty(dataset: tf.data.Dataset, source: str) -> tf.data.Dataset:
    if not num_examples(dataset):
        raise CommandError(f"{source} holds no examples.")
    return dataset


def _validation_examples(options: argparse.Namespace, name: str, *models: keras.Model) -> tf.data.Dataset:
    """Open the dataset that `--validation` names: another source, or another split."""
    path = pathlib.Path(name).expanduser()
    if path.exists() or path.suffix in (".npy", ".npz"):
        return examples(options, *models, source=name)
    if not has_splits(options.dataset):
        raise CommandError(
            f"--validation={name} is neither a fraction such as 0.1 nor an existing dataset, and {options.dataset} has "
            "no splits. Pass a fraction, or the path of a .npy/.npz file or directory."
        )
    return examples(options, *models, split=name)


def num_examples(dataset: tf.data.Dataset) -> int:
    """Count the examples of a dataset, by reading it if its cardinality is unknown."""
    length = int(dataset.cardinality())
    return length if length >= 0 else int(dataset.reduce(np.int64(0), lambda count, *element: count + 1))


def _split(dataset: tf.data.Dataset, fraction: float, source: str) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Split off a random fraction for validation.

    The split does not depend on `--seed`, so that runs with different seeds are evaluated on the same examples. It is
    random, since image directories are read class by class.
    """
    count = num_examples(dataset)
    num_validation = round(fraction * count)
    if not 0 < num_validation < count:
        raise CommandError(
            f"{source} has {count} examples: a validation split of {fraction:g} leaves none for validation or for "
            "training. Choose another --validation."
        )
    in_validation = np.zeros(count, bool)
    in_validation[np.random.default_rng(0).permutation(count)[:num_validation]] = True
    return _select(dataset, ~in_validation), _select(dataset, in_validation)


def _select(dataset: tf.data.Dataset, is_selected: np.ndarray) -> tf.data.Dataset:
    mask = tf.constant(is_selected)
    selected = dataset.filter(lambda *element: mask[split_element(as_element(element))[1]])
    return selected.apply(tf.data.experimental.assert_cardinality(int(is_selected.sum())))


def _without_index(*element: Any) -> Any:
    """Return inputs and labels of an element of an indexed dataset."""
    inputs, _, _, rest = split_element(as_element(element))
    return (inputs, *rest) if rest else inputs


def _with_class_indices(inputs: Any, labels: tf.Tensor, *rest: Any) -> Any:
    """Cast labels in a floating-point dtype to integers, NaN to a missing label."""
    if labels.dtype.is_floating:
        labels = tf.cast(tf.where(tf.math.is_nan(labels), float(UNLABELLED), tf.cast(labels, "float32")), "int32")
    return (inputs, labels, *rest)


def _num_bytes(spec: Any) -> int:
    """Return the approximate size of an example; 1 MiB is assumed for tensors of unknown shape, such as images."""
    return sum(
        leaf.shape.num_elements() * leaf.dtype.size if leaf.shape.is_fully_defined() and leaf.dtype.size else 2**20
        for leaf in keras.tree.flatten(spec)
    )
