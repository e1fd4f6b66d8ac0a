"""Quantization-aware training."""

import warnings

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.compression import BitWidths, bake_quantization, fold_batch_norm, quantize_aware, tie_weights
from keras_distill.compression.fake_quantization import Quantized, fake_quantize
from keras_distill.losses import Hint, KLDivergence
from keras_distill.models.layers import walk_layers
from tests.compression.test_tying import nested, residual
from tests.support.helpers import compiled


def network(width=4, name="student"):
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Conv2DTranspose(width, 2, 2, activation="relu", name="transposed")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name=name)


def images(count=16):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 6, 6, 2)).astype("float32"), random.integers(0, 3, count)


def steps(kernel, axes, bits):
    """Kernels in units of the scales of their channels, float64."""
    kernel = np.asarray(kernel, "float64")
    scale = np.abs(kernel).max(axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
    return kernel / scale


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kernels_are_multiples_of_the_scales_of_their_channels(bits):
    model = network()
    copy = quantize_aware(model, images()[0], BitWidths(bits, None))
    for name, axes in (("depthwise", (0, 1)), ("transposed", (0, 1, 3)), ("logits", (0,))):
        quantized = np.array(copy.get_layer(name).quantized_kernel())
        kernel = np.array(model.get_layer(name).kernel, "float64")
        scale = np.abs(kernel).max(axis=axes, keepdims=True) / (2 ** (bits - 1) - 1)
        # Rounded to the nearest step, as by NumPy.
        np.testing.assert_allclose(quantized, np.round(kernel / scale) * scale, rtol=1e-5, atol=1e-7)
        assert len(np.unique(np.round(quantized / scale))) <= 2**bits - 1


def test_inputs_are_rounded_to_steps_of_their_range():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="sum", kernel_initializer="ones")(inputs))
    x = np.array([[0.0, 0.0, 7.0], [0.0, 0.0, 3.4], [0.0, 0.0, 1.6]], "float32")
    copy = quantize_aware(model, x, BitWidths(8, 3))
    # Seven steps of size 1.
    np.testing.assert_allclose(copy(x)[:, 0], [7, 3, 2], rtol=1e-6)
    # Values outside of the range are clipped.
    np.testing.assert_allclose(copy(np.array([[0.0, 0.0, 9.0]], "float32"))[:, 0], [7], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(0.0, 3.7), (-1.3, 2.0), (-6.0, 0.1)])
def test_matches_the_fake_quantization_op_of_converters(low, high, bits):
    values = np.random.default_rng(0).normal(scale=3, size=(50, 40)).astype("float32")
    expected = keras.quantizers.fake_quant_with_min_max_vars(values, low, high, num_bits=bits)
    # A value halfway between two steps may be rounded to either one in float32.
    step = (high - low) / (2**bits - 1)
    differs = np.abs(np.array(fake_quantize(values, low, high, bits)) - expected) > 1e-3 * step
    assert differs.mean() < 1e-3


def test_ranges_receive_gradients_from_all_values():
    import tensorflow as tf

    values = np.array([[0.4, 1.3, 2.2, 9.0]], "float32")
    high = tf.Variable(7.0)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fake_quantize(tf.constant(values), 0.0, high, 3))
    # With steps of size 1: round(v) - v for each value in the range and 7 for the one outside, divided by 7 steps and
    # multiplied by the gradient scale.
    inside = sum(round(value) - value for value in (0.4, 1.3, 2.2))
    np.testing.assert_allclose(tape.gradient(loss, high), (inside + 7) / 7 / np.sqrt(4 * 7), rtol=1e-5)


def test_error_grows_with_fewer_bits():
    model, (x, _) = network(), images()
    expected = np.array(model(x))
    deviation = expected.std()
    errors = {
        bits: np.abs(np.array(quantize_aware(model, x, BitWidths(bits, 8))(x)) - expected).mean() / deviation
        for bits in (8, 4, 2)
    }
    assert errors[8] < 0.05 < errors[2]
    assert errors[8] < errors[4] < errors[2]


def test_the_model_is_not_modified():
    model, (x, y) = network(), images()
    before = model.get_weights()
    compiled(quantize_aware(model, x)).fit(x, y, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_quantized_student_can_be_distilled():
    x, y = images(64)
    student = quantize_aware(network(), x, BitWidths(4, 4))
    before = {weight.path: weight.numpy() for weight in student.trainable_weights}
    terms = [Term(KLDivergence()), Term(Hint(), "relu", "relu", head="auto")]
    model = compiled(
        Distiller(student=student, teacher=network(8, "teacher"), terms=terms), keras.optimizers.Adam(0.01)
    )
    history = model.fit(x, y, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    # All kernels, biases and ranges change.
    unchanged = [weight.path for weight in student.trainable_weights if np.array_equal(before[weight.path], weight)]
    assert unchanged == []


def test_gradients_pass_rounding():
    import tensorflow as tf

    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="dense")(inputs))
    copy = quantize_aware(model, np.ones((1, 3), "float32"), BitWidths(2, None))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(copy(x))
    (gradient,) = tape.gradient(loss, [copy.get_layer("dense").layer.kernel.value])
    # The gradient of the sum of outputs with respect to a kernel entry is the sum of its input.
    np.testing.assert_allclose(gradient, np.tile(x.sum(0)[:, None], (1, 2)), rtol=1e-5)


