"""Replay buffer of rollouts: stored texts, their frequency, loss and labels, and exact resume."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import load_distiller
from keras_distill.callbacks import Backup
from keras_distill.language import Rollouts
from keras_distill.language.replay import ReplayBuffer, Texts
from tests.language.test_rollouts import CROSSENTROPY, distiller, rolled_out
from tests.support.hub_models import WINDOW, gpt2, prompts

REPLAY = {"max_length": WINDOW, "replay_size": 7, "top_k": 5}


def texts_of(number, first):
    """Return texts that hold their own numbers."""
    numbers = np.arange(first, first + number)
    tokens, lengths = np.repeat(numbers[:, None], 4, axis=1), np.stack([numbers, numbers + 1], axis=1)
    return Texts(*(tf.constant(x, dtype) for x, dtype in ((tokens, "int32"), (lengths, "int32"), (numbers, "float32"))))


def test_the_latest_texts_are_kept_and_drawn_alike():
    buffer, first = ReplayBuffer(7, 4), 0
    for number in (3, 2, 3, 1, 3):
        assert bool(buffer.holds(6)) == (first >= 6)
        buffer.add(texts_of(number, first))
        first += number
    # 12 texts: 5 to 11 are the latest 7.
    assert sorted(np.asarray(buffer.state[2]).tolist()) == list(range(5, 12))
    drawn = buffer.draw(7000, [1, 2])
    assert drawn.tokens.shape == (7000, 4)
    numbers = np.asarray(drawn.weights)
    np.testing.assert_array_equal(drawn.tokens, np.repeat(numbers[:, None], 4, axis=1))
    np.testing.assert_array_equal(drawn.lengths, np.stack([numbers, numbers + 1], axis=1))
    # Chi-squared with 6 degrees of freedom: 22.5 at p = 0.001.
    counts = np.bincount(numbers.astype(int), minlength=12)[5:]
    assert ((counts - 1000) ** 2 / 1000).sum() < 22.5


@pytest.mark.parametrize("writer", ["student", "teacher"])
def test_steps_take_new_or_stored_texts(writer):
    """Each row is a new text of this step or one of earlier steps, with its own prompt, weights and labels."""
    inputs, lengths = prompts()
    made = distiller(writer=writer, replay_ratio=0.5, **REPLAY)
    plain = distiller(writer=writer, **{**REPLAY, "replay_size": None})
    labels, weights = np.ones((3, WINDOW), "int32"), (np.arange(WINDOW) >= lengths[:, None] - 1).astype("float32")
    weights = weights * np.array([[1.0], [2.0], [0.5]], "float32")
    stored, replayed = [], 0
    for _ in range(12):
        found, new = (rolled_out(each, inputs, labels, weights) for each in (made, plain))
        rows, news = (
            [
                tuple(np.concatenate([one[row] for one in (b.inputs["token_ids"], b.labels, b.sample_weight)]))
                for row in range(3)
            ]
            for b in (found, new)
        )
        if rows == news:
            stored += news
        else:
            replayed += 1
            assert len(stored) >= 3 and set(rows) <= set(stored[-7:])
        for each in (made, plain):
            each.optimizer.iterations.assign_add(1)
    assert 3 <= replayed <= 9


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_resumes_bit_for_bit(tmp_path, jit_compile):
    inputs, _ = prompts()
    labels = np.ones((3, WINDOW), "int32")
    data = tf.data.Dataset.from_tensors((inputs, labels)).repeat(4)

    def made():
        return distiller(loss=CROSSENTROPY, rate=0.1, jit_compile=jit_compile, on_policy_fraction=0.8, **REPLAY)

    whole = made()
    whole.fit(data, verbose=0, epochs=2)
    if jit_compile:
        part = made()
        part.fit(data, verbose=0)
        part.save(tmp_path / "distiller.keras")
        resumed = load_distiller(tmp_path / "distiller.keras", gpt2(2))
        assert resumed.rollouts.get_config() == whole.rollouts.get_config()
        resumed.fit(data, verbose=0)
    else:
        fail = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: 1 / (3 - batch))
        with pytest.raises(ZeroDivisionError):
            made().fit(data, verbose=0, epochs=2, callbacks=[Backup(tmp_path / "backup", every=1), fail])
        resumed = made()
        resumed.fit(data, verbose=0, epochs=2, callbacks=[Backup(tmp_path / "backup", every=1)])
    variables = [[*each.student.variables, *each.untracked_variables().values()] for each in (resumed, whole)]
    assert int(variables[1][-1]) >= 6
    for one, other in zip(*variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_raises():
    inputs, _ = prompts()
    with pytest.raises(ValueError, match=r"Pass Rollouts\(max_length=the `sequence_length`.*Received: max_length=None"):
        distiller(replay_size=7)
    with pytest.raises(ValueError, match="`max_length` must be at least the window.*Received: 9 for 10"):
        distiller(replay_size=7, max_length=WINDOW - 1).fit(inputs, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`replay_size` must be at least the batch size"):
        distiller(max_length=WINDOW, replay_size=2).fit(inputs, verbose=0)
    for name, value in (("replay_size", 0), ("replay_ratio", 1), ("replay_ratio", -0.1)):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            Rollouts(**{name: value})
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with strategy.scope(), pytest.raises(ValueError, match="train on one replica, but the strategy has 2"):
        distiller(**REPLAY)
