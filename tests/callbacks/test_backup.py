"""Fault-tolerant training: runs that are killed and resumed equal uninterrupted runs."""

import functools
import json
import os
import signal
import tempfile
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Backup, Distiller, MutualDistiller, Term
from keras_distill.callbacks import EXIT_PREEMPTED
from keras_distill.data.batch import with_activations
from keras_distill.distribution import workers
from keras_distill.losses import KLDivergence
from keras_distill.saving import checkpoints, runs
from tests.support import backup_run
from tests.support.cluster import finish, start
from tests.support.helpers import compiled, crossentropy, data, features, mlp

pytestmark = pytest.mark.processes


class KilledError(Exception):
    """Simulates a process that is killed: nothing cleans up after it."""


class FaultAt(keras.callbacks.Callback):
    """Raise `KilledError`, or run an action, at a given call of a callback method."""

    def __init__(self, method, count, action=None):
        super().__init__()
        self.count, self.action = count, action
        setattr(self, method, self.count_down)

    def count_down(self, *arguments, **options):
        self.count -= 1
        if self.count == 0:
            if self.action is None:
                raise KilledError
            self.action()


def send_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


# An epoch of `data(EXAMPLES)` has STEPS steps. The last batch is smaller.
EXAMPLES, BATCH, STEPS, EPOCHS = 30, 8, 4, 3


def network(name="student", normalized=False):
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, activation="relu", name="features"),
            *([keras.layers.BatchNormalization()] if normalized else []),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, name="logits"),
        ],
        name=name,
    )


def everything():
    return backup_run.distiller()


