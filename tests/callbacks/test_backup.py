"""Exact resume: training that is killed and resumed with `Backup` equals uninterrupted training."""

import keras
import pytest

from keras_distill import Backup, Distiller, MutualDistiller, Term
from keras_distill.losses import KLDivergence
from tests.support.helpers import compiled, crossentropy, data, mlp
from tests.support.interrupted_training import (
    BATCH,
    EPOCHS,
    EXAMPLES,
    STEPS,
    FaultAt,
    accumulating,
    assert_resumes,
    assert_same,
    everything,
    interrupt,
    network,
    plain,
    trained,
    uninterrupted,
)

pytestmark = pytest.mark.processes


def several_steps_at_once():
    model = Distiller(student=network(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
    return compiled(model, keras.optimizers.Adam(0.05), metrics=["accuracy"], steps_per_execution=2)


def peers():
    return compiled(MutualDistiller([network("one"), network("two")]), keras.optimizers.Adam(0.05))


@pytest.mark.parametrize(
    ("make", "calls"),
    [(everything, (6, 6)), (accumulating, (6,)), (several_steps_at_once, (4,)), (peers, (6,)), (plain, (6,))],
)
def test_resume_is_bit_for_bit(tmp_path, make, calls):
    # Killed in the second epoch; then, resumed in the second epoch, killed in the third.
    assert_resumes(make, tmp_path, *(FaultAt("on_train_batch_begin", count) for count in calls))


@pytest.mark.parametrize(
    ("method", "count", "every"),
    [
        ("on_train_batch_end", 1, 1),
        ("on_train_batch_end", STEPS, 1),
        ("on_train_batch_begin", STEPS + 2, None),
        ("on_test_batch_end", 1, 1),
        ("on_epoch_end", 1, 3),
        ("on_epoch_begin", 2, None),
        ("on_epoch_end", EPOCHS, 3),
        ("on_train_end", 1, None),
    ],
)
def test_resume_after_a_kill_in_any_callback_method(tmp_path, method, count, every):
    assert_resumes(accumulating, tmp_path, FaultAt(method, count), every=every)


def test_a_model_that_is_not_built_raises(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)], name="vague")
    model.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match="Call 'vague' on a batch"):
        model.fit(*data(), verbose=0, callbacks=[Backup(tmp_path)])


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1.5}, {"seed": -1}, {"seed": None}])
def test_wrong_numbers_raise(tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= .*Received: {value}"):
        Backup(tmp_path, **options)


def test_training_resumes_from_the_checkpoint_before_a_corrupted_one(tmp_path):
    interrupt(tmp_path)
    latest = max(tmp_path.glob("*.arrays"))
    latest.write_bytes(latest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="is corrupted .* the previous one"):
        again = trained(accumulating, tmp_path)
    assert_same(again, uninterrupted(accumulating))


def test_a_finished_training_deletes_its_checkpoints(tmp_path):
    trained(accumulating, tmp_path / "gone", keep=False)
    assert not (tmp_path / "gone").exists()


def test_a_finished_training_with_keep_is_restored_without_training(tmp_path):
    whole = trained(accumulating, tmp_path / "kept")
    steps = []
    again = trained(accumulating, tmp_path / "kept", FaultAt("on_train_batch_begin", 1, lambda: steps.append(1)))
    assert_same(again, whole)
    assert not steps
    Backup(tmp_path / "kept").delete()
    assert not (tmp_path / "kept").exists()


def test_a_finished_training_with_keep_can_be_extended(tmp_path):
    trained(everything, tmp_path / "kept", epochs=2)
    assert_same(trained(everything, tmp_path / "kept"), uninterrupted(everything))


def test_a_second_fit_starts_at_its_first_epoch(tmp_path):
    interrupt(tmp_path)
    model = accumulating()
    backup = Backup(tmp_path)
    dataset = backup.batches(data(EXAMPLES), BATCH)
    assert model.fit(dataset, epochs=3, verbose=0, callbacks=[backup]).epoch == [0, 1, 2]
    assert model.fit(dataset, epochs=2, verbose=0, callbacks=[backup]).epoch == [0, 1]
