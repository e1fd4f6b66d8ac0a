"""Examples of a split: arrays and streams give the same batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cache import label, open_cache
from keras_distill.callbacks import Backup
from keras_distill.data.batch import unpack
from keras_distill.experiment import Classification, Data
from keras_distill.experiment.data import as_examples, labeled_only, repeated, with_few_labels
from keras_distill.experiment.examples import describe_non_finite
from tests.support.helpers import data, mlp

KINDS = ["arrays", "stream"]


def examples(kind, count=20, labels=True):
    x, y = data(count)
    source = (x, y) if labels else x
    return as_examples(source if kind == "arrays" else tf.data.Dataset.from_tensor_slices(source))


def read(batches):
    return [np.concatenate(parts) for parts in zip(*[(batch[0].numpy(), batch[1].numpy()) for batch in batches])]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_selection(kind):
    x, y = data(20)
    whole = examples(kind)
    assert len(whole) == 20
    np.testing.assert_array_equal(whole.labels(), y)
    for got, expected in zip(read(whole.batches(8)), (x, y)):
        np.testing.assert_array_equal(got, expected)
    some = whole.select([3, 5, 11]).select([0, 2])
    for got, expected in zip(read(some.batches(8)), (x[[3, 11]], y[[3, 11]])):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(some.labels(), y[[3, 11]])
    np.testing.assert_array_equal(some.inputs([1, 0]), x[[11, 3]])


@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_batches_hold_every_example_once(kind, tmp_path):
    x, _ = data(20)
    whole = examples(kind)
    backup = Backup(tmp_path / "backup", seed=1)
    for batches in (whole.shuffled_batches(8), whole.training_batches(backup, 8)):
        got, _ = read(batches)
        assert not np.array_equal(got, x)
        np.testing.assert_array_equal(np.sort(got, axis=0), np.sort(x, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_other_labels(kind):
    x, y = data(20)
    some = examples(kind).select([1, 4, 7])
    changed = some.with_labels(np.array([2, 2, -1], "int64"))
    for got, expected in zip(read(changed.batches(2)), (x[[1, 4, 7]], [2, 2, -1])):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(some.labels(), y[[1, 4, 7]])


@pytest.mark.parametrize("kind", KINDS)
def test_few_labels_are_repeated_for_a_baseline(kind):
    x, y = data(20)
    few = with_few_labels(examples(kind), 3, Classification())
    np.testing.assert_array_equal(few.labels(), [*y[:3], *[-1] * 17])
    whole = repeated(labeled_only(few, Classification()), 20)
    assert len(whole) == 20
    got, labels = read(whole.batches(8))
    assert set(map(tuple, got)) == set(map(tuple, x[:3])) and set(labels) == set(y[:3])
    with pytest.raises(ValueError, match="No training example has a label"):
        labeled_only(with_few_labels(examples(kind), 0, Classification()), Classification())


@pytest.mark.parametrize("kind", KINDS)
def test_split_is_the_same_every_time(kind):
    first, second = examples(kind).split(0.25), examples("arrays").split(0.25)
    for one, other in zip(first, second):
        np.testing.assert_array_equal(np.sort(one.rows), np.sort(other.rows))
    rest, part = first
    assert len(part) == 5 and not set(rest.rows) & set(part.rows)
    with pytest.raises(ValueError, match="Choose another fraction"):
        examples(kind).split(0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_outputs_are_joined_to_selected_examples(kind, tmp_path):
    teacher = mlp(name="teacher")
    whole = examples(kind)
    label(teacher, whole.whole(), tmp_path / "cache", verbose=0)
    stored = open_cache(tmp_path / "cache")
    for element in whole.select([2, 9, 15]).batches(2, stored):
        batch = unpack(element, 0)
        np.testing.assert_allclose(batch.cached["output"], teacher(batch.inputs), rtol=1e-5)


def test_digest_depends_on_values_and_rows():
    x, y = data(20)

    def digest(x=x, y=y, rows=slice(None)):
        return Data((x[rows], y[rows]), test=(x, y)).digest()

    changed = x.copy()
    changed[3, 0] += 1
    digests = {
        digest(),
        digest(changed),
        digest(y=(y + 1) % 3),
        digest(rows=slice(10)),
        digest(rows=slice(None, None, -1)),
    }
    assert len(digests) == 5 and digest() == digest()
    texts = np.array(["a", "b"], object)
    assert as_examples(texts).digest == as_examples(np.array(["a", "b"], object)).digest
    assert as_examples(texts).digest != as_examples(np.array(["a", "c"], object)).digest


@pytest.mark.parametrize("kind", KINDS)
def test_examples_that_are_not_finite_are_named(kind):
    x, y = data(20)
    assert describe_non_finite(examples(kind)) == ""
    x[13, 2] = np.inf
    source = (x, y) if kind == "arrays" else tf.data.Dataset.from_tensor_slices((x, y))
    assert describe_non_finite(as_examples(source)).startswith("Example 13 of the training data")
    assert describe_non_finite(as_examples(source).select([4, 13])).startswith("Example 13")


def test_inputs_may_be_structures():
    inputs = {"a": np.zeros((4, 2)), "b": np.ones((4, 3))}
    split = as_examples((inputs, np.zeros(4, int)))
    assert keras.tree.map_structure(np.shape, split.inputs([0, 1])) == {"a": (2, 2), "b": (2, 3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Pass a `test` or a `validation` split"),
        ({"validation": 1.5}, r"fraction in \(0, 1\)"),
        ({"test": (np.zeros((3, 2)), np.zeros(2))}, "same number of rows"),
        ({"test": np.zeros((0, 2))}, "at least one"),
    ],
)
def test_invalid_splits_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Data(data(20), **arguments)


def test_the_evaluation_split_is_the_test_split_if_there_is_one():
    both = Data(data(20), test=data(8), validation=0.25)
    assert both.evaluation_name == "test" and len(both.evaluation) == 8 and len(both.train) == 15
    only = Data(data(20), validation=0.25)
    assert only.evaluation_name == "validation" and len(only.evaluation) == 5
