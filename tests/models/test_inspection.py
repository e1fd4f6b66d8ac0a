import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.models.inspection import tappable
from keras_distill.models.specs import trace
from keras_distill.models.taps import Taps
from tests.support.helpers import features, mlp


def network():
    """Attention, a layer called twice, one of several outputs, and a cell in a loop."""
    inputs = keras.Input((6, 8))
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    twice = keras.layers.Dense(8, name="twice")
    sequence, *_ = keras.layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(twice(twice(attended)))
    backbone = keras.Model(inputs, sequence, name="backbone")
    outputs = {"tokens": backbone(inputs), "mean": keras.layers.GlobalAveragePooling1D(name="mean")(backbone(inputs))}
    return keras.Model(inputs, outputs, name="network")


def test_every_tap_that_is_listed_can_be_tapped_and_has_the_shape_that_is_listed():
    model = network()
    listed = {entry.tap: entry for entry in tappable(model) if not entry.note}
    activations = Taps(model, listed)(features(3, 6, 8), training=False)
    assert {tap: (None, *tensor.shape[1:]) for tap, tensor in activations.items()} == {
        tap: entry.shape for tap, entry in listed.items()
    }
    # The backbone runs twice, and so does what is in it.
    for tap in ("backbone/attention/query@1", "backbone/twice@3", "backbone/lstm@0[2]", "mean", "output[mean]"):
        assert tap in listed


def test_what_cannot_be_tapped_is_listed_with_the_reason():
    model = network()
    hidden = {entry.tap: entry.note for entry in tappable(model) if entry.note}
    assert "AttentionRelation" in hidden["backbone/attention/softmax"]
    assert "inside a loop" in hidden["backbone/lstm/lstm_cell"]
    for tap in hidden:
        with pytest.raises(ValueError, match=f"'{tap}' of 'network' "):
            trace(lambda x, tap=tap: Taps(model, [tap])(x, training=False), tf.TensorSpec((None, 6, 8)))


def test_a_dense_network():
    rows = [(entry.tap, entry.shape, entry.dtype, entry.layer, entry.parameters) for entry in tappable(mlp())]
    assert rows == [
        ("features", (None, 8), "float32", "Dense", 8 * 8 + 8),
        ("logits", (None, 3), "float32", "Dense", 8 * 3 + 3),
        ("output", (None, 3), "float32", "Sequential", 8 * 8 + 8 + 8 * 3 + 3),
    ]


def test_a_model_that_was_not_built_asks_for_inputs():
    model = keras.Sequential([keras.layers.Dense(2, name="dense")], name="late")
    with pytest.raises(ValueError, match="The shapes of the inputs of 'late' are not known"):
        tappable(model)
    assert [entry.tap for entry in tappable(model, inputs=np.zeros((1, 4), "float32"))] == ["dense", "output"]
