"""Students made by `shrink`."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.compression import shrink
from keras_distill.compression.profiling import count_multiply_adds, count_parameters
from keras_distill.models.layers import direct_weights, walk_layers
from keras_distill.models.specs import symbolic_inputs
from tests.support import shrinkable_models as models
from tests.support.helpers import assert_same_weights, weights_of

# {model: fraction of the parameters with width 0.5, with depth 0.5}; 1 for a model without repeated blocks.
SMALL = {
    "mlp": (0.28, 0.56),
    "cnn": (0.25, 0.77),
    "unet": (0.25, 0.76),
    "residual": (0.26, 0.51),
    "text_classifier": (0.28, 0.60),
    "vision_transformer": (0.28, 0.52),
    "hub_classifier": (0.26, 0.54),
    "hub_language_model": (0.26, 0.52),
    "hub_layers": (0.27, 0.53),
    "hub_decoder": (0.27, 0.51),
    "model_with_backbone": (0.26, 0.55),
    "nested": (0.27, 0.60),
    "various_layers": (0.25, 1),
}
LARGE = {
    "mobile_net": (0.27, 0.77),
    "res_net": (0.25, 0.70),
    "efficient_net": (0.27, 0.78),
    "conv_next": (0.25, 0.64),
}


@functools.cache
def teacher(name):
    keras.utils.set_random_seed(0)
    return getattr(models, name)()


@functools.cache
def student(name):
    """Student of half the width and half the depth."""
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return shrink(teacher(name), 0.5, 0.5)


def batch(model, count=2):
    """Inputs of a model: normally distributed numbers, or ones for class indices and masks."""
    random = np.random.default_rng(0)

    def values(tensor):
        shape = (count, *(size or 8 for size in tensor.shape[1:]))
        numbers = random.normal(size=shape) if "float" in tensor.dtype else np.ones(shape)
        return tf.constant(numbers, tensor.dtype)

    return keras.tree.map_structure(values, symbolic_inputs(model))


def shapes(structure):
    return [tuple(leaf.shape) for leaf in keras.tree.flatten(structure)]


def layer_shapes(model):
    """`{name: shape of the first weight}` of all layers that have weights."""
    return {layer.name: tuple(layer.weights[0].shape) for layer in model.layers if layer.weights}


@pytest.mark.parametrize("name", SMALL)
def test_number_of_parameters(name):
    width, depth = SMALL[name]
    total = count_parameters(teacher(name))
    assert count_parameters(shrink(teacher(name), width=0.5)) / total == pytest.approx(width, abs=0.03)
    if depth < 1:
        assert count_parameters(shrink(teacher(name), depth=0.5)) / total == pytest.approx(depth, abs=0.03)
    assert count_parameters(student(name)) / total < 0.3


@pytest.mark.parametrize("name", SMALL)
def test_shapes_names_and_saving(name, tmp_path):
    large, small = teacher(name), student(name)
    inputs = batch(large)
    # Without `training`, Keras' augmentation layers are active.
    outputs = small(inputs, training=False)
    assert shapes(outputs) == shapes(large(inputs, training=False))
    assert shapes(symbolic_inputs(small)) == shapes(symbolic_inputs(large))
    paths = [{path for path, layer in walk_layers(each) if direct_weights(layer)} for each in (small, large)]
    assert paths[0] <= paths[1]
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    keras.tree.map_structure(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), loaded(inputs, training=False), outputs
    )


@pytest.mark.parametrize("name", SMALL)
def test_one_step_of_distillation(name):
    large, small = teacher(name), shrink(teacher(name), 0.5)
    before, kept = weights_of(small), weights_of(large)
    rank_2 = len(small.output_shape) == 2
    terms = [Term("mse")] if name == "mlp" or not rank_2 else None
    distiller = Distiller(student=small, teacher=large, terms=terms)
    distiller.compile("sgd", jit_compile=False)
    assert np.isfinite(distiller.train_on_batch(batch(large, 4))).all()
    assert any(np.any(one != other) for one, other in zip(before, small.get_weights()))
    assert_same_weights(kept, large.get_weights(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name", ["mobile_net", "res_net", "efficient_net", pytest.param("conv_next", marks=pytest.mark.slow)]
)
def test_keras_applications(name, tmp_path):
    large = teacher(name)
    kept, config = weights_of(large), repr(large.get_config())
    small = student(name)
    total, (width, depth) = count_parameters(large), LARGE[name]
    assert count_parameters(small) / total == pytest.approx(width * depth, abs=0.03)
    assert count_multiply_adds(small) < 0.4 * count_multiply_adds(large)
    inputs = batch(large)
    outputs = small(inputs)
    assert outputs.shape == (2, 7)
    small.save(tmp_path / "small.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "small.keras")(inputs), outputs, atol=1e-5)
    distiller = Distiller(student=small, teacher=large)
    distiller.compile("sgd", jit_compile=False)
    assert np.isfinite(distiller.train_on_batch(inputs)).all()
    assert_same_weights(kept, large.get_weights(), rtol=0, atol=0)
    assert repr(large.get_config()) == config


@pytest.mark.slow
def test_dense_net_has_no_repeated_blocks():
    with pytest.warns(UserWarning, match="'densenet121': `depth` has no effect"):
        small = shrink(teacher("dense_net"), 0.5, 0.5)
    assert count_parameters(small) / count_parameters(teacher("dense_net")) == pytest.approx(0.26, abs=0.02)
    assert small(batch(small)).shape == (2, 7)


def test_widths_of_a_residual_network():
    small = student("residual")
    # The stem is added to the inputs of 8 channels; blocks 0 and 2 of 4 are kept.
    assert layer_shapes(small) == {
        "stem": (3, 3, 8, 8),
        "widen": (1, 1, 8, 16),
        **{f"{part}_{number}": (3, 3, 16, 16) for number in (0, 2) for part in ("first", "second")},
        **{f"bn_{number}": (16,) for number in (0, 2)},
        "logits": (16, 5),
    }


def test_widths_of_various_layers():
    small = student("various_layers")
    assert layer_shapes(small) == {
        "conv": (3, 3, 3, 32),
        "group_norm": (32,),
        "prelu": (1, 1, 32),
        "grouped": (3, 3, 8, 32),
        "depthwise_as_groups": (3, 3, 1, 32),
        "instance_norm": (32,),
        "glu": (1, 1, 32, 64),
        "reduce": (1, 1, 32, 8),
        "expand": (1, 1, 8, 32),
        "gate": (1, 1, 32, 1),
        "separable": (3, 3, 32, 1),
        "depthwise": (3, 3, 32, 1),
        "dense": (8 * 8 * 32, 128),
        "image": (4, 4, 3, 8),
    }
    assert small.get_layer("group_norm").groups == 32 and small.get_layer("unflatten").target_shape == (4, 4, 8)


def test_a_transformer_keeps_the_size_of_its_heads():
    attention = student("vision_transformer").get_layer("attention_2")
    assert (attention.num_heads, attention.key_dim) == (2, 16)
    thin = shrink(teacher("vision_transformer"), 0.375).get_layer("attention_2")
    # 4 * 0.375 heads is not an integer.
    assert (thin.num_heads, thin.key_dim) == (4, 8)


def test_kept_blocks_are_evenly_spaced_and_the_first_is_kept():
    names = [layer.name for layer in shrink(teacher("vision_transformer"), depth=0.75).layers]
    assert [number for number in range(4) if f"block_{number}" in names] == [0, 2, 3]
    names = [layer.name for layer in shrink(teacher("mlp"), depth=0.25).layers]
    # The first layer reads 20 inputs; of the four others one is kept.
    assert names == ["dense_0", "dropout_0", "dense_1", "dropout_1", "logits", "out"]


def test_blocks_with_a_second_input_in_common():
    inputs, mask = keras.Input((6, 16), name="x"), keras.Input((6, 1), name="mask")
    gate, x = keras.layers.Dense(16, activation="sigmoid", name="mask_gate")(mask), inputs
    for number in range(4):
        x = keras.layers.Multiply(name=f"masked_{number}")([keras.layers.Dense(16, name=f"dense_{number}")(x), gate])
    model = keras.Model([inputs, mask], x)
    small = shrink(model, depth=0.5)
    assert set(layer_shapes(small)) == {"mask_gate", "dense_0", "dense_2"}
    values = [np.ones((1, 6, 16), "float32"), np.ones((1, 6, 1), "float32")]
    assert small(values).shape == (1, 6, 16)


def test_outputs_in_between_are_kept():
    inputs = keras.Input((16,))
    outputs, x = [], inputs
    for number in range(4):
        x = keras.layers.Dense(16, name=f"dense_{number}")(x)
        outputs.append(x)
    with pytest.raises(ValueError, match="Nothing of .*'dense_0', 'dense_1'"):
        shrink(keras.Model(inputs, outputs), 0.5, 0.5)


def test_shared_layers_stay_shared():
    large, small = teacher("nested"), student("nested")
    assert len({id(layer) for layer in small.layers}) == len(small.layers)
    inner, inner_teacher = small.get_layer("inner"), large.get_layer("inner")
    assert isinstance(inner, keras.Sequential) and inner.get_layer("inner_1").units == 16
    # The shared layer makes the inputs of both calls of a model whose outputs are added to nothing of fixed width.
    assert small.get_layer("shared").units == 8 and inner_teacher.get_layer("inner_1").units == 32
    assert [layer.name for layer in small.layers if layer.name.startswith("block")] == ["block_0", "block_2"]


def test_preprocessing_keeps_its_state(tmp_path):
    random = np.random.default_rng(0)
    data = random.normal(3, 2, (64, 4)).astype("float32")
    normalization = keras.layers.Normalization(name="normalization")
    normalization.adapt(data)
    inner = keras.Sequential([keras.Input((4,)), normalization], name="preprocessing")
    hidden = [keras.layers.Dense(16, name="hidden"), keras.layers.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((4,)), inner, *hidden])
    small = shrink(model, 0.5)
    expected = (data - data.mean(axis=0)) / data.std(axis=0)
    np.testing.assert_allclose(small.get_layer("preprocessing")(data), expected, atol=1e-4)
    assert small.get_layer("preprocessing") is not inner


def test_a_vocabulary_is_kept():
    vectorization = keras.layers.TextVectorization(max_tokens=10, output_sequence_length=3, name="words")
    vectorization.adapt(["good film", "bad film"])
    hidden = [keras.layers.Embedding(10, 16, name="embedding"), keras.layers.GlobalAveragePooling1D()]
    model = keras.Sequential([keras.Input((), dtype="string"), vectorization, *hidden, keras.layers.Dense(2)])
    small = shrink(model, 0.5)
    texts = tf.constant(["bad good", "film"])
    np.testing.assert_array_equal(small.get_layer("words")(texts), vectorization(texts))
    assert small.get_layer("words").get_vocabulary() == vectorization.get_vocabulary()
    assert layer_shapes(small)["embedding"] == (10, 8)


def test_all_layers_are_trainable_and_keep_their_dtype_policy():
    hidden = [keras.layers.Dense(16, dtype="mixed_float16", name="hidden"), keras.layers.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((4,)), *hidden])
    model.trainable = False
    small = shrink(model, 0.5)
    assert len(small.trainable_weights) == 4 and not model.trainable_weights
    assert small.get_layer("hidden").dtype_policy.name == "mixed_float16"


GATES = {keras.layers.LSTMCell: 4, keras.layers.GRUCell: 3}


def first_units(array, shape, gates):
    """Return the first elements of each axis; of the last one those of each gate, one gate after another."""
    parts = np.split(array[tuple(slice(size) for size in shape[:-1])], gates, axis=-1)
    return np.concatenate([part[..., : shape[-1] // gates] for part in parts], axis=-1)


@pytest.mark.parametrize("name", ["residual", "vision_transformer", "text_classifier", "nested"])
def test_copies_the_first_units_of_the_kept_blocks(name):
    large = teacher(name)
    with warnings.catch_warnings():
        # No weight is left without a source.
        warnings.simplefilter("error")
        small = shrink(large, 0.5, 0.5, copy=True)
    sources = dict(walk_layers(large))
    for path, layer in walk_layers(small):
        for weight, source in zip(direct_weights(layer), direct_weights(sources.get(path, layer)), strict=True):
            np.testing.assert_array_equal(
                weight, first_units(np.asarray(source), weight.shape, GATES.get(type(layer), 1))
            )


def test_a_deep_copy_of_residual_blocks_computes_the_same_where_the_others_add_nothing():
    keras.utils.set_random_seed(0)
    large = models.residual()
    for number in (1, 3):
        layer = large.get_layer(f"second_{number}")
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    small = shrink(large, depth=0.5, copy=True)
    np.testing.assert_allclose(small(batch(large)), large(batch(large)), atol=1e-5)


def test_invalid_arguments():
    for arguments in ({"width": 0.0}, {"width": 1.5}, {"depth": -1}, {"depth": float("nan")}, {"width": "half"}):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
            shrink(teacher("mlp"), **arguments)
    with pytest.raises(ValueError, match="`width` and `depth` are both 1"):
        shrink(teacher("mlp"))


def test_a_sequential_that_is_not_built():
    with pytest.raises(ValueError, match="'draft' is not built. Call it on data, or begin it with a keras.Input"):
        shrink(keras.Sequential([keras.layers.Dense(4)], name="draft"), 0.5)


def test_a_sequential_that_was_built_from_data():
    model = keras.Sequential([keras.layers.Dense(16, name="hidden"), keras.layers.Dense(2, name="logits")])
    model(np.ones((1, 4), "float32"))
    assert shrink(model, 0.5)(np.ones((3, 4), "float32")).shape == (3, 2)


def test_warns_if_one_argument_has_no_effect():
    layers = [keras.layers.Dense(16, name="hidden"), keras.layers.Dense(2, name="logits")]
    with pytest.warns(UserWarning, match="`depth` has no effect: there are no repeated blocks"):
        small = shrink(keras.Sequential([keras.Input((4,)), *layers]), 0.5, 0.5)
    assert layer_shapes(small) == {"hidden": (4, 8), "logits": (8, 2)}
    equal = [keras.layers.Dense(4, name=f"dense_{number}") for number in range(4)]
    inputs = keras.Input((4,))
    x = inputs
    for layer in equal:
        x = keras.layers.Add()([x, layer(x)])
    with pytest.warns(UserWarning, match="`width` has no effect: the layers 'dense_0', .* are joined with inputs"):
        small = shrink(keras.Model(inputs, x), 0.5, 0.5)
    assert layer_shapes(small) == {"dense_0": (4, 4), "dense_2": (4, 4)}
