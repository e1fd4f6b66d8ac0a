"""TensorBoard logs, read back from their files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_distill import Balance, Distiller, MutualDistiller, Term, callbacks
from keras_distill.callbacks import TensorBoard
from keras_distill.data.batch import with_activations
from keras_distill.losses import CurriculumTemperature, Hint, KLDivergence, LogitStandardization
from keras_distill.schedules import Linear
from keras_distill.teachers import CachedTeacher
from tests.support.cluster import finish, start

# Importing the package must not load it: it needs optional packages.
LAZY = """
import sys
import keras_distill
assert "keras_distill.callbacks.tensorboard" not in sys.modules
assert "TensorBoard" in dir(keras_distill.callbacks)
assert keras_distill.callbacks.TensorBoard is sys.modules["keras_distill.callbacks.tensorboard"].TensorBoard
"""
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(name, width=6):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Dense(width, activation="relu", name="hidden")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name=name)


def data(count=32):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 4, 4, 1)).astype("float32"), random.integers(0, 3, count)


def fitted(folder, terms, epochs=3, alpha=0.5, **options):
    x, y = data()
    distiller = Distiller(student=network("student"), teacher=network("teacher"), terms=terms, supervised_weight=alpha)
    distiller.compile("adam", CROSSENTROPY)
    history = distiller.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=[TensorBoard(folder, **options)])
    return distiller, history.history


def read(folder):
    """Return `{tag: [(step, number)]}` of scalars and `{tag: [(step, PNG)]}` of images."""
    found = EventAccumulator(str(folder / "distillation"), {"tensors": 0})
    found.Reload()
    numbers, images = {}, {}
    for tag in found.Tags()["tensors"]:
        for event in found.Tensors(tag):
            value = tf.make_ndarray(event.tensor_proto)
            if value.ndim:
                images.setdefault(tag, []).append((event.step, value[2:]))
            else:
                numbers.setdefault(tag, []).append((event.step, float(value)))
    return numbers, images


def test_weights_and_temperatures_of_each_epoch(tmp_path):
    terms = [
        Term(KLDivergence(Linear(8.0, 2.0, steps=12)), weight=Linear(1.0, 0.0, steps=24), name="kd"),
        Term(LogitStandardization(KLDivergence(3.0)), weight=0.25, name="standard"),
        Term(Hint(), "hidden", "hidden", weight=2.0),
    ]
    numbers, _ = read((fitted(tmp_path, terms), tmp_path)[1])
    # Four steps per epoch: after 4, 8 and 12 steps.
    np.testing.assert_allclose(numbers["temperature/kd"], [(0, 6), (1, 4), (2, 2)], rtol=1e-6)
    np.testing.assert_allclose(numbers["weight/kd"], [(0, 20 / 24), (1, 16 / 24), (2, 12 / 24)], rtol=1e-6)
    np.testing.assert_allclose(numbers["temperature/standard"], [(0, 3), (1, 3), (2, 3)])
    np.testing.assert_allclose(numbers["weight/hint"], [(0, 2), (1, 2), (2, 2)])
    np.testing.assert_allclose(numbers["weight/supervised_loss"], [(0, 0.5), (1, 0.5), (2, 0.5)])
    assert "temperature/hint" not in numbers


def test_parts_are_shares_of_the_total_loss(tmp_path):
    terms = [Term(KLDivergence(4.0), weight=0.5, name="kd"), Term(Hint(), "hidden", "hidden", weight=3.0)]
    _, history = fitted(tmp_path, terms)
    numbers, _ = read(tmp_path)
    added = {
        "supervised_loss": 0.5 * np.array(history["supervised_loss"]),
        "kd": 0.5 * np.array(history["kd_loss"]),
        "hint": 3.0 * np.array(history["hint_loss"]),
    }
    total = sum(added.values())
    np.testing.assert_allclose(total, history["loss"], rtol=1e-5)
    for name, value in added.items():
        np.testing.assert_allclose([part for _, part in numbers[f"part/{name}"]], value / total, rtol=1e-5)


def test_trained_temperatures_and_balanced_weights(tmp_path):
    terms = [
        Term(CurriculumTemperature(KLDivergence(2.0)), name="kd"),
        Term(Hint(), "hidden", "hidden", weight=Balance(0.1), name="hint"),
    ]
    distiller, history = fitted(tmp_path, terms)
    numbers, _ = read(tmp_path)
    bias = float(distiller.terms[0].loss.bias[0])
    trained = 1 + 20 / (1 + np.exp(-bias))
    np.testing.assert_allclose(numbers["temperature/kd"][-1], (2, 2 * trained), rtol=1e-5)
    assert numbers["temperature/kd"][0] != numbers["temperature/kd"][-1]
    np.testing.assert_allclose([value for _, value in numbers["weight/hint"]], history["hint_weight"], rtol=1e-5)


def test_integer_update_freq(tmp_path):
    terms = [Term(KLDivergence(Linear(8.0, 2.0, steps=12)), name="kd")]
    fitted(tmp_path, terms, update_freq=2)
    numbers, _ = read(tmp_path)
    assert [step for step, _ in numbers["temperature/kd"]] == [2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose([value for _, value in numbers["temperature/kd"]], [7, 6, 5, 4, 3, 2], rtol=1e-6)
    assert [step for step, _ in numbers["part/kd"]] == [0, 1, 2]


def test_images_of_soft_targets(tmp_path):
    x, y = data()
    terms = [Term(KLDivergence(4.0))]
    fitted(tmp_path, terms, epochs=2, examples=x, labels=y, classes=["cat", "lion", "computer"])
    _, images = read(tmp_path)
    ((_, shown),) = images["examples"]
    assert len(shown) == 6
    brightness = [tf.io.decode_png(png).numpy()[..., 0] / 255 for png in shown]
    expected = (x[:6, ..., 0] - x[:6].min()) / (x[:6].max() - x[:6].min())
    np.testing.assert_allclose(brightness, expected, atol=1 / 255)
    (first, drawn), (second, later) = images["dark knowledge"]
    assert (first, second) == (0, 1) and len(drawn) == 6
    # The student changes between epochs, and the examples differ.
    assert drawn[0] != later[0] and drawn[0] != drawn[1]
    assert tf.io.decode_png(drawn[0]).shape[0] > 100


def test_images_of_a_cached_teacher(tmp_path):
    x, y = data()
    teacher = network("teacher")
    inputs = with_activations(x, {"output": np.asarray(teacher(x))})
    distiller = Distiller(
        student=network("student"),
        teacher=CachedTeacher({"output": np.asarray(teacher(x))}),
        terms=[Term(KLDivergence())],
    )
    distiller.compile("adam", CROSSENTROPY)
    distiller.fit(inputs, y, epochs=1, verbose=0, callbacks=[TensorBoard(tmp_path, inputs, y)])
    assert len(read(tmp_path)[1]["dark knowledge"][0][1]) == 6


def test_invalid_use_raises_before_training(tmp_path):
    x, y = data()
    with pytest.raises(ValueError, match="`examples` require `labels`"):
        TensorBoard(tmp_path, x)
    terms = [Term(Hint(), "hidden", "hidden")]
    with pytest.raises(ValueError, match="`examples` require a term that compares logits"):
        fitted(tmp_path, terms, examples=x, labels=y)
    plain = network("plain")
    plain.compile("adam", CROSSENTROPY)
    with pytest.raises(ValueError, match="requires a distiller.*Received: <Functional"):
        plain.fit(x, y, verbose=0, callbacks=[TensorBoard(tmp_path)])


def test_peers(tmp_path):
    x, y = data()
    mutual = MutualDistiller({"a": network("a"), "b": network("b")}, KLDivergence(2.0), weight=Linear(1.0, 0.5, 8))
    mutual.compile("adam", CROSSENTROPY)
    history = mutual.fit(x, y, 8, epochs=2, verbose=0, callbacks=[TensorBoard(tmp_path, x[:2], y[:2])]).history
    numbers, images = read(tmp_path)
    assert numbers["weight/a_mutual"] == [(0, 0.75), (1, 0.5)]
    assert numbers["temperature/a_from_b"] == [(0, 2.0), (1, 2.0)]
    weighted = [
        history[f"{peer}_{kind}"][1] * w for peer in "ab" for kind, w in (("supervised_loss", 1), ("mutual_loss", 0.5))
    ]
    np.testing.assert_allclose(numbers["part/a_mutual"][1][1], weighted[1] / sum(weighted), rtol=1e-5)
    assert [len(drawn) for _, drawn in images["dark knowledge"]] == [2, 2]


def test_a_teacher_and_a_student_that_end_in_a_softmax(tmp_path):
    def classifier(name):
        model = network(name)
        return keras.Model(model.input, keras.layers.Softmax()(model.output), name=name)

    x, y = data()
    distiller = Distiller(student=classifier("student"), teacher=classifier("teacher"), terms=[Term(KLDivergence())])
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    distiller.fit(x, y, verbose=0, callbacks=[TensorBoard(tmp_path, x, y)])
    assert len(read(tmp_path)[1]["dark knowledge"][0][1]) == 6


def test_it_is_imported_at_first_use():
    [(code, output)] = finish(start(["-c", LAZY]))
    assert code == 0, output
    with pytest.raises(AttributeError, match="module 'keras_distill.callbacks' has no attribute 'Tensorboard'"):
        callbacks.Tensorboard  # noqa: B018
