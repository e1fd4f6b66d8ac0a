"""Datasets of `Backup`: order, position in an interrupted epoch, and errors."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Backup
from keras_distill.data.batch import with_activations
from tests.support.helpers import data, features
from tests.support.interrupted_training import BATCH, EXAMPLES, STEPS, FaultAt, accumulating, assert_resumes

pytestmark = pytest.mark.processes


def source(backup, x, y):
    """Return a dataset whose cardinality TensorFlow does not know."""
    examples = tf.data.Dataset.from_tensor_slices((x, y))

    def make(seed):
        return examples.filter(lambda x, y: True).shuffle(20, seed=seed).batch(BATCH)

    return backup.epochs(make)


def known(backup, x, y):
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    return backup.epochs(lambda seed: examples.shuffle(20, seed=seed).batch(BATCH))


def unmanaged(backup, x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


@pytest.mark.parametrize("dataset", [source, known, unmanaged])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_other_datasets(tmp_path, dataset):
    assert_resumes(accumulating, tmp_path, FaultAt("on_train_batch_end", 6), dataset=dataset)


def orders(backup, epochs, count=10):
    """Return the order of each epoch, in which `fit` reads the examples."""
    dataset = backup.batches(np.arange(count), 4)
    found = []
    for epoch in range(epochs):
        backup._order.start = (epoch, 0)
        found.append([int(number) for batch in dataset for number in batch])
    return found


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path):
    first, second, third = orders(Backup(tmp_path), 3)
    assert orders(Backup(tmp_path), 3) == [first, second, third]
    for order in (first, second, third):
        assert sorted(order) == list(range(10))
    assert first != second != third != first
    assert orders(Backup(tmp_path, seed=1), 1) != [first]
    # Computed by hand from the seed of the epoch.
    seed = [np.random.SeedSequence([0, 1]).generate_state(1, "uint64")[0] >> np.uint64(1), 0]
    shuffled = tf.random.experimental.index_shuffle(tf.range(10, dtype="int64"), np.array(seed, "int64"), np.int64(9))
    assert second == [int(number) for number in shuffled]


def test_an_interrupted_epoch_resumes_at_its_next_batch(tmp_path):
    backup = Backup(tmp_path)
    dataset = backup.batches(np.arange(10), 4)
    whole = [batch.numpy().tolist() for batch in dataset]
    backup._order.start = (0, 2)
    assert [batch.numpy().tolist() for batch in dataset] == whole[2:] + whole[:2]


def test_arrays_may_be_nested(tmp_path):
    x = with_activations([features(5, 2), np.array(list("abcde"))], {"output": features(5, 3).astype("float64")})
    labels, weights = np.arange(5), None
    (batch,) = Backup(tmp_path).batches((x, labels, weights), 8, shuffle=False)
    inputs, found, none = batch
    assert none is None
    np.testing.assert_array_equal(found, labels)
    (images, texts), output = inputs["keras_distill/inputs"], inputs["keras_distill/cached"]["output"]
    np.testing.assert_array_equal(images, features(5, 2))
    assert texts.numpy().tolist() == [b"a", b"b", b"c", b"d", b"e"]
    assert output.dtype == "float32"


def test_data_without_epochs_raise(tmp_path):
    backup = Backup(tmp_path)
    with pytest.raises(ValueError, match="`make` must return a finite dataset"):
        backup.epochs(lambda seed: tf.data.Dataset.range(3).repeat())
    with pytest.raises(ValueError, match=r"the same length. Received lengths: \[3, 4\]"):
        backup.batches((np.zeros(3), np.zeros(4)), 2)
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1. Received: 0"):
        backup.batches(np.zeros(3), 0)


def test_an_epoch_is_one_pass(tmp_path):
    backup = Backup(tmp_path)
    dataset = backup.batches(data(EXAMPLES), BATCH)
    with pytest.raises(ValueError, match="without `steps_per_epoch`"):
        accumulating().fit(dataset, steps_per_epoch=2, verbose=0, callbacks=[backup])


def test_a_pass_that_began_too_early_raises(tmp_path):
    backup = Backup(tmp_path)
    dataset = backup.batches(data(EXAMPLES), BATCH)
    # Keras may read ahead before the next epoch begins if `steps_per_epoch` equals the length of the dataset.
    early = iter(dataset)
    next(early)
    backup.set_model(accumulating())
    backup.set_params({"steps": STEPS, "epochs": 2})
    backup.on_train_begin()
    backup.on_epoch_begin(0)
    with pytest.raises(ValueError, match="without `steps_per_epoch`"):
        backup.on_train_batch_end(0)
    backup._preemption.uninstall()


def test_data_of_another_backup_raise(tmp_path):
    model, backup = accumulating(), Backup(tmp_path / "one")
    backup.batches(data(EXAMPLES), BATCH)
    with pytest.raises(ValueError, match="with that Backup among the callbacks"):
        model.fit(Backup(tmp_path / "two").batches(data(EXAMPLES), BATCH), verbose=0, callbacks=[backup])
