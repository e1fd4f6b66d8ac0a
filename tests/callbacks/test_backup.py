"""Runs that are killed and end as if they had not been."""

import functools
import inspect
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
from keras_distill.callbacks.backup import EXIT_PREEMPTED
from keras_distill.data.batch import with_activations
from keras_distill.distribution import workers
from keras_distill.losses import KLDivergence
from keras_distill.saving import checkpoints, runs
from tests.support import backup_run
from tests.support.cluster import finish, start
from tests.support.helpers import compiled, crossentropy, data, features, mlp


class Died(Exception):
    """Stands for a process that is killed: nothing is tidied up."""


class Die(keras.callbacks.Callback):
    """Dies, or does something else, the so-manieth time that a method of callbacks is called."""

    def __init__(self, method, count, deed=None):
        super().__init__()
        self.count, self.deed = count, deed
        setattr(self, method, self.happen)

    def happen(self, *arguments, **options):
        self.count -= 1
        if self.count == 0:
            if self.deed is None:
                raise Died
            self.deed()


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


# Steps of one epoch of `data(EXAMPLES)`, the last of them smaller.
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


def trained(make, folder, *callbacks, epochs=EPOCHS, lessons=None, **options):
    """State and history after a run in which nothing but the folder is left of an earlier one."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = make()
    backup = Backup(folder, **{"every": 1, "keep": True} | options)
    x, y = data(EXAMPLES)
    y = keras.utils.to_categorical(y) if make is plain else y
    lessons = backup.batches((x, y), BATCH) if lessons is None else lessons(backup, x, y)
    options = {"epochs": epochs, "validation_data": (x, y), "verbose": 0}
    history = model.fit(lessons, callbacks=[backup, *backup.callbacks, *callbacks], **options).history
    return state_of(model), history


def assert_same(run, other):
    (state, history), (others, other_history) = run, other
    for one, another in zip(state, others, strict=True):
        np.testing.assert_array_equal(one, another)
    assert history == other_history


@functools.cache
def unbroken(make, lessons=None, epochs=EPOCHS):
    """What becomes of a run that nothing happens to."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(make, folder, lessons=lessons, epochs=epochs)


def assert_unbroken(make, folder, *deaths, lessons=None, **options):
    """Compares a run that died, so many times, with one that did not."""
    for death in deaths:
        with pytest.raises(Died):
            trained(make, folder, death, lessons=lessons, **options)
    assert_same(trained(make, folder, lessons=lessons, **options), unbroken(make, lessons))


@pytest.mark.parametrize(
    ("make", "calls"),
    [(everything, (6, 6)), (accumulating, (6,)), (several_steps_at_once, (4,)), (peers, (6,)), (plain, (6,))],
)
def test_it_goes_on_bit_for_bit(tmp_path, make, calls):
    # Within the second epoch, and within the third, of a run that began within the second.
    assert_unbroken(make, tmp_path, *(Die("on_train_batch_begin", count) for count in calls))


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
def test_it_may_die_anywhere(tmp_path, method, count, every):
    assert_unbroken(accumulating, tmp_path, Die(method, count), every=every)


def source(backup, x, y):
    """A stream, of which TensorFlow cannot tell how long it is."""
    examples = tf.data.Dataset.from_tensor_slices((x, y))

    def make(seed):
        return examples.filter(lambda x, y: True).shuffle(20, seed=seed).batch(BATCH)

    return backup.epochs(make)


def known(backup, x, y):
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    return backup.epochs(lambda seed: examples.shuffle(20, seed=seed).batch(BATCH))


def unmanaged(backup, x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


@pytest.mark.parametrize("lessons", [source, known, unmanaged])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_other_data(tmp_path, lessons):
    assert_unbroken(accumulating, tmp_path, Die("on_train_batch_end", 6), lessons=lessons)


def orders(backup, epochs, count=10):
    """The order of each epoch, as `fit` reads them."""
    lessons = backup.batches(np.arange(count), 4)
    found = []
    for epoch in range(epochs):
        backup._start = (epoch, 0)
        found.append([int(number) for batch in lessons for number in batch])
    return found


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path):
    first, second, third = orders(Backup(tmp_path), 3)
    assert orders(Backup(tmp_path), 3) == [first, second, third]
    for order in (first, second, third):
        assert sorted(order) == list(range(10))
    assert first != second != third != first
    assert orders(Backup(tmp_path, seed=1), 1) != [first]
    # By hand, of the library's own seed.
    seed = [np.random.SeedSequence([0, 1]).generate_state(1, "uint64")[0] >> np.uint64(1), 0]
    shuffled = tf.random.experimental.index_shuffle(tf.range(10, dtype="int64"), np.array(seed, "int64"), np.int64(9))
    assert second == [int(number) for number in shuffled]