def test_calibrated_ranges_can_be_fixed():
    x, y = images()
    copy = quantize_aware(network(), x, train_ranges=False)
    layer = copy.get_layer("depthwise")
    before = float(layer.low), float(layer.high)
    assert before[0] == 0 and before[1] > 0
    compiled(copy).fit(x, y, verbose=0)
    assert (float(layer.low), float(layer.high)) == before


def test_overrides_by_pattern():
    copy = quantize_aware(network(), images()[0], BitWidths(8, 8), {"logits": None, "*conv*": BitWidths(4, 8)})
    weight_bits = {layer.name: layer.weights_bits for layer in copy.layers if isinstance(layer, Quantized)}
    assert weight_bits == {"conv": 4, "depthwise": 8, "transposed": 8}


def test_saved_and_loaded(tmp_path):
    x, _ = images()
    copy = quantize_aware(network(), x, BitWidths(4, 8))
    copy.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(loaded(x), copy(x))


def test_baked_model_has_the_same_outputs():
    x, _ = images()
    copy = quantize_aware(network(), x, BitWidths(4, 8))
    baked = bake_quantization(copy)
    np.testing.assert_array_equal(baked(x), copy(x))
    kernel = baked.get_layer("logits").layer.kernel
    units = steps(kernel, (0,), 4)
    np.testing.assert_allclose(units, np.round(units), atol=1e-5)
    with pytest.raises(ValueError, match="'student' has no quantized layers"):
        bake_quantization(network())


def test_jit_and_mixed_precision():
    x, y = images()
    keras.config.set_dtype_policy("mixed_float16")
    copy = quantize_aware(network(), x)
    keras.config.set_dtype_policy("float32")
    model = Distiller(student=copy, teacher=network(8, "teacher"), terms=[Term(KLDivergence())])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


def test_rejects_what_cannot_be_quantized():
    x, _ = images()
    with pytest.raises(ValueError, match="No layer to quantize matches 'dense_\\*'.*'conv', 'depthwise'"):
        quantize_aware(network(), x, overrides={"dense_*": None})
    with pytest.raises(ValueError, match="from 2 to 8. Received: BitWidths\\(weights=1, activations=8\\)"):
        quantize_aware(network(), x, BitWidths(1))
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1. Received: 0"):
        quantize_aware(network(), x, batch_size=0)
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="has no layer that can be quantized \\(Dense, Conv1D"):
        quantize_aware(keras.Model(inputs, keras.layers.ReLU()(inputs)), np.ones((1, 3), "float32"))


def test_tied_blocks_stay_tied():
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    for model in (
        tie_weights(residual(), [f"block_{number}_*" for number in range(1, 5)], exclude=["*_bn"]),
        tie_weights(nested(), ["block_0", "block_1", "block_2"]),
    ):
        folded, copy = fold_batch_norm(model), quantize_aware(model, x)
        ranges = sum(
            2 for layer in {id(layer): layer for _, layer in walk_layers(copy)}.values() if isinstance(layer, Quantized)
        )
        assert copy.count_params() == folded.count_params() + ranges == bake_quantization(copy).count_params()
        np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(bake_quantization(copy)(x), copy(x), atol=1e-5)


def partly_quantizable():
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.ReLU()(x))
    x = layers.SeparableConv2D(4, 3, name="separable")(x)
    x = layers.Reshape((4, 4))(x)
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = layers.TimeDistributed(layers.Dense(3, name="inner"), name="steps")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)), name="student")


def test_layers_that_stay_in_float_are_named():
    x = np.ones((4, 6, 6, 2), "float32")
    with pytest.warns(UserWarning, match="3 layers of 'student' are not quantized") as record:
        copy = quantize_aware(partly_quantizable(), x)
    (message,) = [str(warning.message) for warning in record if "stay in float" in str(warning.message)]
    assert "'separable' (SeparableConv2D), 'depthwise' (DepthwiseConv1D), 'steps/inner' (Dense)." in message
    assert [layer.name for layer in copy.layers if isinstance(layer, Quantized)] == ["conv", "logits"]


def test_no_warning_for_excluded_layers():
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(3, activation="relu", name="hidden")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_aware(model, np.ones((4, 4), "float32"), overrides={"logits": None})


def test_a_model_without_a_layer_that_is_quantized_raises():
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(2), name="steps")(inputs), name="m")
    with pytest.raises(ValueError, match="'m' has no layer that can be quantized"):
        quantize_aware(model, np.ones((2, 4, 3), "float32"))


def test_examples_that_calibrate_no_range_raise():
    model, (x, _) = network(), images()
    with pytest.raises(ValueError, match="`examples` is empty"):
        quantize_aware(model, x[:0])
    for value in (np.nan, np.inf):
        x[3, 0, 0, 0] = value
        with pytest.raises(ValueError, match="contain NaN or infinity.*Check `examples`"):
            quantize_aware(model, x)