def accumulating():
    optimizer = keras.optimizers.Adam(0.05, gradient_accumulation_steps=3, use_ema=True)
    model = Distiller(student=network(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
    return compiled(model, optimizer, metrics=["accuracy"])


def several_steps_at_once():
    model = Distiller(student=network(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
    return compiled(model, keras.optimizers.Adam(0.05), metrics=["accuracy"], steps_per_execution=2)


def peers():
    return compiled(MutualDistiller([network("one"), network("two")]), keras.optimizers.Adam(0.05))


def plain():
    model = network(normalized=True)
    metrics = ["accuracy", keras.metrics.TopKCategoricalAccuracy(2)]
    model.compile(keras.optimizers.AdamW(0.05), keras.losses.CategoricalCrossentropy(from_logits=True), metrics=metrics)
    return model


def state_of(model):
    teacher = model.untracked_variables().values() if isinstance(model, Distiller) else ()
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables, *teacher)]


def trained(make, folder, *callbacks, epochs=EPOCHS, dataset=None, **options):
    """Return state and history of a run that shares only the folder with earlier runs, like another process."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = make()
    backup = Backup(folder, **{"every": 1, "keep": True} | options)
    x, y = data(EXAMPLES)
    y = keras.utils.to_categorical(y) if make is plain else y
    dataset = backup.batches((x, y), BATCH) if dataset is None else dataset(backup, x, y)
    options = {"epochs": epochs, "validation_data": (x, y), "verbose": 0}
    history = model.fit(dataset, callbacks=[backup, *backup.callbacks, *callbacks], **options).history
    return state_of(model), history


def assert_same(run, other):
    (state, history), (others, other_history) = run, other
    for one, another in zip(state, others, strict=True):
        np.testing.assert_array_equal(one, another)
    assert history == other_history


@functools.cache
def uninterrupted(make, dataset=None, epochs=EPOCHS):
    """Return state and history of a run without faults."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(make, folder, dataset=dataset, epochs=epochs)


def assert_resumes(make, folder, *faults, dataset=None, **options):
    """Compare a run that was killed by each of the faults with an uninterrupted one."""
    for fault in faults:
        with pytest.raises(KilledError):
            trained(make, folder, fault, dataset=dataset, **options)
    assert_same(trained(make, folder, dataset=dataset, **options), uninterrupted(make, dataset))


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


def source(backup, x, y):
    """Return a dataset whose cardinality TensorFlow does not know."""
    examples = tf.data.Dataset.from_tensor_slices((x, y))

    def make(seed):
        return examples.filter(lambda x, y: True).shuffle(20, seed=seed).batch(BATCH)

    return backup.epochs(make)


def known(backup, x, y):
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    return backup.epochs(lambda seed: examples.shuffle(20, seed=seed).batch(BATCH))


def unmanaged(backup, x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


@pytest.mark.parametrize("dataset", [source, known, unmanaged])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_other_datasets(tmp_path, dataset):
    assert_resumes(accumulating, tmp_path, FaultAt("on_train_batch_end", 6), dataset=dataset)


def orders(backup, epochs, count=10):
    """Return the order of each epoch, in which `fit` reads the examples."""
    dataset = backup.batches(np.arange(count), 4)
    found = []
    for epoch in range(epochs):
        backup._order.start = (epoch, 0)
        found.append([int(number) for batch in dataset for number in batch])
    return found


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path):
    first, second, third = orders(Backup(tmp_path), 3)
    assert orders(Backup(tmp_path), 3) == [first, second, third]
    for order in (first, second, third):
        assert sorted(order) == list(range(10))
    assert first != second != third != first
    assert orders(Backup(tmp_path, seed=1), 1) != [first]
    # Computed by hand from the seed of the epoch.
    seed = [np.random.SeedSequence([0, 1]).generate_state(1, "uint64")[0] >> np.uint64(1), 0]
    shuffled = tf.random.experimental.index_shuffle(tf.range(10, dtype="int64"), np.array(seed, "int64"), np.int64(9))
    assert second == [int(number) for number in shuffled]


def test_an_interrupted_epoch_resumes_at_its_next_batch(tmp_path):
    backup = Backup(tmp_path)
    dataset = backup.batches(np.arange(10), 4)
    whole = [batch.numpy().tolist() for batch in dataset]
    backup._order.start = (0, 2)
    assert [batch.numpy().tolist() for batch in dataset] == whole[2:] + whole[:2]


def test_arrays_may_be_nested(tmp_path):
    x = with_activations([features(5, 2), np.array(list("abcde"))], {"output": features(5, 3).astype("float64")})
    labels, weights = np.arange(5), None
    (batch,) = Backup(tmp_path).batches((x, labels, weights), 8, shuffle=False)
    inputs, found, none = batch
    assert none is None
    np.testing.assert_array_equal(found, labels)
    (images, texts), output = inputs["keras_distill/inputs"], inputs["keras_distill/cached"]["output"]
    np.testing.assert_array_equal(images, features(5, 2))
    assert texts.numpy().tolist() == [b"a", b"b", b"c", b"d", b"e"]
    assert output.dtype == "float32"


def test_data_without_epochs_raise(tmp_path):
    backup = Backup(tmp_path)
    with pytest.raises(ValueError, match="`make` must return a finite dataset"):
        backup.epochs(lambda seed: tf.data.Dataset.range(3).repeat())
    with pytest.raises(ValueError, match=r"the same length. Received lengths: \[3, 4\]"):
        backup.batches((np.zeros(3), np.zeros(4)), 2)
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1. Received: 0"):
        backup.batches(np.zeros(3), 0)


def test_an_epoch_is_one_pass(tmp_path):
    backup = Backup(tmp_path)
    dataset = backup.batches(data(EXAMPLES), BATCH)
    with pytest.raises(ValueError, match="without `steps_per_epoch`"):
        accumulating().fit(dataset, steps_per_epoch=2, verbose=0, callbacks=[backup])


def test_a_pass_that_began_too_early_raises(tmp_path):
    backup = Backup(tmp_path)
    dataset = backup.batches(data(EXAMPLES), BATCH)
    # Keras may read ahead before the next epoch begins if `steps_per_epoch` equals the length of the dataset.
    early = iter(dataset)
    next(early)
    backup.set_model(accumulating())
    backup.set_params({"steps": STEPS, "epochs": 2})
    backup.on_train_begin()
    backup.on_epoch_begin(0)
    with pytest.raises(ValueError, match="without `steps_per_epoch`"):
        backup.on_train_batch_end(0)
    backup._preemption.uninstall()


def test_data_of_another_backup_raise(tmp_path):
    model, backup = accumulating(), Backup(tmp_path / "one")
    backup.batches(data(EXAMPLES), BATCH)
    with pytest.raises(ValueError, match="with that Backup among the callbacks"):
        model.fit(Backup(tmp_path / "two").batches(data(EXAMPLES), BATCH), verbose=0, callbacks=[backup])


def interrupt(folder, make=accumulating, **options):
    """Leave the checkpoints of a run that was killed in its second epoch."""
    with pytest.raises(KilledError):
        trained(make, folder, FaultAt("on_train_batch_end", 6), **options)


def wider():
    return compiled(Distiller(student=mlp(9), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (
            {"make": wider},
            r"variables, such as 'model/0/student/features/kernel' \(8, 8\) float32 in the checkpoint and .*\(8, 9\)",
        ),
        ({"seed": 1}, "seed 0 in the checkpoint and 1 now"),
        ({"settings": {"temperature": 2.0}}, "temperature 4.0 in the checkpoint and 2.0 now"),
        ({"dataset": lambda backup, x, y: backup.batches((x, y), 16)}, "steps 4 in the checkpoint and 2 now"),
    ],
)
def test_a_checkpoint_of_another_run_raises(tmp_path, options, difference):
    interrupt(tmp_path, settings={"temperature": 4.0})
    options = {"make": accumulating, "settings": {"temperature": 4.0}} | options
    with pytest.raises(ValueError, match=f"belongs to another run: .*{difference}.*delete the folder to start"):
        trained(options.pop("make"), tmp_path, **options)


def test_a_checkpoint_of_other_versions_raises(tmp_path, monkeypatch):
    interrupt(tmp_path)
    version = keras.__version__
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    with pytest.raises(ValueError, match=f"another run: keras '{version}' in the checkpoint and '3.99.0' now"):
        trained(accumulating, tmp_path)


def test_a_checkpoint_of_another_format_raises(tmp_path):
    interrupt(tmp_path)
    for marker in tmp_path.glob("*.json"):
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 1}))
    with pytest.raises(ValueError, match=r"written by keras_distill 0.1.0 .*: resume with that version, or delete the"):
        trained(accumulating, tmp_path)


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