def test_an_interrupted_epoch_begins_where_it_stood(tmp_path):
    backup = Backup(tmp_path)
    lessons = backup.batches(np.arange(10), 4)
    whole = [batch.numpy().tolist() for batch in lessons]
    backup._start = (0, 2)
    assert [batch.numpy().tolist() for batch in lessons] == whole[2:] + whole[:2]


def test_arrays_may_be_nested(tmp_path):
    x = with_activations([features(5, 2), np.array(list("abcde"))], {"output": features(5, 3).astype("float64")})
    labels, weights = np.arange(5), None
    (batch,) = Backup(tmp_path).batches((x, labels, weights), 8, shuffle=False)
    inputs, found, none = batch
    assert none is None
    np.testing.assert_array_equal(found, labels)
    (pictures, texts), output = inputs["keras_distill/inputs"], inputs["keras_distill/cached"]["output"]
    np.testing.assert_array_equal(pictures, features(5, 2))
    assert texts.numpy().tolist() == [b"a", b"b", b"c", b"d", b"e"]
    assert output.dtype == "float32"


def test_data_that_cannot_be_epochs_are_refused(tmp_path):
    backup = Backup(tmp_path)
    with pytest.raises(ValueError, match="An epoch must have an end"):
        backup.epochs(lambda seed: tf.data.Dataset.range(3).repeat())
    with pytest.raises(ValueError, match=r"equally long. Received lengths: \[3, 4\]"):
        backup.batches((np.zeros(3), np.zeros(4)), 2)


def test_an_epoch_is_one_pass(tmp_path):
    backup = Backup(tmp_path)
    lessons = backup.batches(data(EXAMPLES), BATCH)
    with pytest.raises(ValueError, match="without `steps_per_epoch`"):
        accumulating().fit(lessons, steps_per_epoch=2, verbose=0, callbacks=[backup])


def test_a_pass_that_began_too_early_is_refused(tmp_path):
    backup = Backup(tmp_path)
    lessons = backup.batches(data(EXAMPLES), BATCH)
    # As Keras may do with as many `steps_per_epoch` as there are: it reads on before the epoch is known.
    early = iter(lessons)
    next(early)
    backup.set_model(accumulating())
    backup.set_params({"steps": STEPS, "epochs": 2})
    backup.on_train_begin()
    backup.on_epoch_begin(0)
    with pytest.raises(ValueError, match="without `steps_per_epoch`"):
        backup.on_train_batch_end(0)
    backup._unlisten()


def test_data_of_another_are_refused(tmp_path):
    model, backup = accumulating(), Backup(tmp_path / "one")
    backup.batches(data(EXAMPLES), BATCH)
    with pytest.raises(ValueError, match="with the Backup among its callbacks"):
        model.fit(Backup(tmp_path / "two").batches(data(EXAMPLES), BATCH), verbose=0, callbacks=[backup])


def broken(folder, make=accumulating, **options):
    """Leaves the backup of a run that died."""
    with pytest.raises(Died):
        trained(make, folder, Die("on_train_batch_end", 6), **options)


def wider():
    return compiled(Distiller(student=mlp(9), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"make": wider},
            r"variables, such as 'model/0/student/features/kernel' \(8, 8\) float32 there and .*\(8, 9\)",
        ),
        ({"seed": 1}, "seed 0 there and 1 here"),
        ({"settings": {"temperature": 2.0}}, "temperature 4.0 there and 2.0 here"),
        ({"lessons": lambda backup, x, y: backup.batches((x, y), 16)}, "steps 4 there and 2 here"),
    ],
)
def test_a_backup_of_another_run_is_refused(tmp_path, options, said):
    broken(tmp_path, settings={"temperature": 4.0})
    options = {"make": accumulating, "settings": {"temperature": 4.0}} | options
    with pytest.raises(ValueError, match=f"of another run: .*{said}.*delete it to begin anew"):
        trained(options.pop("make"), tmp_path, **options)


def test_a_backup_of_other_versions_is_refused(tmp_path, monkeypatch):
    broken(tmp_path)
    version = keras.__version__
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    with pytest.raises(ValueError, match=f"another run: keras '{version}' there and '3.99.0' here"):
        trained(accumulating, tmp_path)


