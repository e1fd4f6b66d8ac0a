"""What is read back is what the teacher said of that very example."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import indexed, label, on_inputs, open_cache
from keras_distill.data.batch import split_inputs
from keras_distill.losses import Hint, KLDivergence
from tests.support.helpers import compiled, data, mlp

TAPS = (OUTPUT, "features")


@pytest.fixture
def teacher():
    return mlp(16, name="teacher")


def dataset():
    return tf.data.Dataset.from_tensor_slices(data())


def labelled(teacher, directory, **options):
    label(teacher, dataset(), directory, TAPS, verbose=0, **options)
    return open_cache(directory)


def check(stored, joined, teacher, tolerance=1e-5):
    """Every example of a joined, batched data set has the teacher's activations of that example."""
    taps = keras.Model(teacher.inputs[0], [teacher.layers[-1].output, teacher.get_layer("features").output])
    seen = []
    for inputs, labels in joined:
        x, activations, index = split_inputs(inputs)
        for tap, expected in zip(TAPS, taps(x)):
            found = tf.cast(activations[tap], "float32")
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(labels, data()[1][index.numpy()])
        seen += index.numpy().tolist()
    return seen


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3), ("bfloat16", 2e-2)])
def test_the_activations_are_the_teachers(teacher, tmp_path, dtype, tolerance):
    stored = labelled(teacher, tmp_path, dtype=dtype)
    assert check(stored, stored.join(dataset()).batch(5), teacher, tolerance) == list(range(24))
    assert stored.taps["features"] == tf.TensorSpec((16,), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_may_be_loaded_into_memory(teacher, tmp_path, dtype):
    stored = labelled(teacher, tmp_path, dtype=dtype, shard_bytes=1, batch_size=5)
    inputs, labels = data()
    _, activations, _ = split_inputs(stored.load(inputs))
    for tap, layer in ((OUTPUT, teacher.layers[-1]), ("features", teacher.get_layer("features"))):
        expected = keras.Model(teacher.inputs[0], layer.output)(inputs)
        np.testing.assert_allclose(activations[tap].astype("float32"), expected, rtol=2e-2, atol=2e-2)
        assert str(activations[tap].dtype) == dtype
    compiled(Distiller(student=mlp(8), teacher=stored.teacher, terms=[Term(KLDivergence())])).fit(
        stored.load(inputs), labels, verbose=0
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example 0 is not the one"):
        stored.load(inputs[::-1])


@pytest.mark.parametrize("batched_first", [False, True])
def test_examples_may_be_shuffled_filtered_and_repeated(teacher, tmp_path, batched_first):
    stored = labelled(teacher, tmp_path)
    changed = indexed(dataset()).filter(lambda x, y: y != 1).shuffle(24, seed=1).repeat(2)
    joined = stored.join(changed.batch(7)) if batched_first else stored.join(changed).batch(7)
    seen = check(stored, joined, teacher)
    kept = np.flatnonzero(data()[1] != 1)
    assert sorted(seen) == sorted([*kept, *kept]) and seen != sorted(seen)


def test_an_augmented_example_keeps_what_was_said_of_the_original(teacher, tmp_path):
    stored = labelled(teacher, tmp_path)
    for inputs, _ in stored.join(indexed(dataset()).map(on_inputs(lambda x: -x))).batch(24):
        x, activations, _ = split_inputs(inputs)
        np.testing.assert_allclose(activations[OUTPUT], teacher(-x), rtol=1e-5, atol=1e-6)


def test_it_teaches_as_the_teacher_itself(teacher, tmp_path):
    stored = labelled(teacher, tmp_path)
    terms = [Term(KLDivergence(2.0)), Term(Hint(), "features", "features", head="auto")]
    histories = []
    for source, examples in ((teacher, dataset()), (stored.teacher, stored.join(dataset()))):
        keras.utils.set_random_seed(1)
        histories.append(
            compiled(Distiller(student=mlp(), teacher=source, terms=terms))
            .fit(examples.batch(8), epochs=3, verbose=0)
            .history
        )
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, err_msg=name)


def test_a_data_set_that_was_batched_before_it_was_indexed_is_refused(teacher, tmp_path):
    stored = labelled(teacher, tmp_path)
    with pytest.raises(ValueError, match="are \\[\\[\\[None, 8\\], 'float32'\\]\\], but .* Index before"):
        stored.join(dataset().batch(8))


@pytest.mark.parametrize("shuffled", [True, False])
def test_another_order_or_other_examples_are_refused(teacher, tmp_path, shuffled):
    stored = labelled(teacher, tmp_path)
    x, y = data()
    other = dataset().shuffle(24, seed=1) if shuffled else tf.data.Dataset.from_tensor_slices((x + 1e-6, y))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example 0 is not the one|Example . is not the one"):
        list(stored.join(other).batch(8))


def test_more_examples_than_were_labelled_are_refused(teacher, tmp_path):
    stored = labelled(teacher, tmp_path)
    longer = dataset().concatenate(dataset())
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds 24 examples. Asked for was number 24"):
        list(stored.join(longer).batch(8))


def test_many_shards_are_read_as_one(teacher, tmp_path):
    stored = labelled(teacher, tmp_path, batch_size=4, shard_bytes=300)
    assert len(list(tmp_path.glob("*.examples.npy"))) > 3
    check(stored, stored.join(indexed(dataset()).shuffle(24, seed=1).batch(5)), teacher)


def test_a_finished_cache_is_left_alone(teacher, tmp_path):
    labelled(teacher, tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.npy")}
    labelled(teacher, tmp_path)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.npy")}


@pytest.mark.parametrize("change", ["teacher", "taps", "dtype", "version"])
def test_activations_of_something_else_are_not_added_to(teacher, tmp_path, change):
    labelled(teacher, tmp_path)
    if change == "teacher":
        teacher.layers[0].bias.assign_add(np.ones(16))
    options = {"taps": (OUTPUT,)} if change == "taps" else {"taps": TAPS}
    options |= {"dtype": "float16"} if change == "dtype" else {}
    options |= {"version": "2"} if change == "version" else {}
    differs = "taps" if change == "dtype" else change
    with pytest.raises(ValueError, match=f"holds activations of something else: {differs}"):
        label(teacher, dataset(), tmp_path, verbose=0, **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").unlink(), "holds no cache. Run `label"),
        (lambda d: (d / "manifest.json").write_text("{"), "is no manifest of a cache"),
        (lambda d: (d / "manifest.json").write_text('{"format": 99}'), "has format 99, but"),
        (lambda d: (d / "00000.output.npy").unlink(), "00000.output.npy' cannot be read"),
        (lambda d: truncate(d / "00000.output.npy"), "00000.output.npy' cannot be read"),
        (lambda d: np.save(d / "00000.output.npy", np.zeros((23, 3), "float32")), "has 23 rows, the manifest says 24"),
        (lambda d: np.save(d / "00000.output.npy", np.array([{}] * 24)), "00000.output.npy' cannot be read"),
        (lambda d: unfinished(d), "a cache that was not finished"),
    ],
)
def test_a_damaged_cache_is_refused(teacher, tmp_path, damage, message):
    labelled(teacher, tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_cache(tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def unfinished(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))


@pytest.mark.parametrize("examples", [dataset().skip(1), dataset().take(23), dataset().shuffle(24, seed=1)])
def test_a_finished_cache_of_other_examples_is_not_taken_for_this_one(teacher, tmp_path, examples):
    labelled(teacher, tmp_path)
    with pytest.raises(ValueError, match="holds activations of other examples: they differ at number"):
        label(teacher, examples, tmp_path, TAPS, verbose=0)


def test_a_changed_byte_is_found_by_its_checksum(teacher, tmp_path):
    stored = labelled(teacher, tmp_path)
    stored.verify()
    path = tmp_path / "00000.features.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="00000.features.npy' is not what was written"):
        open_cache(tmp_path).verify()


def test_another_teacher_is_told_from_the_one_that_spoke(teacher, tmp_path):
    labelled(teacher, tmp_path)
    open_cache(tmp_path, teacher)
    with pytest.raises(ValueError, match="another teacher than the one given: its fingerprint was"):
        open_cache(tmp_path, mlp(16, name="teacher"))


def test_no_example_is_not_a_cache(teacher, tmp_path):
    with pytest.raises(ValueError, match="holds no example"):
        label(teacher, dataset().take(0), tmp_path, verbose=0)


def test_what_cannot_be_kept_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="kept in one of .*Received: {'output': 'int8'}"):
        label(teacher, dataset(), tmp_path, dtype="int8", verbose=0)
    with pytest.raises(ValueError, match="No layer called 'featurs'"):
        label(teacher, dataset(), tmp_path, ["featurs"], verbose=0)
