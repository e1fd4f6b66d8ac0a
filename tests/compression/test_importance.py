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


@pytest.mark.case("D7")
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
    with pytest.raises(ValueError, match=r"no score for the repeated block .* \['first_3', 'bn_3', 'second_3'\]"):
        shrink(models.residual(), depth=0.5, importance=Importance({f"bn_{number}": 1.0 for number in range(3)}))


def test_examples_that_cannot_be_measured():
    model = models.mlp()
    with pytest.raises(ValueError, match="`examples` is empty"):
        measure_importance(model, inputs(0, 20))
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure_importance(model, np.full((2, 20), np.nan))


def assert_narrow_copy_computes_the_same(large, x, **settings):
    """Check a student of half the width whose teacher's other units are all 0."""
    small = shrink(large, width=0.5, copy=True, importance=x, **settings)
    assert small.count_params() < 0.6 * large.count_params()
    np.testing.assert_allclose(small(x), large(x), rtol=1e-4, atol=1e-5)
    return small


def silence(weight, axis, units):
    """Let some units of a weight be 0."""
    values = weight.numpy()
    values[(slice(None),) * axis + (units,)] = 0
    weight.assign(values)


def test_units_that_are_zero_are_left_out():
    keras.utils.set_random_seed(0)
    large = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="first"),
            keras.layers.Dense(4, activation="tanh", name="second"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    silence(large.get_layer("first").kernel, 1, [0, 1, 4, 6])
    silence(large.get_layer("second").kernel, 1, [0, 3])
    small = assert_narrow_copy_computes_the_same(large, inputs(5, 6))
    np.testing.assert_array_equal(
        small.get_layer("second").kernel, large.get_layer("second").kernel.numpy()[[2, 3, 5, 7]][:, [1, 2]]
    )


def test_channels_of_a_residual_stream_are_the_same_everywhere():
    keras.utils.set_random_seed(0)
    large, unused = models.residual(), np.random.default_rng(0).permutation(32)[:16]
    for name in ["widen", *(f"{part}_{number}" for number in range(4) for part in ("second", "first"))]:
        silence(large.get_layer(name).kernel, 3, unused)
    assert_narrow_copy_computes_the_same(large, inputs(5, 8, 8, 8))


def stored(model, *paths):
    """Return the values of weights by path, without the number that Keras appends to the name of a model."""
    weights = {weight.path: weight.numpy() for weight in model.weights}
    return [next(value for name, value in weights.items() if name.endswith(path)) for path in paths]


def hidden_scores(model, x):
    """Sum of the importance of the normalized hidden states of a Llama, by NumPy."""
    blocks = [model.get_layer(f"transformer_layer_{number}") for number in range(model.num_layers)]
    total, hidden = 0, model.token_embedding(x["token_ids"])
    for block in blocks:
        states = block._self_attention_layernorm(hidden)
        between = hidden + block._self_attention_layer(
            states, attention_mask=np.tril(np.ones((1, 6, 6), bool)) & (x["padding_mask"] > 0)[:, None]
        )
        for tensor in (states, block._feedforward_layernorm(between)):
            sizes, weight = np.abs(np.asarray(tensor, "float64")), x["padding_mask"][..., None]
            total = total + np.sqrt((((sizes * weight).sum(axis=1) / weight.sum(axis=1)) ** 2).sum(axis=0))
        hidden = block(hidden, decoder_padding_mask=x["padding_mask"])
    return total


def test_units_of_a_llama_with_grouped_query_attention():
    large, x = llama(num_layers=2, num_query_heads=8, num_key_value_heads=4), hub_inputs()
    for number in range(2):
        block = large.get_layer(f"transformer_layer_{number}")
        # Key-value heads 0 and 2, and the second query head of each key-value head.
        silence(block._self_attention_layer._value_dense.kernel, 1, [0, 2])
        silence(block._feedforward_gate_dense.kernel, 1, list(range(64)))
    small = shrink(large, width=0.5, copy=True, importance=x)
    hidden = np.sort(np.argsort(-hidden_scores(large, x))[:32])
    assert not np.array_equal(hidden, np.arange(32))
    query, key, output, up, down = (
        "transformer_layer_1/self_attention/query/kernel",
        "transformer_layer_1/self_attention/key/kernel",
        "transformer_layer_1/self_attention/attention_output/kernel",
        "transformer_layer_1/feedforward_intermediate_dense/kernel",
        "transformer_layer_1/feedforward_output_dense/kernel",
    )
    axes = {
        "token_embedding/embeddings": (range(30), hidden),
        "sequence_output_layernorm/scale": (hidden,),
        query: (hidden, [2, 3, 6, 7], range(8)),
        key: (hidden, [1, 3], range(8)),
        output: ([2, 3, 6, 7], range(8), hidden),
        up: (hidden, range(64, 128)),
        down: (range(64, 128), hidden),
    }
    for path, indices in axes.items():
        (source,), (copy,) = stored(large, path), stored(small, path)
        np.testing.assert_array_equal(copy, source[np.ix_(*indices)], err_msg=path)


def test_best_query_heads_of_the_best_key_value_heads():
    large, x = llama(num_layers=1, num_query_heads=8, num_key_value_heads=2), hub_inputs()
    attention = large.get_layer("transformer_layer_0")._self_attention_layer
    silence(attention._value_dense.kernel, 1, [0])
    small = shrink(large, width=0.5, copy=True, importance=x)
    kept = stored(small, "query/kernel")[0].shape[1]
    assert (kept, small.num_key_value_heads) == (4, 1)
    reads = measure_importance(large, x).units["transformer_layer_0/self_attention/attention_output"]
    assert reads.shape == (8, 8) and not reads[:4].any()
    hidden = np.sort(np.argsort(-hidden_scores(large, x))[:32])
    source, copy = stored(large, "query/kernel")[0], stored(small, "query/kernel")[0]
    np.testing.assert_array_equal(copy, source[np.ix_(hidden, [4, 5, 6, 7], range(8))])


def test_units_of_a_task_with_tied_embeddings():
    keras.utils.set_random_seed(0)
    large, x = models.hub_language_model(), hub_inputs()
    silence(large.backbone.get_layer("decoder_block_1").gating_ffw.kernel, 1, list(range(0, 64, 2)))
    small = shrink(large, width=0.5, copy=True, importance=x)
    source, copy = stored(large, "token_embedding/embeddings")[0], stored(small, "token_embedding/embeddings")[0]
    # Embeddings of different words differ, so that the channels can be recognized.
    hidden = [int(np.flatnonzero((source == column[:, None]).all(axis=0))[0]) for column in copy.T]
    assert len(set(hidden)) == 32 and hidden != list(range(32))
    gating, copy = (stored(model, "decoder_block_1/ffw_gating/kernel")[0] for model in (large, small))
    np.testing.assert_array_equal(copy, gating[np.ix_(hidden, range(1, 64, 2))])
    (scale,) = stored(small, "decoder_block_3/pre_ffw_norm/scale")
    np.testing.assert_array_equal(scale, stored(large, "decoder_block_3/pre_ffw_norm/scale")[0][hidden])


def test_units_of_blocks_that_are_called_otherwise_in_the_teacher():
    large, x = llama(), hub_inputs()
    for number in (0, 2):
        make_identity(large.get_layer(f"transformer_layer_{number}"))
    silence(large.get_layer("transformer_layer_3")._feedforward_gate_dense.kernel, 1, list(range(64)))
    small = shrink(large, width=0.5, depth=0.5, copy=True, importance=x)
    path = "transformer_layer_{}/feedforward_output_dense/kernel"
    (source,), (copy,) = stored(large, path.format(3)), stored(small, path.format(1))
    rows = [int(np.flatnonzero(np.isin(source, row).sum(axis=1) == 32)[0]) for row in copy]
    assert rows == list(range(64, 128))


def test_heads_of_a_keras_attention():
    keras.utils.set_random_seed(0)
    large = models.vision_transformer()
    for number in range(4):
        silence(large.get_layer(f"attention_{number}").value_dense.kernel, 1, [0, 3])
        silence(large.get_layer(f"mlp_{number}").kernel, 1, list(range(1, 128, 2)))
    small = shrink(large, width=0.5, copy=True, importance=inputs(3, 16, 16, 3))
    hidden = [
        int(np.flatnonzero((large.get_layer("patches").kernel.numpy() == kernel[..., None]).all(axis=(0, 1, 2)))[0])
        for kernel in np.moveaxis(small.get_layer("patches").kernel.numpy(), -1, 0)
    ]
    for number in range(4):
        attentions = [model.get_layer(f"attention_{number}") for model in (large, small)]
        source, copy = (attention.output_dense.kernel.numpy() for attention in attentions)
        np.testing.assert_array_equal(copy, source[np.ix_([1, 2], range(16), hidden)])
        source, copy = (model.get_layer(f"mlp_{number}").kernel.numpy() for model in (large, small))
        np.testing.assert_array_equal(copy, source[np.ix_(hidden, range(0, 128, 2))])


def test_units_that_a_nested_backbone_returns_are_the_first_ones():
    keras.utils.set_random_seed(0)
    large = models.model_with_backbone()
    small = shrink(large, width=0.5, copy=True, importance=hub_inputs() | {"segment_ids": np.zeros((3, 6), "int32")})
    source, copy = (stored(model, "token_embedding/embeddings")[0] for model in (large, small))
    np.testing.assert_array_equal(copy, source[:, :32])
    source, copy = (model.get_layer("dense").kernel.numpy() for model in (large, small))
    assert all((source[:32] == column[:, None]).all(axis=0).any() for column in copy.T)


@pytest.mark.parametrize("name", ["cnn", "unet", "text_classifier", "various_layers", "nested"])
def test_other_architectures_are_copied(name):
    keras.utils.set_random_seed(0)
    large = getattr(models, name)()
    x = [inputs(3, *[size or 6 for size in tensor.shape[1:]], seed=place) for place, tensor in enumerate(large.inputs)]
    x = [np.ones(each.shape, "int32") if name == "text_classifier" else each for each in x]
    small = shrink(large, width=0.5, copy=True, importance=x if len(x) > 1 else x[0])
    for path, weight in ((weight.path, weight.numpy()) for weight in small.weights if "seed" not in weight.path):
        # Every number is one of the teacher's weight.
        assert np.isin(weight, stored(large, path)[0]).all(), path


@pytest.mark.parametrize(("width", "heads"), [(5 / 6, 5), (2 / 3, 4)])
def test_numbers_of_heads_that_do_not_divide_the_hidden_size(width, heads):
    # If the number of heads changed alone, or the hidden size, heads would have the odd size 9 or 5.
    large, x = llama(num_layers=2, hidden_dim=48, num_query_heads=6, num_key_value_heads=6), hub_inputs()
    small = shrink(large, width=width, copy=True, importance=x)
    assert (small.num_query_heads, small.hidden_dim) == (heads, 8 * heads)
    source, copy = (stored(model, "layer_1/self_attention/attention_output/kernel")[0] for model in (large, small))
    hidden = np.sort(np.argsort(-hidden_scores(large, x))[: small.hidden_dim])
    scores = measure_importance(large, x).units["transformer_layer_1/self_attention/attention_output"]
    kept = np.sort(np.argsort(-np.linalg.norm(scores, axis=1))[:heads])
    np.testing.assert_array_equal(copy, source[np.ix_(kept, range(8), hidden)])


def test_the_size_of_a_head_that_shrinks_with_the_hidden_size():
    keras.utils.set_random_seed(0)
    large = models.hub_backbone(num_heads=3, hidden_dim=48, num_layers=2)
    x = hub_inputs() | {"segment_ids": np.zeros((3, 6), "int32")}
    small = shrink(large, width=0.5, copy=True, importance=x)
    source, copy = (stored(model, "layer_1/self_attention_layer/query/kernel")[0] for model in (large, small))
    assert source.shape == (48, 3, 16) and copy.shape == (24, 2, 12)
    # The first entries of a head, since those of queries and keys belong together.
    rows = [int(np.flatnonzero((source[:, :, :12] == row[:1]).any(axis=(1, 2)))[0]) for row in copy[:, 0]]
    heads = [head for head in range(3) if (source[rows[0], head, :12] == copy[0]).all(axis=-1).any()]
    np.testing.assert_array_equal(copy, source[np.ix_(rows, heads, range(12))])
