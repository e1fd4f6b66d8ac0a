"""Labeling and joining: every example gets the teacher activations of that example."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import indexed, label, on_inputs, open_cache
from keras_distill.data.batch import split_inputs
from keras_distill.losses import Hint, KLDivergence
from tests.support.helpers import compiled, data, features, mlp
from tests.support.manifests import rewrite

pytestmark = pytest.mark.everyday

TAPS = (OUTPUT, "features")


@pytest.fixture
def teacher():
    return mlp(16, name="teacher")


def dataset():
    return tf.data.Dataset.from_tensor_slices(data())


def labeled(teacher, directory, **options):
    label(teacher, dataset(), directory, TAPS, verbose=0, **options)
    return open_cache(directory)


def check(teacher_cache, joined, teacher, tolerance=1e-5):
    """Assert that every example of a joined, batched dataset has the teacher's activations; return the indices."""
    taps = keras.Model(teacher.inputs[0], [teacher.layers[-1].output, teacher.get_layer("features").output])
    seen = []
    for inputs, labels in joined:
        x, activations, index = split_inputs(inputs)
        for tap, expected in zip(TAPS, taps(x)):
            actual = tf.cast(activations[tap], "float32")
            np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(labels, data()[1][index.numpy()])
        seen += index.numpy().tolist()
    return seen


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3), ("bfloat16", 2e-2)])
def test_the_activations_are_the_teachers(teacher, tmp_path, dtype, tolerance):
    teacher_cache = labeled(teacher, tmp_path, dtype=dtype)
    assert check(teacher_cache, teacher_cache.join(dataset()).batch(5), teacher, tolerance) == list(range(24))
    assert teacher_cache.taps["features"] == tf.TensorSpec((16,), dtype)


def test_a_tuple_of_arrays_is_joined(teacher, tmp_path):
    label(teacher, data(), tmp_path, TAPS, verbose=0)
    assert sorted(check(None, open_cache(tmp_path).join(data()).batch(7), teacher)) == list(range(24))


def test_arrays_and_datasets_have_the_same_bytes(teacher, tmp_path):
    """A dataset that is indexed before computes the fingerprint of each example in a graph."""
    for name, examples in (("arrays", data()), ("dataset", dataset()), ("indexed", indexed(dataset()))):
        label(teacher, examples, tmp_path / name, TAPS, batch_size=5, verbose=0)
        # The finished cache is compared with the examples.
        label(teacher, examples, tmp_path / name, TAPS, batch_size=5, verbose=0)
        with pytest.raises(ValueError, match="differ from example 23 on"):
            label(teacher, dataset().take(23), tmp_path / name, TAPS, batch_size=5, verbose=0)
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("arrays", "indexed")
    ]
    assert {path.name: path.read_bytes() for path in (tmp_path / "dataset").iterdir()} == contents[0] == contents[1]
    assert len(contents[0]) > 3