def test_a_model_that_is_not_built_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)], name="vague")
    model.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match="Call 'vague' on a batch"):
        model.fit(*data(), verbose=0, callbacks=[Backup(tmp_path)])


@pytest.mark.parametrize("options", [{"every": 0}, {"every": 1.5}, {"seed": -1}, {"seed": None}])
def test_wrong_numbers_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Backup(tmp_path, **options)


def test_a_damaged_backup_costs_the_steps_since_the_one_before(tmp_path):
    broken(tmp_path)
    latest = max(tmp_path.glob("*.arrays"))
    latest.write_bytes(latest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="is damaged .* the one before"):
        again = trained(accumulating, tmp_path)
    assert_same(again, unbroken(accumulating))


def test_names_that_keras_numbers_may_be_others(tmp_path):
    def unnamed():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
        return compiled(
            Distiller(student=model, teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]),
            keras.optimizers.Adam(0.1),
        )

    def after_another():
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]).compile("adam", crossentropy())
        # It takes names, and no random numbers of what follows.
        keras.utils.set_random_seed(0)
        return unnamed()

    whole = trained(unnamed, tmp_path / "whole")
    broken(tmp_path / "broken", unnamed)
    assert_same(trained(after_another, tmp_path / "broken"), whole)


def test_callbacks_go_on(tmp_path):
    def callbacks():
        early = keras.callbacks.EarlyStopping("val_loss", min_delta=0.02, patience=2, restore_best_weights=True)
        return [early, keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, cooldown=1)]

    def hasty():
        model = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
        return compiled(model, keras.optimizers.SGD(0.5))

    def run(folder, *deaths):
        return trained(hasty, folder, *deaths, callbacks=callbacks(), epochs=12)

    whole = run(tmp_path / "whole")
    assert 3 < len(whole[1]["loss"]) < 12, "stops early, and not at once"
    with pytest.raises(Died):
        run(tmp_path / "broken", Die("on_train_batch_end", 2 * STEPS + 1))
    assert_same(run(tmp_path / "broken"), whole)
    # It had stopped, and does not go on.
    assert_same(run(tmp_path / "broken"), whole)


def test_a_finished_training_deletes_its_backup(tmp_path):
    trained(accumulating, tmp_path / "gone", keep=False)
    assert not (tmp_path / "gone").exists()


def test_or_keeps_it_and_is_not_trained_again(tmp_path):
    whole = trained(accumulating, tmp_path / "kept")
    begun = []
    again = trained(accumulating, tmp_path / "kept", Die("on_train_batch_begin", 1, lambda: begun.append(1)))
    assert_same(again, whole)
    assert not begun
    Backup(tmp_path / "kept").delete()
    assert not (tmp_path / "kept").exists()


def test_kept_it_may_be_trained_for_longer(tmp_path):
    trained(everything, tmp_path / "kept", epochs=2)
    assert_same(trained(everything, tmp_path / "kept"), unbroken(everything))


def test_a_second_fit_begins_at_its_own_first_epoch(tmp_path):
    broken(tmp_path)
    model = accumulating()
    backup = Backup(tmp_path)
    lessons = backup.batches(data(EXAMPLES), BATCH)
    assert model.fit(lessons, epochs=3, verbose=0, callbacks=[backup]).epoch == [0, 1, 2]
    assert model.fit(lessons, epochs=2, verbose=0, callbacks=[backup]).epoch == [0, 1]


