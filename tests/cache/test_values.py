"""Values that no loss can use: refused when the cache is written, and when it is read."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.cache import Views, label, open_cache
from keras_distill.data.batch import Batch, split_inputs
from tests.support.helpers import data, mlp


def logits_of_inputs(x):
    return x[:, :3]


def inputs(value=None, row=13):
    x = data()[0].copy()
    if value is not None:
        x[row, 1] = value
    return x


def stored(directory, count=24):
    (joined,) = open_cache(directory).join((inputs(),)).batch(count)
    return split_inputs(joined)[1]["output"].numpy()


@pytest.mark.case("E3")
@pytest.mark.parametrize(("value", "storable"), [(1e5, False), (-1e5, False), (65504.0, True), (-np.inf, True)])
@pytest.mark.parametrize("batch_size", [5, 24])
def test_overflow_of_float16_is_refused(tmp_path, value, storable, batch_size):
    x = inputs(value)
    if storable:
        label(logits_of_inputs, (x,), tmp_path, dtype="float16", batch_size=batch_size, verbose=0)
        open_cache(tmp_path).verify()
        return
    with pytest.raises(ValueError, match="'output' of example 13 exceeds the largest float16, 65,504. Store it as bf"):
        label(logits_of_inputs, (x,), tmp_path, dtype="float16", batch_size=batch_size, verbose=0)
    for dtype in ("bfloat16", "float32"):
        label(logits_of_inputs, (x,), tmp_path / dtype, dtype=dtype, batch_size=batch_size, verbose=0)
        open_cache(tmp_path / dtype).verify()


@pytest.mark.case("E3")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"dtype": "bfloat16"}])
def test_nan_of_the_teacher_is_refused(tmp_path, value, options):
    with pytest.raises(ValueError, match="outputs NaN or infinity at 'output' for example 13"):
        label(logits_of_inputs, (inputs(value),), tmp_path, verbose=0, **options)


@pytest.mark.case("E3")
def test_the_example_of_a_view_is_named(tmp_path):
    views = Views(3, lambda x, seed: x)
    with pytest.raises(ValueError, match="for example 13"):
        label(logits_of_inputs, (inputs(np.nan),), tmp_path, views=views, verbose=0)


@pytest.mark.case("E3")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_teacher_with_nan_weights_is_refused(tmp_path, value):
    teacher = mlp(16, name="teacher")
    teacher.layers[0].bias.assign(np.full(16, value))
    with pytest.raises(ValueError, match="The teacher's weights .*features/bias.* contain NaN or infinity"):
        label(teacher, data(), tmp_path, verbose=0)
    assert list(tmp_path.iterdir()) == []


def change(directory, value, shard, row):
    """Write a value into a stored activation, in place."""
    array = np.load(directory / f"{shard:05d}.output.npy", mmap_mode="r+")
    array[row, 1] = value
    array.flush()


@pytest.mark.case("E2")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_with_nan_is_named_when_it_is_read(tmp_path, dtype, value):
    label(logits_of_inputs, (inputs(),), tmp_path, dtype=dtype, batch_size=8, shard_bytes=1, verbose=0)
    bits = tf.bitcast(tf.constant(value, "bfloat16"), tf.uint16).numpy() if dtype == "bfloat16" else value
    change(tmp_path, bits, 1, 5)
    message = r"00001.output.npy' holds NaN or infinity in the activations of example 13 \(row 5\)"
    teacher_cache = open_cache(tmp_path)
    with pytest.raises(ValueError, match=message):
        teacher_cache.check_values()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(teacher_cache.join((inputs(),)).batch(6))


@pytest.mark.case("E2")
def test_masked_classes_are_read(tmp_path):
    x = inputs(-np.inf)
    label(logits_of_inputs, (x,), tmp_path, dtype="bfloat16", verbose=0)
    open_cache(tmp_path).verify()
    (joined,) = open_cache(tmp_path).join((x,)).batch(24)
    assert float(split_inputs(joined)[1]["output"][13, 1]) == -np.inf


def drawn_by(layer):
    return lambda x, seed: layer(x[None], training=True)[0]


def seeded_state(x, seed):
    return x + tf.random.normal(tf.shape(x), seed=1)


def traced_once(x, seed):
    return x + np.random.default_rng().normal()


@pytest.mark.case("F2")
@pytest.mark.parametrize(
    ("augment", "examples"),
    [
        (drawn_by(keras.layers.GaussianNoise(1.0)), 24),
        (drawn_by(keras.layers.GaussianNoise(1.0)), 1),
        (drawn_by(keras.layers.Dropout(0.5, seed=1)), 24),
        (traced_once, 1),
        (seeded_state, 24),
    ],
)
def test_views_that_are_not_repeatable_are_refused(tmp_path, augment, examples):
    dataset = tf.data.Dataset.from_tensor_slices(inputs()[:examples])
    with pytest.raises(ValueError, match="made two different views from the same example and seed"):
        label(logits_of_inputs, dataset, tmp_path, views=Views(1, augment), verbose=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.case("B9")
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_outputs_of_other_dtypes_are_stored_as_floats(tmp_path, dtype):
    def signs(x):
        return tf.cast(x[:, :3] > 0, dtype)

    label(signs, (inputs(),), tmp_path, verbose=0)
    np.testing.assert_array_equal(stored(tmp_path), (inputs()[:, :3] > 0).astype("float32"))


@pytest.mark.case("E8")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_top_classes_among_masked_ones(tmp_path, dtype):
    def masked(x):
        return tf.where([True, True, False, False], x[:, :4], -np.inf)

    label(masked, (inputs(),), tmp_path, top_k=2, dtype=dtype, verbose=0)
    teacher_cache = open_cache(tmp_path)
    teacher_cache.verify()
    teacher_cache.teacher.connect(["output"])
    (joined,) = teacher_cache.join((inputs(),)).batch(24)
    logits = teacher_cache.teacher.activations(Batch(None, cached=split_inputs(joined)[1]))["output"]
    expected = np.exp(inputs()[:, :2].astype("float64"))
    expected = np.pad(expected / expected.sum(1, keepdims=True), [(0, 0), (0, 2)])
    np.testing.assert_allclose(keras.ops.softmax(logits), expected, atol=1e-3 if dtype == "float16" else 1e-6)


def test_a_dataset_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no end. Pass it without `repeat\(\)`"):
        label(logits_of_inputs, tf.data.Dataset.from_tensor_slices(inputs()).repeat(), tmp_path / "cache", verbose=0)
    assert not (tmp_path / "cache").exists()


def test_a_tap_with_the_name_of_the_fingerprints_is_refused(tmp_path):
    layers = [keras.layers.Dense(4, name="examples"), keras.layers.Dense(3)]
    teacher = keras.Sequential([keras.Input((8,)), *layers])
    with pytest.raises(ValueError, match="no tap may have it. Rename the layer"):
        label(teacher, (inputs(),), tmp_path, taps=["examples"], verbose=0)
    teacher.get_layer("examples").name = "example_features"
    label(teacher, (inputs(),), tmp_path, taps=["example_features"], verbose=0)
    assert open_cache(tmp_path).taps["example_features"].shape == (4,)
