"""Importance of blocks and units, and students that are chosen by it."""

import pathlib

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.compression import Importance, block_influence, measure_importance, shrink, unit_importance
from tests.support import shrinkable_models as models

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
CASES = ["one_batch", "hard_three_batches"]


def golden(name, case):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        prefix = f"{case}__"
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def influence(before, after):
    """Block influence by NumPy in float64, one value per position."""
    before, after = np.asarray(before, "float64"), np.asarray(after, "float64")
    lengths = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return 1 - (before * after).sum(axis=-1) / lengths


@pytest.mark.parametrize("case", CASES)
def test_block_influence_of_published_code(case):
    arrays = golden("minitron_depth", case)
    # The reference adds up the calibration batches.
    scores = sum(
        np.array([np.mean(block_influence(x, y)) for x, y in zip(before, after)])
        for before, after in zip(arrays["in__inputs"], arrays["in__outputs"])
    )
    np.testing.assert_allclose(scores, arrays["out__scores"], rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["minitron_ffn", "minitron_hidden"])
def test_unit_importance_of_published_code(name, case):
    arrays = golden(name, case)
    activations = arrays["in__activations"]
    layers = [activations] if name == "minitron_ffn" else np.moveaxis(activations, 1, 0)
    scores = sum(unit_importance(layer.reshape(-1, *layer.shape[2:])) for layer in layers)
    np.testing.assert_allclose(scores, arrays["out__scores"], rtol=1e-5)


def test_influence_of_known_vectors():
    x, y = np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]]), np.array([[3.0, 0], [0, 2], [-1, 0], [1, 0]])
    np.testing.assert_allclose(block_influence(x, y), [0, 1, 2, 1], atol=1e-6)


def test_padding_does_not_count():
    before, after, mask = inputs(2, 5, 4), inputs(2, 5, 4, seed=1), np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = [influence(before, after)[0, :3].mean(), influence(before, after)[1].mean()]
    np.testing.assert_allclose(block_influence(before, after, mask), expected, rtol=1e-5)
    units = np.abs(after.reshape(2, 5, 2, 2))
    expected = np.sqrt(units[0, :3].mean(axis=0) ** 2 + units[1].mean(axis=0) ** 2)
    np.testing.assert_allclose(unit_importance(after.reshape(2, 5, 2, 2), mask, unit_axes=2), expected, rtol=1e-5)


def test_scores_of_a_residual_network_are_those_of_its_tensors():
    keras.utils.set_random_seed(0)
    model, x = models.residual(), inputs(5, 8, 8, 8)
    measured = measure_importance(model, x, batch_size=2)
    # The inputs of first_0 to first_3 are the tensors between the blocks; the last one is read by the pooling.
    between = [model.get_layer(f"first_{number}").input for number in range(4)] + [model.get_layer("pool").input]
    values = keras.Model(model.inputs, between)(x)
    for number in range(4):
        expected = influence(values[number], values[number + 1]).mean()
        for part in ("first", "bn", "second"):
            assert measured.blocks[f"{part}_{number}"] == pytest.approx(expected, rel=1e-4)
    assert len(measured.blocks) == 12
    hidden = np.asarray(keras.Model(model.inputs, model.get_layer("second_2").input)(x), "float64")
    expected = np.sqrt((np.abs(hidden).mean(axis=(1, 2)) ** 2).sum(axis=0))
    np.testing.assert_allclose(measured.units["second_2"], expected, rtol=1e-4)


def test_a_dataset_gives_the_same_scores_as_arrays():
    model, x = models.mlp(), inputs(6, 20)
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(6))).batch(4)
    arrays, batches = measure_importance(model, x), measure_importance(model, dataset)
    assert arrays.blocks == pytest.approx(batches.blocks, rel=1e-5)
    assert set(arrays.units) == set(batches.units) == {*(f"dense_{number}" for number in range(5)), "logits"}


def hub_inputs():
    tokens = np.random.default_rng(0).integers(1, 30, (3, 6)).astype("int32")
    return {"token_ids": tokens, "padding_mask": np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])}


def test_scores_of_a_language_model_leave_out_padding():
    keras.utils.set_random_seed(0)
    model, x = models.hub_language_model(), hub_inputs()
    measured = measure_importance(model, x)
    backbone = model.backbone
    names = [f"decoder_block_{number}" for number in range(4)]
    outputs = keras.Model(backbone.inputs, [backbone.get_layer(name).output for name in names])(x)
    changes = influence(outputs[0], outputs[1])
    expected = np.mean([changes[0].mean(), changes[1, :4].mean(), changes[2].mean()])
    assert measured.blocks["gemma_backbone/decoder_block_1"] == pytest.approx(expected, rel=1e-4)
    assert set(measured.blocks) == {f"gemma_backbone/{name}" for name in names}


def llama(**settings):
    """Grouped-query attention with rotary position embeddings, tied embeddings and a gated feed-forward network."""
    keras.utils.set_random_seed(0)
    sizes = {"vocabulary_size": 30, "num_layers": 4, "hidden_dim": 64, "intermediate_dim": 128}
    heads = {"num_query_heads": 4, "num_key_value_heads": 2}
    return keras_hub.models.Llama3Backbone(**(sizes | heads | settings), tie_word_embeddings=True)


def make_identity(block):
    """Let a residual block of a Llama return its input."""
    for layer in (block._self_attention_layer._output_dense, block._feedforward_output_dense):
        layer.kernel.assign(np.zeros(layer.kernel.shape))


def test_the_blocks_of_a_language_model_that_change_nothing_are_left_out():
    large, x = llama(), hub_inputs()
    for number in (0, 2):
        make_identity(large.get_layer(f"transformer_layer_{number}"))
    small = shrink(large, depth=0.5, copy=True, importance=x)
    assert small.num_layers == 2
    np.testing.assert_allclose(small(x), large(x), rtol=1e-4, atol=1e-5)


def test_the_blocks_of_a_functional_model_that_change_nothing_are_left_out():
    keras.utils.set_random_seed(0)
    large, x = models.residual(), inputs(5, 8, 8, 8)
    for number in (0, 3):
        layer = large.get_layer(f"second_{number}")
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    small = shrink(large, depth=0.5, copy=True, importance=x)
    assert [layer.name for layer in small.layers if layer.name.startswith("first")] == ["first_1", "first_2"]
    np.testing.assert_allclose(small(x), large(x), rtol=1e-4, atol=1e-5)


def test_blocks_are_chosen_by_scores_of_ones_own():
    scores = {f"second_{number}": score for number, score in enumerate([0.1, 0.5, 0.3, 0.5])}
    small = shrink(models.residual(), depth=0.75, importance=Importance(scores))
    assert [layer.name for layer in small.layers if layer.name.startswith("first")] == ["first_1", "first_2", "first_3"]
    with pytest.raises(ValueError, match=r"no score for the repeated block .* layers \['first_3', 'bn_3', 'second_3'\]"):
        shrink(models.residual(), depth=0.5, importance=Importance({f"bn_{number}": 1.0 for number in range(3)}))


def test_examples_that_cannot_be_measured():
    model = models.mlp()
    with pytest.raises(ValueError, match="`examples` is empty"):
        measure_importance(model, inputs(0, 20))
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure_importance(model, np.full((2, 20), np.nan))
