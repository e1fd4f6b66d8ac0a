"""Restoration of a distiller's state and of the data order after a check."""

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _compat
from keras_distill.training.base import BaseDistiller
from keras_distill.types import Structure

# The order of these shuffles depends on how many iterators they had before. The older operations on the right depend on
# the seeds alone.
_STATELESS_SHUFFLES = {"ShuffleDatasetV3": "ShuffleDataset", "ShuffleAndRepeatDatasetV2": "ShuffleAndRepeatDataset"}
# Bytes of a dataset in memory above which a copy takes too long.
_MAX_DATASET_BYTES = 1 << 29


@contextlib.contextmanager
def state_restored(distiller: BaseDistiller) -> Iterator[None]:
    """Restore the state of a distiller and all random states on exit.

    Restored are the values of all variables (weights, statistics, optimizer, metrics, seed generators, the teacher's
    state) and the random states of Python, NumPy, Keras and TensorFlow.

    Args:
        distiller: A compiled `Distiller` or `MutualDistiller`.
    """
    teacher = distiller.teacher
    models = [] if teacher is None else [model for model in teacher.models if isinstance(model, keras.layers.Layer)]
    variables = [
        *distiller.variables,
        *distiller.metrics_variables,
        *distiller.optimizer.variables,
        *(() if teacher is None else (*teacher.weights, *teacher.state)),
        *(variable for model in models for variable in model.variables),
    ]
    values = [
        (variable, np.array(keras.ops.convert_to_numpy(variable)))
        for variable in {id(v): v for v in variables}.values()
    ]
    seed_generator = _compat.global_seed_generator()
    if seed_generator is not None:
        values.append((seed_generator.state, np.array(keras.ops.convert_to_numpy(seed_generator.state))))
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # The generator from which TensorFlow draws operation seeds; it exists after `tf.random.set_seed`.
    seed_source = _compat.eager_random_generator()
    seed_source_state = seed_source and seed_source.getstate()
    try:
        yield
    finally:
        for variable, value in values:
            variable.assign(value)
        if seed_generator is None:
            _compat.reset_global_seed_generator()
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if seed_source and seed_source.getstate() != seed_source_state:
            seed_source.setstate(seed_source_state)
            # Cached kernels that ran with these seeds would continue their random sequence.
            _compat.clear_kernel_cache()


def first_batches(data: Structure, y: Structure | None, batches: int, batch_size: int) -> list[tuple]:
    """Return the first batches of training data, each `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

    Args:
        data: A `tf.data.Dataset` or `keras.utils.PyDataset` of batches, or a structure of arrays.
        y: Labels, if `data` are arrays, or None.
        batches: Maximum number of batches, >= 1. Of arrays, examples at equal distances are used.
        batch_size: Batch size for arrays, >= 1.

    Returns:
        List of structures of tensors.

    Raises:
        ValueError: If `data` can be read only once, if arrays differ in length, or if `data` are empty.
    """
    if isinstance(data, tf.data.Dataset):
        found = list(_with_stateless_shuffle(data).take(batches))
    elif isinstance(data, keras.utils.PyDataset):
        found = [data[index] for index in range(min(batches, data.num_batches or batches))]
    elif hasattr(data, "__next__") or isinstance(data, tf.distribute.DistributedDataset):
        raise ValueError(
            "`data` must be readable more than once, because the check must not use up batches of the training. Pass a "
            "tf.data.Dataset, e.g. tf.data.Dataset.from_generator(...), a keras.utils.PyDataset or arrays. Received: "
            f"{type(data).__name__}"
        )
    else:
        found = _batches_of_arrays((data,) if y is None else (data, y), batches, batch_size)
    if not found:
        raise ValueError("`data` has no batches. Pass at least one batch of examples.")
    found = [batch if isinstance(batch, tuple) else (batch,) for batch in found]
    return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), found)


def _batches_of_arrays(arrays, batches, batch_size):
    """Return batches of examples at equal distances from the first to the last."""
    lengths = {len(array) for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1:
        raise ValueError(f"Inputs and labels must have the same number of examples. Received: {sorted(lengths)}")
    (length,) = lengths
    count = min(length, batches * batch_size)
    chosen = np.linspace(0, length - 1, count).astype(int) if count else np.zeros(0, int)
    rows = [chosen[start : start + batch_size] for start in range(0, count, batch_size)]
    return [keras.tree.map_structure(lambda array, part=part: np.asarray(array)[part], arrays) for part in rows]


def _with_stateless_shuffle(dataset):
    """Return a copy of the dataset whose iteration does not change the shuffle order of later iterations."""
    variant = tf.data.experimental.to_variant(dataset)
    try:
        serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)
    except tf.errors.OpError:
        # The graph exceeds the size limit, or an operation of the dataset cannot be serialized.
        return dataset
    serialized = serialized.numpy()
    if b"Shuffle" not in serialized or len(serialized) > _MAX_DATASET_BYTES:
        return dataset
    graph = tf.compat.v1.GraphDef.FromString(serialized)
    for node in graph.node:
        if node.op in _STATELESS_SHUFFLES:
            node.op = _STATELESS_SHUFFLES[node.op]
            # The last input is the shared seed generator.
            del node.input[-1]
    copy = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tf.data.experimental.from_variant(copy, dataset.element_spec)
