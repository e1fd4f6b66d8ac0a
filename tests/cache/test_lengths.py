"""Caches of examples of different lengths."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import Views, indexed, label, open_cache, shards
from keras_distill.cache.lengths import positions_of
from keras_distill.data.batch import split_inputs
from keras_distill.losses import TopK
from tests.support.language_models import WORDS, language_model

COUNT, K = 11, 3


def texts(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    # An empty text is a text.
    return [rng.integers(1, WORDS, length).astype("int32") for length in [0, *rng.integers(1, 9, count - 1)]]


def dataset(count=COUNT):
    examples = texts(count)
    signature = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32))
    pairs = tf.data.Dataset.from_generator(lambda: ((x, len(x) % 3) for x in examples), output_signature=signature)
    return pairs.apply(tf.data.experimental.assert_cardinality(count))


def log_softmax(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Return a teacher and its caches: all logits in several shards, and the top classes in one."""
    # Logits of different sizes, so that the loss is not near 0.
    teacher = language_model(6, "teacher", kernel_initializer=keras.initializers.RandomNormal(stddev=20.0))
    root = tmp_path_factory.mktemp("caches")
    label(teacher, dataset(), root / "all", ["output", "block"], batch_size=2, shard_bytes=2**17, verbose=0)
    label(teacher, dataset(), root / "top", dtype="float16", top_k=K, verbose=0)
    return teacher, root


def joined(directory, batches):
    """Return `(index, activations)` of all elements."""
    elements = [split_inputs(inputs) for inputs, _ in open_cache(directory).join(batches)]
    return [(np.array(index), keras.tree.map_structure(np.array, stored)) for _, stored, index in elements]


def test_single_examples_have_their_own_length(cached):
    teacher, root = cached
    assert len(shards.read_manifest(root / "all").shards) == 6
    for index, stored in joined(root / "all", indexed(dataset()).shuffle(COUNT, seed=1)):
        text = texts()[index]
        assert stored["output"].shape == (len(text), WORDS) and stored["block"].shape == (len(text), 6)
        if len(text):
            np.testing.assert_allclose(stored["output"], teacher(text[None])[0], rtol=1e-5, atol=1e-5)