def test_numbers_in_generated_names_may_differ(tmp_path):
    def unnamed():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
        return compiled(
            Distiller(student=model, teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]),
            keras.optimizers.Adam(0.1),
        )

    def after_another():
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]).compile("adam", crossentropy())
        # The first model takes names, but must not take random numbers.
        keras.utils.set_random_seed(0)
        return unnamed()

    whole = trained(unnamed, tmp_path / "whole")
    interrupt(tmp_path / "broken", unnamed)
    assert_same(trained(after_another, tmp_path / "broken"), whole)


def test_callbacks_resume(tmp_path):
    def callbacks():
        early = keras.callbacks.EarlyStopping("val_loss", min_delta=0.02, patience=2, restore_best_weights=True)
        return [early, keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, cooldown=1)]

    def hasty():
        model = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
        return compiled(model, keras.optimizers.SGD(0.5))

    def run(folder, *faults):
        return trained(hasty, folder, *faults, callbacks=callbacks(), epochs=12)

    whole = run(tmp_path / "whole")
    assert 3 < len(whole[1]["loss"]) < 12, "must stop early, but not at once"
    with pytest.raises(KilledError):
        run(tmp_path / "broken", FaultAt("on_train_batch_end", 2 * STEPS + 1))
    assert_same(run(tmp_path / "broken"), whole)
    # A training that stopped early does not continue.
    assert_same(run(tmp_path / "broken"), whole)


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


