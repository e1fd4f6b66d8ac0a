"""A distiller that is as before when one has looked at it, and data that are."""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _compat

# Shuffles whose order depends on how often they were begun; with the seeds alone each is as if it never was.
_UNSHARED = {"ShuffleDatasetV3": "ShuffleDataset", "ShuffleAndRepeatDatasetV2": "ShuffleAndRepeatDataset"}

# Bytes of a data set held in memory, beyond which a copy takes too long: its shuffle is begun, after all.
_LARGEST = 1 << 29


@contextlib.contextmanager
def state_restored(distiller):
    """Within, anything may be done to a `Distiller`; afterwards it and all random states are what they were.

    Kept and given back are the values of all variables: weights, statistics, optimizer, metrics, seeds, a teacher's
    state; and the states of Python's, NumPy's, Keras' and TensorFlow's own random numbers.
    """
    teacher = distiller.teacher
    models = [model for model in teacher.models if isinstance(model, keras.layers.Layer)]
    variables = [
        *distiller.variables,
        *distiller.metrics_variables,
        *distiller.optimizer.variables,
        *teacher.weights,
        *teacher.state,
        *(variable for model in models for variable in model.variables),
    ]
    kept = [(variable, np.array(variable)) for variable in {id(v): v for v in variables}.values()]
    seeds = _compat.global_seed_generator()
    if seeds is not None:
        kept.append((seeds.state, np.array(seeds.state)))
    # What TensorFlow draws seeds from, where a seed for all was set.
    drawn = _compat.eager_random_generator()
    states = random.getstate(), np.random.get_state(), drawn and drawn.getstate()
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
        if seeds is None:
            _compat.reset_global_seed_generator()
        random.setstate(states[0])
        np.random.set_state(states[1])
        if drawn and drawn.getstate() != states[2]:
            drawn.setstate(states[2])
            # Operations that ran with these seeds would go on where they were.
            _compat.clear_kernel_cache()


def first_batches(data, y, batches, batch_size):
    """Some batches of what `fit` takes, `(x,)`, `(x, y)` or `(x, y, sample_weight)` each.

    Args:
        data: A `tf.data.Dataset` or `keras.utils.PyDataset` of batches; or a structure of arrays.
        y: Labels beside arrays, or None.
        batches: How many at most. Of arrays the examples lie evenly between the first and the last.
        batch_size: Examples of each, for arrays.

    Returns:
        A list of structures of tensors.

    Raises:
        ValueError: For data that cannot be begun anew, and for none.
    """
    if isinstance(data, tf.data.Dataset):
        found = list(_as_new(data).take(batches))
    elif isinstance(data, keras.utils.PyDataset):
        found = [data[index] for index in range(min(batches, data.num_batches or batches))]
    elif hasattr(data, "__next__") or isinstance(data, tf.distribute.DistributedDataset):
        raise ValueError(
            "What an iterator or generator gives once is gone. Pass a tf.data.Dataset, such as "
            f"tf.data.Dataset.from_generator, or arrays. Received: {type(data).__name__}."
        )
    else:
        arrays = (data,) if y is None else (data, y)
        lengths = {len(array) for array in keras.tree.flatten(arrays)}
        if len(lengths) != 1:
            raise ValueError(f"Inputs and labels must have the same number of examples. Received: {sorted(lengths)}.")
        count = min(lengths.pop(), batches * batch_size)
        length = len(keras.tree.flatten(arrays)[0])
        chosen = np.linspace(0, length - 1, count).astype(int) if count else np.zeros(0, int)
        found = [
            keras.tree.map_structure(lambda array, part=part: np.asarray(array)[part], arrays)
            for part in (chosen[start : start + batch_size] for start in range(0, count, batch_size))
        ]
    if not found:
        raise ValueError("The data hold no batch, so there is nothing to look at.")
    found = [batch if isinstance(batch, tuple) else (batch,) for batch in found]
    return keras.tree.map_structure(lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), found)


def _as_new(dataset):
    """The data set as if nobody had begun it; to begin it would move a shuffle's next order."""
    variant = tf.data.experimental.to_variant(dataset)
    try:
        written = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)
    except tf.errors.OpError:
        # Larger than a graph may be, or of parts that have no graph.
        return dataset
    written = written.numpy()
    if b"Shuffle" not in written or len(written) > _LARGEST:
        return dataset
    graph = tf.compat.v1.GraphDef.FromString(written)
    for node in graph.node:
        if node.op in _UNSHARED:
            node.op = _UNSHARED[node.op]
            del node.input[-1]
    copy = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tf.data.experimental.from_variant(copy, dataset.element_spec)