def test_two_inputs_are_loaded(tmp_path):
    first, second = keras.Input((3,)), keras.Input((3,))
    model = keras.Model((first, second), keras.layers.Dense(2)(first - second))
    a, b = features(10, 3), features(10, 3, seed=1)
    label(model, tf.data.Dataset.from_tensor_slices(((a, b), np.arange(10))), tmp_path, verbose=0)
    activations = split_inputs(open_cache(tmp_path).load((a, b)))[1]
    np.testing.assert_allclose(activations[OUTPUT], model((a, b)), rtol=1e-6)
    with pytest.raises(ValueError, match="does not match its fingerprint"):
        open_cache(tmp_path).load((a, b[::-1].copy()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_returns_arrays_in_memory(teacher, tmp_path, dtype):
    teacher_cache = labeled(teacher, tmp_path, dtype=dtype, shard_bytes=1, batch_size=5)
    inputs, labels = data()
    _, activations, _ = split_inputs(teacher_cache.load(inputs))
    for tap, layer in ((OUTPUT, teacher.layers[-1]), ("features", teacher.get_layer("features"))):
        expected = keras.Model(teacher.inputs[0], layer.output)(inputs)
        np.testing.assert_allclose(activations[tap].astype("float32"), expected, rtol=2e-2, atol=2e-2)
        assert str(activations[tap].dtype) == dtype
    compiled(Distiller(student=mlp(8), teacher=teacher_cache.teacher, terms=[Term(KLDivergence())])).fit(
        teacher_cache.load(inputs), labels, verbose=0
    )
    with pytest.raises(ValueError, match="Example 0 does not match its fingerprint"):
        teacher_cache.load(inputs[::-1])
    with pytest.raises(ValueError, match="but those of the cache"):
        teacher_cache.load(inputs[:, :-1])


def test_a_cache_shows_what_it_holds(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    assert repr(teacher_cache) == (
        f"<TeacherCache '{tmp_path}': 24 examples, taps {{'output': (3,) float32, 'features': (16,) float32}}>"
    )


@pytest.mark.parametrize("batched_first", [False, True])
def test_examples_may_be_shuffled_filtered_and_repeated(teacher, tmp_path, batched_first):
    teacher_cache = labeled(teacher, tmp_path)
    changed = indexed(dataset()).filter(lambda x, y: y != 1).shuffle(24, seed=1).repeat(2)
    joined = teacher_cache.join(changed.batch(7)) if batched_first else teacher_cache.join(changed).batch(7)
    seen = check(teacher_cache, joined, teacher)
    kept = np.flatnonzero(data()[1] != 1)
    assert sorted(seen) == sorted([*kept, *kept]) and seen != sorted(seen)


def test_an_augmented_example_keeps_the_activations_of_the_original(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    for inputs, _ in teacher_cache.join(indexed(dataset()).map(on_inputs(lambda x: -x))).batch(24):
        x, activations, _ = split_inputs(inputs)
        np.testing.assert_allclose(activations[OUTPUT], teacher(-x), rtol=1e-5, atol=1e-6)


def test_training_from_the_cache_equals_training_from_the_teacher(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    terms = [Term(KLDivergence(2.0)), Term(Hint(), "features", "features", head="auto")]
    histories = []
    for source, examples in ((teacher, dataset()), (teacher_cache.teacher, teacher_cache.join(dataset()))):
        keras.utils.set_random_seed(1)
        histories.append(
            compiled(Distiller(student=mlp(), teacher=source, terms=terms))
            .fit(examples.batch(8), epochs=3, verbose=0)
            .history
        )
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, err_msg=name)


def test_a_dataset_that_was_batched_before_it_was_indexed_raises(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    with pytest.raises(ValueError, match="are \\[\\[\\[None, 8\\], 'float32'\\]\\], but .* Index the dataset before"):
        teacher_cache.join(dataset().batch(8))


@pytest.mark.parametrize("shuffled", [True, False])
def test_another_order_or_other_examples_raise(teacher, tmp_path, shuffled):
    teacher_cache = labeled(teacher, tmp_path)
    x, y = data()
    other = dataset().shuffle(24, seed=1) if shuffled else tf.data.Dataset.from_tensor_slices((x + 1e-6, y))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example . does not match its fingerprint"):
        list(teacher_cache.join(other).batch(8))


def test_more_examples_than_were_labeled_raise(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    longer = dataset().concatenate(dataset())
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds 24 examples, but the dataset has an example 24"):
        list(teacher_cache.join(longer).batch(8))


def test_several_shards_are_read_as_one(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path, batch_size=4, shard_bytes=300)
    assert len(list(tmp_path.glob("*.examples.npy"))) > 3
    check(teacher_cache, teacher_cache.join(indexed(dataset()).shuffle(24, seed=1).batch(5)), teacher)


def test_a_finished_cache_is_left_alone(teacher, tmp_path):
    labeled(teacher, tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.npy")}
    labeled(teacher, tmp_path)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.npy")}


@pytest.mark.parametrize("change", ["teacher", "taps", "dtype", "version"])
def test_other_settings_raise(teacher, tmp_path, change):
    labeled(teacher, tmp_path)
    if change == "teacher":
        teacher.layers[0].bias.assign_add(np.ones(16))
    options = {"taps": (OUTPUT,)} if change == "taps" else {"taps": TAPS}
    options |= {"dtype": "float16"} if change == "dtype" else {}
    options |= {"version": "2"} if change == "version" else {}
    differs = "taps" if change == "dtype" else change
    with pytest.raises(ValueError, match=f"holds a cache with other settings: {differs}"):
        label(teacher, dataset(), tmp_path, verbose=0, **options)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda d: (d / "manifest.json").unlink(), "holds no cache. Run `label"),
        (lambda d: (d / "manifest.json").write_text("{"), "is not the manifest of a cache"),
        (lambda d: (d / "manifest.json").write_text('{"format": 99}'), "has cache format 99, but"),
        (lambda d: (d / "00000.output.npy").unlink(), "00000.output.npy' is missing. Restore the file"),
        (lambda d: truncate(d / "00000.output.npy"), "00000.output.npy' cannot be read"),
        (
            lambda d: np.save(d / "00000.output.npy", np.zeros((23, 3), "float32")),
            r"has shape \(23, 3\) and dtype float32, but the manifest lists \(24, 3\) and float32",
        ),
        (lambda d: np.save(d / "00000.output.npy", np.array([{}] * 24)), "00000.output.npy' cannot be read"),
        (lambda d: mark_unfinished(d), "holds an unfinished cache"),
    ],
)
def test_a_corrupted_cache_raises(teacher, tmp_path, corrupt, message):
    labeled(teacher, tmp_path)
    corrupt(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_cache(tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def mark_unfinished(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    rewrite(directory, **{**manifest, "complete": False})


@pytest.mark.parametrize("examples", [dataset().skip(1), dataset().take(23), dataset().shuffle(24, seed=1)])
def test_a_finished_cache_of_other_examples_raises(teacher, tmp_path, examples):
    labeled(teacher, tmp_path)
    with pytest.raises(ValueError, match="holds a cache of other examples: they differ from example"):
        label(teacher, examples, tmp_path, TAPS, verbose=0)


def test_verify_detects_a_changed_byte(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    teacher_cache.verify()
    path = tmp_path / "00000.features.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="00000.features.npy' has changed since it was written"):
        open_cache(tmp_path).verify()


def test_open_cache_compares_the_fingerprint_of_the_teacher(teacher, tmp_path):
    labeled(teacher, tmp_path)
    open_cache(tmp_path, teacher)
    with pytest.raises(ValueError, match="a cache of another teacher: its teacher has the fingerprint"):
        open_cache(tmp_path, mlp(16, name="teacher"))


def test_an_empty_dataset_raises(teacher, tmp_path):
    with pytest.raises(ValueError, match="holds no examples"):
        label(teacher, dataset().take(0), tmp_path, verbose=0)


def test_invalid_settings_raise(teacher, tmp_path):
    with pytest.raises(ValueError, match="`dtype` must be one of .*Received: {'output': 'int8'}"):
        label(teacher, dataset(), tmp_path, dtype="int8", verbose=0)
    with pytest.raises(ValueError, match="No layer called 'featurs'"):
        label(teacher, dataset(), tmp_path, ["featurs"], verbose=0)


@pytest.mark.parametrize("name", ["batch_size", "shard_bytes"])
def test_sizes_are_checked(teacher, tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1. Received: 0"):
        label(teacher, dataset(), tmp_path, verbose=0, **{name: 0})


def test_verify_detects_a_missing_file(teacher, tmp_path):
    teacher_cache = labeled(teacher, tmp_path)
    (tmp_path / "00000.features.npy").unlink()
    with pytest.raises(ValueError, match="00000.features.npy' is missing. Restore the file, or delete"):
        teacher_cache.verify()
