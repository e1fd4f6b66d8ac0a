"""The teacher's outputs for the splits of an experiment, computed once."""

import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_distill.cache import TeacherCache, fingerprint, label, open_cache
from keras_distill.cache.shards import read_manifest
from keras_distill.data.batch import Batch, unpack
from keras_distill.distribution import workers
from keras_distill.experiment.examples import Examples
from keras_distill.experiment.prediction import predict
from keras_distill.experiment.task import Task
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import as_teacher
from keras_distill.training.term import Term
from keras_distill.types import Structure


class TeacherOutputs:
    """Caches of a teacher's outputs, one per dataset.

    Attributes:
        teacher: The teacher.
        digest: Text that identifies the teacher by its weights and settings; by some outputs if it has no weights.

    Args:
        teacher: The teacher: a model, or another `Teacher`.
        folder: Folder of the caches.
        sample: Inputs of a few examples, which tell teachers without weights apart.
        strategy: The `tf.distribute.Strategy`: the chief labels, and the other workers wait.
        batch_size: Examples per forward pass. Defaults to 128.
    """

    def __init__(self, teacher: Any, folder: pathlib.Path, sample: Structure, strategy: Any, batch_size: int = 128):
        self.teacher, self._strategy, self._batch_size = teacher, strategy, batch_size
        self.digest = _digest(as_teacher(teacher), sample)
        self._folder = folder / self.digest[:8]
        self._given: dict[str, pathlib.Path] = {}
        # Verifying a cache takes as long as reading it.
        self._caches: dict[tuple, TeacherCache] = {}

    def use(self, folder: str | os.PathLike, examples: Examples) -> None:
        """Read or write the outputs for the source of some examples in another folder.

        Args:
            folder: Folder of a cache, as written by `label`. It is written if it does not exist.
            examples: The examples.
        """
        self._given[examples.inputs_digest] = pathlib.Path(folder)

    def cache(self, examples: Examples, terms: Sequence[Term]) -> TeacherCache:
        """Return the cache for the source of some examples; it is written first if it does not exist.

        Args:
            examples: The examples.
            terms: Terms whose taps the cache holds.
        """
        return self._open(examples, sorted({tap for term in terms for tap in term.teacher_taps}))

    def outputs(self, examples: Examples, task: Task) -> Any:
        """Return the teacher's outputs for all examples of a split: an array, or a structure of several.

        Args:
            examples: The examples.
            task: The `Task`.
        """
        if isinstance(self.teacher, keras.Model):
            return predict(task.predictor(self.teacher), examples, self._folder.parent, self._batch_size)
        stored = self._open(examples, [OUTPUT])
        stored.teacher.connect([OUTPUT])
        batches = [
            stored.teacher.activations(unpack(element, 0))[OUTPUT]
            for element in examples.batches(self._batch_size, stored)
        ]
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *batches)

    def outputs_like(self, student: keras.Model, examples: Examples, task: Task) -> Any:
        """Return `outputs`; None, with a warning, if their shape is not that of a student and the task needs it to be.

        Args:
            student: An untrained student.
            examples: The examples.
            task: The `Task`.
        """
        expected, outputs = getattr(student, "output_shape", None), self.outputs(examples, task)
        if not task.same_outputs or not isinstance(outputs, np.ndarray) or not isinstance(expected, tuple):
            return outputs
        sizes = outputs.shape[1:]
        if len(sizes) == len(expected) - 1 and all(b in (None, a) for a, b in zip(sizes, expected[1:])):
            return outputs
        warnings.warn(
            f"The teacher's outputs have the shape {sizes} per example, those of the students {expected[1:]}. The "
            "teacher is not evaluated.",
            stacklevel=2,
        )
        return None

    def _open(self, examples, taps):
        # One folder per choice of taps and dataset.
        name = hashlib.sha256(json.dumps([taps, examples.inputs_digest]).encode()).hexdigest()[:8]
        given = self._given.get(examples.inputs_digest)
        folder = self._folder / name if given is None else given
        opened = (folder, *taps)
        if opened in self._caches:
            return self._caches[opened]
        if workers.is_chief(self._strategy):
            self._label(examples, taps, folder, None if given else self.digest)
        # A barrier: the other workers wait until the chief has written the cache.
        workers.all_gather_text(self._strategy, "cache written")
        self._caches[opened] = open_cache(folder)
        return self._caches[opened]

    def _label(self, examples, taps, folder, version):
        manifest = read_manifest(folder)
        finished = manifest is not None and manifest.complete
        stored = {} if manifest is None else manifest.taps
        missing = [tap for tap in taps if stored and tap not in stored]
        if missing:
            raise ValueError(
                f"The cache '{folder}' holds {list(stored)}, but not {missing}. Label the dataset with the taps {taps} "
                "into another folder."
            )
        # A cache that was written by `label` may hold other dtypes, and the most probable classes only.
        options = {
            "taps": list(stored) or taps,
            "dtype": {tap: each.dtype for tap, each in stored.items()}
            or {tap: "float32" if tap == OUTPUT else "float16" for tap in taps},
            "top_k": {tap: each.top_k for tap, each in stored.items() if each.top_k is not None} or None,
            "version": version if manifest is None else manifest.version,
        }
        label(self.teacher, examples.whole(), folder, **options, batch_size=self._batch_size, verbose=int(not finished))
        if not finished:
            open_cache(folder, self.teacher).check_values()


def _digest(teacher, sample):
    digest = fingerprint.of_teacher(teacher)
    if teacher.weights:
        return digest
    teacher.connect([OUTPUT])
    outputs = teacher.activations(Batch(keras.tree.map_structure(keras.ops.convert_to_tensor, sample)))
    values = [keras.ops.convert_to_numpy(array).tobytes() for array in keras.tree.flatten(outputs)]
    return hashlib.sha256(b"".join([digest.encode(), *values])).hexdigest()
