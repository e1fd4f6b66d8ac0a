"""Tests for fingerprints of examples."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cache import fingerprint, indexed

_RANDOM = np.random.default_rng(0)
ARRAYS = {
    "float32": _RANDOM.normal(size=(2100, 3, 2)).astype("float32"),
    "float64, scalars": _RANDOM.normal(size=7),
    "float16": _RANDOM.normal(size=(7, 5)).astype("float16"),
    "bfloat16": tf.cast(_RANDOM.normal(size=(7, 5)), "bfloat16"),
    "uint8": _RANDOM.integers(0, 255, (7, 200)).astype("uint8"),
    "int64": _RANDOM.integers(-9, 9, (7, 2)),
    "bool": _RANDOM.integers(0, 2, (7, 3)).astype(bool),
    "texts": np.array(["a", "bc", "", "é", "a" * 200, "b", "c"]),
    "bytes": np.array([[b"a", b"b\0c"]] * 7, object),
    "no elements": np.zeros((7, 0), "float32"),
    "not contiguous": np.arange(42.0).reshape(6, 7).T,
    "two inputs": (np.arange(7), {"b": np.ones((7, 2), "float32"), "a": np.array(["x", "y", "z", "", "v", "u", "t"])}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_all_examples_at_once_have_the_fingerprints_of_single_ones(name):
    arrays = ARRAYS[name]
    singles = [int(fingerprint.of_example(inputs)) for inputs in tf.data.Dataset.from_tensor_slices(arrays)]
    assert fingerprint.of_examples(arrays).numpy().tolist() == singles


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_indexed_as_a_dataset_is(name):
    arrays = ARRAYS[name]
    labels = np.arange(len(list(tf.data.Dataset.from_tensor_slices(arrays))))
    fast, slow = indexed((arrays, labels)), indexed(tf.data.Dataset.from_tensor_slices((arrays, labels)))
    assert fast.element_spec == slow.element_spec and len(fast) == len(slow)
    for first, second in zip(fast, slow):
        tf.nest.map_structure(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    "arrays", [np.zeros((0, 3), "float32"), (np.zeros((0, 3)), {"text": np.array([], "str")})], ids=["one", "two"]
)
def test_no_examples(arrays):
    fast, slow = indexed((arrays,)), indexed(tf.data.Dataset.from_tensor_slices((arrays,)))
    assert fast.element_spec == slow.element_spec and len(fast) == 0


@pytest.mark.parametrize("inputs", [np.float32(1.0), (np.zeros(3), np.zeros(2))], ids=["a number", "two lengths"])
def test_arrays_that_are_no_examples_raise(inputs):
    with pytest.raises((ValueError, TypeError)):
        indexed((inputs, np.zeros(3)))


def test_lists_of_numbers_are_indexed():
    (first, second), _ = zip(*indexed(([1.5, 2.5], [0, 1])))
    assert [int(example["keras_distill/fingerprint"]) for example in (first, second)] == [
        int(fingerprint.of_example(tf.constant(value))) for value in (1.5, 2.5)
    ]


def test_examples_that_raise_can_be_left_out_of_an_indexed_dataset():
    dataset = tf.data.Dataset.range(8).map(lambda i: tf.debugging.check_numerics(1 / (i - 3), "example 3"))
    found = [float(inputs["keras_distill/inputs"]) for inputs in indexed(dataset).ignore_errors()]
    np.testing.assert_allclose(found, [1 / (i - 3) for i in range(8) if i != 3])
