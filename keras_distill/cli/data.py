"""What a student learns from, and what is held out to judge it: the data of `check` and `distill`."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache import indexed, label, open_cache
from keras_distill.cache.indexing import split_element
from keras_distill.cache.shards import read_manifest
from keras_distill.data.labels import UNLABELLED

from .common import CommandError
from .reading import examples

# What shuffling may hold in memory; smaller data sets are shuffled as a whole.
_SHUFFLED_BYTES = 2**30


class Data:
    """The examples that the options name, and what the teacher said of them.

    Attributes:
        taught_by: What a `Distiller` takes as teacher: the model, or its cache.
        labels: "numbers", "one-hot", or None if there are none.
        count: How many examples there are to learn from.
        held_out: How many are held out.

    Args:
        options: Of the command.
        lesson: The `Lesson`.
        validation: The share that is held out; or the name of a split, or of another data set, as a text.
    """

    def __init__(self, options, lesson, validation=0.0):
        self._batch_size = options.batch_size
        self._lesson = lesson
        self.taught_by = lesson.teacher
        models = lesson.student, lesson.teacher
        whole = examples(options, *models)
        self.labels = _kind_of_labels(options.dataset, whole.element_spec, lesson.classes)
        self._training = self._whole = _some(indexed(whole), options.dataset)
        self._validation, self._other = self._training.take(0), None
        if isinstance(validation, str):
            other = _named(options, validation, *models)
            if other.element_spec != whole.element_spec:
                raise CommandError(
                    f"the examples of --validation={validation} are {other.element_spec}, but those of "
                    f"{options.dataset} {whole.element_spec}. Both must be alike."
                )
            self._validation = self._other = _some(indexed(other), validation)
        elif validation:
            self._training, self._validation = _divided(self._whole, validation, options.dataset)
        self.count, self.held_out = _length(self._training), _length(self._validation)
        self._shuffled = min(self.count, max(_SHUFFLED_BYTES // _bytes(whole.element_spec), 1))
        self._stored = self._stored_validation = None

    def check_cache(self, directory):
        """Refuses what is no cache of this teacher; one that is not there, or not finished, passes.

        Args:
            directory: Of the cache.

        Raises:
            ValueError: If it is broken, or of another teacher.
        """
        if pathlib.Path(directory).is_file():
            raise CommandError(f"{directory} is a file, and a cache is a folder. Choose another --cache.")
        manifest = read_manifest(directory)
        if manifest is not None and manifest.complete:
            open_cache(directory, self._lesson.teacher)

    def use_cache(self, directory, validation_directory):
        """Takes what the teacher says from a cache; what is not there yet is written.

        Args:
            directory: Of the cache.
            validation_directory: Where to keep what it says of held-out examples that are a data set of their own.

        Raises:
            ValueError: If it is the cache of another teacher or of other examples.
        """
        manifest = read_manifest(directory)
        stored_taps = {} if manifest is None else manifest.taps
        missing = [tap for tap in self._lesson.taps if stored_taps and tap not in stored_taps]
        if missing:
            raise CommandError(
                f"the cache {directory} holds {list(stored_taps)}, but not {missing}. Label into another directory, with "
                "--tap for each of them."
            )
        if manifest is not None and manifest.version is None and self._lesson.version is not None:
            raise CommandError(
                f"the cache {directory} holds probabilities, since the teacher ends in a softmax, and what is compared "
                "are logits. Name another --cache, which is then written with these."
            )
        kept = {
            "version": self._lesson.version,
            "taps": list(stored_taps) or self._lesson.taps,
            "dtype": {tap: stored.dtype for tap, stored in stored_taps.items()} or "float32",
            "top_k": {tap: stored.top_k for tap, stored in stored_taps.items() if stored.top_k is not None} or None,
        }
        # What is finished is only compared with the teacher and the examples.
        finished = manifest is not None and manifest.complete
        label(self._lesson.teacher, self._whole, directory, **kept, verbose=int(not finished))
        self._stored = self._stored_validation = open_cache(directory, self._lesson.teacher)
        if self._other is not None:
            label(self._lesson.teacher, self._other, validation_directory, **kept, verbose=0)
            self._stored_validation = open_cache(validation_directory, self._lesson.teacher)
        self.taught_by = self._stored.teacher

    def batches(self, seed=None, taught=True):
        """The examples to learn from in batches, in an order of the seed, or in their own.

        Args:
            seed: A scalar int64 tensor, or None.
            taught: Whether what a cache holds comes with them.
        """
        dataset = self._training if seed is None else self._training.shuffle(self._shuffled, seed=seed)
        return self._batched(dataset, self._stored if taught else None)

    def validation_batches(self, taught=True):
        """The held-out examples in batches, likewise; None if there are none."""
        return self._batched(self._validation, self._stored_validation if taught else None) if self.held_out else None

    def judging(self):
        """The held-out examples in memory, less those without a label: `(inputs, class numbers, or None)`."""
        elements = [
            element if isinstance(element, tuple) else (element, None)
            for element in self._batched(self._validation, None).as_numpy_iterator()
        ]
        inputs = keras.tree.map_structure(lambda *each: np.concatenate(each), *(inputs for inputs, _ in elements))
        if self.labels is None:
            return inputs, None
        labels = np.concatenate([labels for _, labels in elements])
        numbers = labels.argmax(-1) if self.labels == "one-hot" else labels.reshape(len(labels))
        there = ~np.isnan(labels).reshape(len(labels), -1).any(-1) & (numbers != UNLABELLED)
        numbers = numbers[there].astype("int64")
        if not len(numbers):
            raise CommandError("none of the held-out examples has a label to judge by.")
        classes = self._lesson.classes
        if numbers.min() < 0 or numbers.max() >= classes:
            raise CommandError(
                f"the held-out examples are of the classes {numbers.min()} to {numbers.max()}, but the student tells "
                f"apart 0 to {classes - 1}. Number them from 0 without gaps."
            )
        return keras.tree.map_structure(lambda array: array[there], inputs), numbers

    def _batched(self, dataset, stored):
        dataset = dataset.batch(self._batch_size)
        dataset = dataset.map(_plain, num_parallel_calls=tf.data.AUTOTUNE) if stored is None else stored.join(dataset)
        return dataset.prefetch(tf.data.AUTOTUNE)


def _kind_of_labels(source, spec, classes):
    if not isinstance(spec, tuple):
        return None
    labels = spec[1]
    if labels.dtype.is_floating or labels.dtype.is_integer:
        if labels.shape in ((), (1,)):
            return "numbers"
        if labels.shape == (classes,):
            return "one-hot"
    raise CommandError(
        f"the labels of {source} are {labels.dtype.name} of shape {labels.shape}. They must be class numbers, or "
        f"one-hot for the student's {classes} classes."
    )


def _some(dataset, source):
    """The data set, if it is not empty."""
    if not _length(dataset):
        raise CommandError(f"{source} holds no example.")
    return dataset


def _named(options, name, *models):
    """The data set that `--validation` names: a source of its own, or another split."""
    path = pathlib.Path(name).expanduser()
    if path.exists() or path.suffix in (".npy", ".npz"):
        return examples(options, *models, source=name)
    if pathlib.Path(options.dataset).suffix in (".npy", ".npz"):
        raise CommandError(f"--validation={name} is neither a share, such as 0.1, nor a data set that is there.")
    return examples(options, *models, split=name)


def _divided(dataset, share, source):
    """The examples to learn from, and a share that is held out: always the same ones, from everywhere in the data set,
    since folders come class by class.
    """
    count = _length(dataset)
    held = round(share * count)
    if not 0 < held < count:
        raise CommandError(
            f"{source} has {count} examples: too few to hold {share:g} of them out. Choose --validation."
        )
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(0).permutation(count)[:held]] = True
    return _where(~chosen, dataset), _where(chosen, dataset)


def _where(chosen, dataset):
    mask = tf.constant(chosen)
    found = dataset.filter(lambda *element: mask[split_element(_one(element))[1]])
    return found.apply(tf.data.experimental.assert_cardinality(int(chosen.sum())))


def _plain(*element):
    """Inputs and labels of what is indexed."""
    inputs, _, _, rest = split_element(_one(element))
    return (inputs, *rest) if rest else inputs


def _one(element):
    """An element as it was, from what `tf.data` hands to functions."""
    return element if len(element) > 1 else element[0]


def _length(dataset):
    length = int(dataset.cardinality())
    return length if length >= 0 else int(dataset.reduce(np.int64(0), lambda count, *element: count + 1))


def _bytes(spec):
    """About how large an example is; what has no fixed size is taken for a picture."""
    return sum(
        leaf.shape.num_elements() * leaf.dtype.size if leaf.shape.is_fully_defined() and leaf.dtype.size else 2**20
        for leaf in keras.tree.flatten(spec)
    )
