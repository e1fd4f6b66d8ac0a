"""Compare training on one replica with training on several replicas."""

import keras
import numpy as np
import tensorflow as tf

# The batches are split unevenly over two and over four replicas, but no replica is empty.
EXAMPLES, BATCH = 18, 7
REPLICAS = 2, 4
STRATEGIES = {}
from_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def strategy(count):
    """Return the strategy for a number of replicas. A second one would break the collective operations of the first."""
    if count not in STRATEGIES:
        devices = [f"CPU:{number}" for number in range(count)]
        STRATEGIES[count] = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
    return tf.distribute.get_strategy() if count == 1 else STRATEGIES[count]


def sgd(**options):
    return keras.optimizers.SGD(0.05, **options)


def trained(
    count, make, data, epochs=2, loss="sparse_categorical_crossentropy", optimizer=sgd, metrics=("accuracy",), **options
):
    """Train on a number of replicas, and return the weights and logs. The last batch is smaller."""
    with strategy(count).scope():
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(optimizer(), loss, metrics=None if loss is None else metrics, **options)
        dataset = data() if callable(data) else tf.data.Dataset.from_tensor_slices(data).batch(BATCH)
        history = model.fit(dataset, epochs=epochs, verbose=0).history
        evaluated = model.evaluate(dataset, verbose=0, return_dict=True)
    history |= {f"evaluated_{name}": [value] for name, value in evaluated.items()}
    return [np.array(weight) for weight in model.weights], history


def assert_same_on_replicas(make, data, tolerance=1e-5, without=(), **options):
    """Check that one, two and four replicas end with the same weights and logs, and return the weights.

    `without` names logs that Keras averages in another way on several replicas.
    """
    weights, logs = trained(1, make, data, **options)
    scale = max(np.abs(weight).max() for weight in weights)
    for count in REPLICAS:
        others, other_logs = trained(count, make, data, **options)
        for weight, other in zip(weights, others, strict=True):
            np.testing.assert_allclose(other, weight, rtol=tolerance, atol=tolerance * scale)
        assert set(logs) == set(other_logs)
        for name in set(logs) - {f"{prefix}{name}" for name in without for prefix in ("", "evaluated_")}:
            # Low temperatures magnify rounding errors.
            np.testing.assert_allclose(other_logs[name], logs[name], rtol=3 * tolerance, atol=1e-6, err_msg=name)
    return weights
