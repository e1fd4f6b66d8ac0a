"""Lists of taps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.models.inspection import tappable
from keras_distill.models.specs import trace
from keras_distill.models.taps import Taps
from tests.support.helpers import features, mlp


def network():
    """Return a model with attention, a layer called twice, a layer with several outputs and a recurrent cell."""
    inputs = keras.Input((6, 8))
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    twice = keras.layers.Dense(8, name="twice")
    sequence, *_ = keras.layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(twice(twice(attended)))
    backbone = keras.Model(inputs, sequence, name="backbone")
    outputs = {"tokens": backbone(inputs), "mean": keras.layers.GlobalAveragePooling1D(name="mean")(backbone(inputs))}
    return keras.Model(inputs, outputs, name="network")


def test_listed_taps_can_be_tapped_and_have_the_listed_shape():
    model = network()
    listed = {entry.tap: entry for entry in tappable(model) if not entry.note}
    activations = Taps(model, listed)(features(3, 6, 8), training=False)
    assert {tap: (None, *tensor.shape[1:]) for tap, tensor in activations.items()} == {
        tap: entry.shape for tap, entry in listed.items()
    }
    # The backbone is called twice, and so are its layers.
    for tap in ("backbone/attention/query@1", "backbone/twice@3", "backbone/lstm@0[2]", "mean", "output[mean]"):
        assert tap in listed


def test_untappable_layers_have_a_note():
    model = network()
    untappable = {entry.tap: entry.note for entry in tappable(model) if entry.note}
    assert "AttentionRelation" in untappable["backbone/attention/softmax"]
    assert "inside a loop" in untappable["backbone/lstm/lstm_cell"]
    for tap in untappable:
        with pytest.raises(ValueError, match=f"'{tap}' of 'network' "):
            trace(lambda x, tap=tap: Taps(model, [tap])(x, training=False), tf.TensorSpec((None, 6, 8)))


def test_a_dense_network():
    rows = [(entry.tap, entry.shape, entry.dtype, entry.layer, entry.parameters) for entry in tappable(mlp())]
    assert rows == [
        ("features", (None, 8), "float32", "Dense", 8 * 8 + 8),
        ("logits", (None, 3), "float32", "Dense", 8 * 3 + 3),
        ("output", (None, 3), "float32", "Sequential", 8 * 8 + 8 + 8 * 3 + 3),
    ]


def test_a_model_that_is_not_built_needs_inputs():
    model = keras.Sequential([keras.layers.Dense(2, name="dense")], name="late")
    with pytest.raises(ValueError, match="The input shapes of 'late' are unknown"):
        tappable(model)
    assert [entry.tap for entry in tappable(model, inputs=np.zeros((1, 4), "float32"))] == ["dense", "output"]


def encoder_decoder(size):
    """Return a model of feature maps of two sizes, of which the first returns; with a squeeze of the smaller ones."""
    layers = keras.layers
    first = layers.Conv2D(2, 3, padding="same", name="first")(inputs := keras.Input((size, size, 3)))
    down = layers.Conv2D(2, 3, 2, padding="same", name="down")(first)
    squeezed = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(down)
    scaled = layers.Multiply(name="scale")([down, squeezed])
    up = layers.UpSampling2D(name="up")(scaled)
    merged = layers.Add(name="merge")([first, up])
    return keras.Model(inputs, layers.Dense(2, name="logits")(merged))


def test_stages_are_runs_of_one_resolution():
    entries = {entry.tap: (entry.stage, entry.last) for entry in tappable(encoder_decoder(8))}
    assert entries == {
        "first": (1, True),
        "down": (2, False),
        "squeeze": (None, False),
        "scale": (2, True),
        "up": (3, False),
        "merge": (3, False),
        "logits": (3, False),
        "output": (3, True),
    }
    assert {entry.stage for entry in tappable(encoder_decoder(None))} == {None}
    assert {entry.stage for entry in tappable(mlp())} == {None}


def test_stages_of_a_large_network():
    """The last activations of MobileNetV3's five resolutions are those where its authors' models are tapped."""
    model = keras.applications.MobileNetV3Small((224, 224, 3), weights=None, include_top=False)
    last = [entry for entry in tappable(model) if entry.last]
    sizes = [entry.shape[1] for entry in last]
    assert sizes == [224, 112, 56, 28, 14, 7], last
