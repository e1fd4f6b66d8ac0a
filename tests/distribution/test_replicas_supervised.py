"""The supervised loss on several replicas is that of one device, for every loss, reduction and kind of labels."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import KLDivergence
from tests.support.loss_models import CLASSES
from tests.support.replica_comparison import EXAMPLES, assert_same_on_replicas, from_logits
from tests.support.replica_models import dense, numbers, tokens

pytestmark = [pytest.mark.replicas, pytest.mark.processes, pytest.mark.case("F6")]
REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", "none"]


def alone():
    return Distiller(student=dense("student"), teacher=None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions(reduction, weighted):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    x, y = numbers()
    y = np.where(np.arange(EXAMPLES) % 5 < 2, -1, y)
    data = (x, y, np.linspace(0.1, 2, EXAMPLES).astype("float32")) if weighted else (x, y)
    assert_same_on_replicas(alone, data, loss=loss)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["mean_squared_error", "binary_crossentropy"])
def test_missing_components(name, reduction):
    cls = {"mean_squared_error": keras.losses.MeanSquaredError, "binary_crossentropy": keras.losses.BinaryCrossentropy}
    options = {"from_logits": True} if name == "binary_crossentropy" else {}
    x, _ = numbers()
    y = np.random.default_rng(1).uniform(size=(EXAMPLES, CLASSES)).astype("float32")
    y[::3, 0], y[::4] = np.nan, np.nan
    assert_same_on_replicas(alone, (x, y), loss=cls[name](reduction=reduction, **options))


def of_sequences(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=(1, 2))


@pytest.mark.parametrize("missing", [False, True])
def test_a_loss_of_one_value_per_sequence(missing):
    def make():
        inputs = keras.Input((5, 8))
        return Distiller(student=keras.Model(inputs, keras.layers.Dense(2)(inputs)), teacher=None)

    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, 5, 8)).astype("float32")
    y = random.normal(size=(EXAMPLES, 5, 2)).astype("float32")
    if missing:
        y[::5], y[1, 2, 1] = np.nan, np.nan
    assert_same_on_replicas(make, (x, y), loss=of_sequences)


@pytest.mark.parametrize("loss", ["hinge", "mean_squared_error"])
def test_labels_of_minus_one(loss):
    x, y = numbers()
    targets = np.where(y[:, None] == np.arange(CLASSES), 1, -1)
    assert_same_on_replicas(alone, (x, targets), loss=loss)


@pytest.mark.parametrize("reduction", REDUCTIONS[:3])
def test_padded_tokens_of_unequal_number(reduction):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    random = np.random.default_rng(0)
    lengths = np.arange(EXAMPLES) % 5 + 1
    x = np.where(np.arange(5) < lengths[:, None], random.integers(1, 20, (EXAMPLES, 5)), 0)
    y = random.integers(0, CLASSES, (EXAMPLES, 5))
    assert_same_on_replicas(lambda: Distiller(student=tokens("student"), teacher=None), (x, y), loss=loss)


def test_a_mean_over_tokens():
    random = np.random.default_rng(0)
    lengths = np.arange(EXAMPLES) % 5 + 1
    x = np.where(np.arange(5) < lengths[:, None], random.integers(1, 20, (EXAMPLES, 5)), 0)

    def make():
        terms = [Term(KLDivergence(), over="tokens")]
        return Distiller(student=tokens("student"), teacher=tokens("teacher"), terms=terms)

    assert_same_on_replicas(make, (x,), loss=None)


def test_peers_with_missing_components():
    x, _ = numbers()
    y = np.random.default_rng(1).uniform(size=(EXAMPLES, CLASSES)).astype("float32")
    y[::3, 0], y[::4] = np.nan, np.nan

    def make():
        return MutualDistiller([dense("a"), dense("b")])

    assert_same_on_replicas(make, (x, y), loss=keras.losses.BinaryCrossentropy(from_logits=True))


def test_several_outputs():
    def make():
        inputs = keras.Input((8,))
        outputs = {"a": keras.layers.Dense(CLASSES, name="a")(inputs), "b": keras.layers.Dense(1, name="b")(inputs)}
        return Distiller(student=keras.Model(inputs, outputs), teacher=None)

    x, y = numbers()
    labels = {"a": np.where(np.arange(EXAMPLES) % 4, y, -1), "b": x[:, :1]}
    # Keras averages the losses of single outputs without the numbers of examples.
    options = {"metrics": {"a": ["accuracy"]}, "without": ("a_loss", "b_loss")}
    assert_same_on_replicas(make, (x, labels), loss={"a": from_logits, "b": "mse"}, **options)