@pytest.fixture
def heard():
    """The signals that reach the handler of before."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("method", "count"), [("on_train_batch_begin", 6), ("on_test_batch_end", 1), ("on_epoch_end", 3)]
)
def test_a_notice_is_heeded_after_the_step(tmp_path, heard, method, count):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        trained(everything, tmp_path / "told", Die(method, count, stop), every=None)
    assert left.value.code == EXIT_PREEMPTED == 75
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not heard
    assert_same(trained(everything, tmp_path / "told"), unbroken(everything))


def test_more_notices_do_not_disturb_the_first(tmp_path, heard, monkeypatch):
    write = checkpoints._Hashed.write

    def interrupted(*arguments):
        stop()
        return write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(checkpoints._Hashed, "write", interrupted)
        trained(everything, tmp_path / "told", Die("on_train_batch_begin", 6, stop), every=None)
    assert_same(trained(everything, tmp_path / "told"), unbroken(everything))
    assert not heard


def test_after_an_error_a_notice_goes_to_the_handler_of_before(tmp_path, heard):
    broken(tmp_path)
    stop()
    assert heard == [signal.SIGTERM]


def test_another_thread_may_train(tmp_path):
    thread = threading.Thread(target=trained, args=(accumulating, tmp_path / "kept"))
    thread.start()
    thread.join()
    assert len(list((tmp_path / "kept").iterdir())) == 4


@pytest.mark.parametrize("private", ["_initial_epoch", "train_function"])
def test_keras_has_what_is_relied_upon(private):
    assert f"self.{private}" in inspect.getsource(keras.Model.fit)


def run(folder, plans, workers=1):
    """What became of the processes of one start: `(code, printed)` of each worker."""
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    command = ["-m", "tests.support.backup_run", folder / "backup", out]
    plans = [plans.get(worker, []) for worker in range(workers)]
    return finish(start([[*command, json.dumps(plan)] for plan in plans], workers))


def ended_with(folder, worker=0):
    history = json.loads((folder / "out" / f"{worker}.json").read_text())
    return list(np.load(folder / "out" / f"{worker}.npz").values()), history


def test_processes_that_are_killed(tmp_path):
    model, history = backup_run.fitted(tmp_path / "whole")
    # While the fourth backup is written, and in a step of the process that follows.
    killed = [{"signal": "SIGKILL", "at": "fsync", "count": 7}]
    notified = [{"signal": "SIGTERM", "at": "step", "count": 8}]
    for plan, code in ((killed, -signal.SIGKILL), (notified, EXIT_PREEMPTED), ([], 0)):
        ((found, printed),) = run(tmp_path, {0: plan})
        assert found == code, printed
    assert_same(ended_with(tmp_path), (backup_run.state(model), history))


@pytest.mark.replicas
def test_workers_that_are_killed(tmp_path):
    for _, printed in run(tmp_path / "whole", {}, workers=2):
        assert "step" in printed
    killed = {"signal": "SIGKILL", "at": "step", "count": 9, "after": 0.005}
    in_a_write = {"signal": "SIGKILL", "at": "hash", "count": 30}
    for plans in ({1: [killed]}, {0: [in_a_write]}):
        assert -signal.SIGKILL in [code for code, _ in run(tmp_path / "broken", plans, workers=2)]
    notice = {"signal": "SIGTERM", "at": "step", "count": 4}
    assert [code for code, _ in run(tmp_path / "broken", {1: [notice]}, workers=2)] == [EXIT_PREEMPTED] * 2
    assert [code for code, _ in run(tmp_path / "broken", {}, workers=2)] == [0, 0]
    (state, history), *others = (
        ended_with(tmp_path / name, worker) for name in ("whole", "broken") for worker in (0, 1)
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
def test_replicas_go_on(tmp_path, calls):
    with pytest.raises(Died):
        trained(distributed, tmp_path, Die("on_train_batch_begin", calls))
    (state, history), (others, other_history) = unbroken(distributed), trained(distributed, tmp_path)
    for one, other in zip(state, others, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(other_history[name], values, rtol=1e-6, err_msg=name)


ALIKE = """
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
    # Of one width, unless the backup has told the difference before.
    student = mlp(int(units) if order == "first" else 8)
    model = compiled(Distiller(student=student, teacher=mlp(12, name="teacher"), terms=[Term(KLDivergence())]))
if order == "last":
    backup = Backup(folder, settings={"units": int(units)})
model.fit(backup.batches(data(), 8), verbose=0, callbacks=[backup])
"""


@pytest.mark.replicas
@pytest.mark.parametrize("order", ["first", "last"])
def test_workers_of_other_recipes_are_told(order, tmp_path):
    commands = [["-c", ALIKE, tmp_path, order, units] for units in (4, 8)]
    for code, printed in finish(start(commands, 2), deadline=120):
        assert code == 1
        assert "The workers do not train alike: units 4 on worker 0 and 8 on worker 1." in printed
    assert list(tmp_path.iterdir()) == []


def test_a_setting_may_be_called_as_what_a_run_has_anyway():
    one, other = ({"seed": 0, "settings": {"seed": seed, "keras": "2"}, "versions": {"keras": "3"}} for seed in (1, 2))
    assert runs.differences(one, other, "there", "here") == "seed 1 there and 2 here"
    assert runs.differences(one, one, "there", "here") == ""


def test_one_process_is_all_of_the_workers():
    strategy = tf.distribute.get_strategy()
    assert workers.is_chief(strategy)
    assert workers.all_gather_text(strategy, "that") == ["that"]
    assert workers.any_worker(strategy, True) and not workers.any_worker(strategy, False)