def test_batches_are_padded_with_zeros_to_their_longest_example(cached):
    teacher, root = cached
    before = joined(root / "all", indexed(dataset()).shuffle(COUNT, seed=1).padded_batch(4))
    assert len(before) == 3
    for index, stored in before:
        examples = [texts()[number] for number in index]
        assert stored["output"].shape == (len(index), max(map(len, examples)), WORDS)
        for text, row in zip(examples, stored["output"]):
            if len(text):
                np.testing.assert_allclose(row[: len(text)], teacher(text[None])[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(row[len(text) :], 0)
    after = open_cache(root / "all").join(indexed(dataset()).shuffle(COUNT, seed=1)).padded_batch(4)
    for (index, stored), (inputs, _) in zip(before, after, strict=True):
        _, same, order = split_inputs(inputs)
        np.testing.assert_array_equal(order, index)
        keras.tree.map_structure(np.testing.assert_array_equal, stored, dict(same))


def test_the_top_classes_of_each_token(cached):
    teacher, root = cached
    for index, stored in joined(root / "top", indexed(dataset())):
        text = texts()[index]
        top, classes = stored["output"]["top"], stored["output"]["classes"]
        assert top.shape == (len(text), K + 1) and classes.shape == (len(text), K)
        if len(text):
            expected = log_softmax(np.array(teacher(text[None])[0]))
            np.testing.assert_array_equal(classes, np.argsort(-expected, axis=-1)[:, :K])
            np.testing.assert_allclose(top[:, :K], np.take_along_axis(expected, classes, axis=-1), rtol=1e-3, atol=2e-3)


def test_training_equals_that_with_the_running_teacher(cached):
    teacher, root = cached
    stored, histories = open_cache(root / "top"), []
    batches = indexed(dataset()).skip(1).padded_batch(5)
    for source, x in ((teacher, dataset().skip(1).padded_batch(5)), (stored.teacher, stored.join(batches))):
        term = Term(TopK(K), over="tokens")
        distiller = Distiller(student=language_model(), teacher=source, terms=[term], supervised_weight=0)
        distiller.compile("sgd")
        histories.append(distiller.fit(x, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=2e-3)


def test_a_token_of_32_words_takes_130_bytes(tmp_path):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(20, 4)(tokens)
    teacher = keras.Model(tokens, keras.layers.Dense(1000)(hidden))
    lengths = np.random.default_rng(0).integers(1, 300, 200)
    examples = [np.full(length, length % 20, "int32") for length in lengths]
    signature = tf.TensorSpec((None,), tf.int32)
    pairs = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)
    label(teacher, pairs, tmp_path, dtype="float16", top_k=32, batch_size=20, verbose=0)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 130 * lengths.sum() <= size <= 1.1 * 130 * lengths.sum()


def test_resuming_writes_the_same_bytes(cached, tmp_path, monkeypatch):
    teacher, root = cached
    arguments = {"taps": ["output", "block"], "batch_size": 2, "shard_bytes": 2**17, "verbose": 0}
    write, calls = shards.write_shard, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*args, **options)

    monkeypatch.setattr(shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        label(teacher, dataset(), tmp_path, **arguments)
    assert len(shards.read_manifest(tmp_path).shards) == 1
    monkeypatch.undo()
    label(teacher, dataset(), tmp_path, **arguments)
    files = {path.name for path in (root / "all").iterdir()} - {"writing.lock"}
    assert {f"0000{number}.lengths.npy" for number in (0, 1)} < files
    assert all((tmp_path / name).read_bytes() == (root / "all" / name).read_bytes() for name in files)
    # A complete cache is compared with the examples.
    label(teacher, dataset(), tmp_path, **arguments)
    with pytest.raises(ValueError, match="cache of other examples: they differ from example 5 on"):
        label(teacher, dataset().take(5), tmp_path, **arguments)


def test_views_of_texts(tmp_path):
    teacher = language_model(6, "teacher")
    views = Views(2, lambda text, seed: tf.where(seed[1] == 1, text % (WORDS - 1) + 1, text))
    label(teacher, dataset(), tmp_path, views=views, verbose=0)
    stored = open_cache(tmp_path)
    for inputs, _ in stored.join(indexed(dataset()), views=views, seed=0).padded_batch(4):
        text, activations, _ = split_inputs(inputs)
        counted = np.array(text) > 0
        np.testing.assert_allclose(
            np.array(activations["output"])[counted], np.array(teacher(text))[counted], atol=1e-6
        )


def test_padding_that_cannot_be_stored_is_left_out(tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    scores = keras.ops.log(keras.ops.cast(keras.ops.expand_dims(tokens, -1), "float32") - 0.5)
    teacher = keras.Model(tokens, keras.ops.concatenate([scores, -scores], axis=-1))
    label(teacher, dataset(), tmp_path, verbose=0)
    open_cache(tmp_path).verify()


@pytest.mark.parametrize("number", [0, 1])
def test_corrupted_values_name_the_example(cached, tmp_path, number):
    teacher, _ = cached
    label(teacher, dataset(), tmp_path, batch_size=4, shard_bytes=1, verbose=0)
    path, lengths = tmp_path / f"0000{number}.output.npy", [len(text) for text in texts()]
    values = np.load(path)
    values[lengths[4 * number] + lengths[4 * number + 1]] = np.nan
    np.save(path, values)
    with pytest.raises(ValueError, match=f"NaN or infinity in the activations of example {4 * number + 2} "):
        open_cache(tmp_path).check_values()
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"activations of example {4 * number + 2} "):
        list(open_cache(tmp_path).join(indexed(dataset()).padded_batch(COUNT)))


@pytest.mark.parametrize("change", [lambda x: x + 1, lambda x: -x])
def test_corrupted_lengths_raise(cached, tmp_path, change):
    label(cached[0], dataset(), tmp_path, verbose=0)
    path = tmp_path / "00000.lengths.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(ValueError, match="lengths.npy.*does not list the lengths of"):
        open_cache(tmp_path)


def test_load_raises(cached):
    with pytest.raises(ValueError, match="examples of different lengths.*Use `join"):
        open_cache(cached[1] / "all").load(np.zeros((COUNT, 8), "int32"))


def test_taps_of_other_positions_raise(tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(WORDS, 4)(tokens)
    teacher = keras.Model(tokens, keras.layers.AveragePooling1D(2, name="pool")(hidden))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for each position of the inputs"):
        label(teacher, dataset().skip(1), tmp_path, verbose=0)


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1], [2, 2], []])
def test_positions(rows):
    lengths, expected = [3, 0, 2], [[0, 1, 2], [], [3, 4]]
    positions = positions_of(np.array(rows, int), np.array(lengths))
    assert positions.tolist() == [position for row in rows for position in expected[row]]


def test_caches_of_fixed_length_have_no_lengths(tmp_path):
    x = np.ones((4, 5), "int32")
    tokens = keras.Input((5,), dtype="int32")
    label(keras.Model(tokens, keras.layers.Embedding(WORDS, 4)(tokens)), (x,), tmp_path, verbose=0)
    assert not list(tmp_path.glob("*lengths*"))
    assert "positions" not in (tmp_path / "manifest.json").read_text()
    assert open_cache(tmp_path).taps[OUTPUT].shape == (5, 4)