@pytest.fixture
def previous_handler():
    """Record the signals that reach the handler that was installed before."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("method", "count"), [("on_train_batch_begin", 6), ("on_test_batch_end", 1), ("on_epoch_end", 3)]
)
def test_preemption_stops_after_the_step(tmp_path, capsys, previous_handler, method, count):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit:
        trained(everything, tmp_path / "run", FaultAt(method, count, send_sigterm), every=None)
    assert exit.value.code == EXIT_PREEMPTED == 75
    assert f"Preempted: checkpoint written to '{tmp_path / 'run'}'" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not previous_handler
    assert_same(trained(everything, tmp_path / "run"), uninterrupted(everything))


def test_more_signals_do_not_disturb_the_checkpoint(tmp_path, previous_handler, monkeypatch):
    write = checkpoints.HashingWriter.write

    def interrupted(*arguments):
        send_sigterm()
        return write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.HashingWriter, "write", interrupted)
        with pytest.raises(SystemExit):
            trained(everything, tmp_path / "run", FaultAt("on_train_batch_begin", 6, send_sigterm), every=None)
    assert_same(trained(everything, tmp_path / "run"), uninterrupted(everything))
    assert not previous_handler


def test_after_an_error_a_signal_reaches_the_previous_handler(tmp_path, previous_handler):
    interrupt(tmp_path)
    send_sigterm()
    assert previous_handler == [signal.SIGTERM]


def test_training_in_another_thread(tmp_path):
    thread = threading.Thread(target=trained, args=(accumulating, tmp_path / "kept"))
    thread.start()
    thread.join()
    assert len(list((tmp_path / "kept").iterdir())) == 4


def run(folder, plans, workers=1):
    """Start a process for each worker and return `(exit status, output)` of each."""
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    command = ["-m", "tests.support.backup_run", folder / "backup", out]
    plans = [plans.get(worker, []) for worker in range(workers)]
    return finish(start([[*command, json.dumps(plan)] for plan in plans], workers))


def results_of(folder, worker=0):
    """Return state and history that a worker wrote at its end."""
    history = json.loads((folder / "out" / f"{worker}.json").read_text())
    return list(np.load(folder / "out" / f"{worker}.npz").values()), history


def test_processes_that_are_killed(tmp_path):
    model, history = backup_run.fitted(tmp_path / "whole")
    # Killed while the fourth checkpoint is written; the next process is preempted in a step.
    killed = [{"signal": "SIGKILL", "at": "fsync", "count": 7}]
    preempted = [{"signal": "SIGTERM", "at": "step", "count": 8}]
    for plan, expected in ((killed, -signal.SIGKILL), (preempted, EXIT_PREEMPTED), ([], 0)):
        ((code, printed),) = run(tmp_path, {0: plan})
        assert code == expected, printed
    assert_same(results_of(tmp_path), (backup_run.state(model), history))


@pytest.mark.replicas
def test_workers_that_are_killed(tmp_path):
    for _, printed in run(tmp_path / "whole", {}, workers=2):
        assert "step" in printed
    killed = {"signal": "SIGKILL", "at": "step", "count": 9, "after": 0.005}
    killed_in_a_write = {"signal": "SIGKILL", "at": "hash", "count": 30}
    for plans in ({1: [killed]}, {0: [killed_in_a_write]}):
        assert -signal.SIGKILL in [code for code, _ in run(tmp_path / "broken", plans, workers=2)]
    preempted = {"signal": "SIGTERM", "at": "step", "count": 4}
    assert [code for code, _ in run(tmp_path / "broken", {1: [preempted]}, workers=2)] == [EXIT_PREEMPTED] * 2
    assert [code for code, _ in run(tmp_path / "broken", {}, workers=2)] == [0, 0]
    (state, history), *others = (
        results_of(tmp_path / name, worker) for name in ("whole", "broken") for worker in (0, 1)
    )
    for other, other_history in others:
        for one, another in zip(state, other, strict=True):
            np.testing.assert_allclose(another, one, rtol=1e-6, atol=1e-6)
        for name, values in history.items():
            np.testing.assert_allclose(other_history[name], values, rtol=1e-6, err_msg=name)


@functools.cache
def three_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"], tf.distribute.ReductionToOneDevice())


def distributed():
    with three_replicas().scope():
        return everything()


@pytest.mark.replicas
@pytest.mark.parametrize("calls", [3, 9])
def test_replicas_resume(tmp_path, calls):
    with pytest.raises(KilledError):
        trained(distributed, tmp_path, FaultAt("on_train_batch_begin", calls))
    (state, history), (others, other_history) = uninterrupted(distributed), trained(distributed, tmp_path)
    for one, other in zip(state, others, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(other_history[name], values, rtol=1e-6, err_msg=name)


DIFFERENT_WORKERS = """
import sys
import keras
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
from tests.support.helpers import compiled, data, mlp
from keras_distill import Backup, Distiller, Term
from keras_distill.losses import KLDivergence
folder, order, units = sys.argv[1:]
with strategy.scope():
    if order == "first":
        backup = Backup(folder, settings={"units": int(units)})
    # With order "last", the models need the same shapes: `Backup` compares the settings only after them.
    student = mlp(int(units) if order == "first" else 8)
    model = compiled(Distiller(student=student, teacher=mlp(12, name="teacher"), terms=[Term(KLDivergence())]))
if order == "last":
    backup = Backup(folder, settings={"units": int(units)})
model.fit(backup.batches(data(), 8), verbose=0, callbacks=[backup])
"""


@pytest.mark.replicas
@pytest.mark.parametrize("order", ["first", "last"])
def test_workers_with_different_settings_raise(order, tmp_path):
    commands = [["-c", DIFFERENT_WORKERS, tmp_path, order, units] for units in (4, 8)]
    for code, printed in finish(start(commands, 2), deadline=120):
        assert code == 1
        assert "The workers run different trainings: units 4 on worker 0 and 8 on worker 1." in printed
    assert list(tmp_path.iterdir()) == []


def test_a_setting_may_have_the_name_of_another_property_of_the_run():
    first, second = (
        {"seed": 0, "settings": {"seed": seed, "keras": "2"}, "versions": {"keras": "3"}} for seed in (1, 2)
    )
    assert runs.differences(first, second, "before", "now") == "seed 1 before and 2 now"
    assert runs.differences(first, first, "before", "now") == ""


def test_a_single_process_is_the_only_worker():
    strategy = tf.distribute.get_strategy()
    assert workers.is_chief(strategy)
    assert workers.all_gather_text(strategy, "that") == ["that"]
    assert workers.any_worker(strategy, True) and not workers.any_worker(strategy, False)
