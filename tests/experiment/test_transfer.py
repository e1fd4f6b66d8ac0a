"""Transfer sets in experiments: what a batch holds, and what students learn from."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.callbacks import Backup
from keras_distill.data import Augmentation, Mixup, Munge, TransferSet
from keras_distill.experiment import (
    Arm,
    Classification,
    Data,
    Experiment,
    MultiLabelClassification,
    Regression,
    TunedArm,
    tuned_objective,
)
from keras_distill.experiment.data import as_examples
from keras_distill.experiment.training_data import TrainingData
from keras_distill.experiment.transfer_examples import with_transfer_set
from keras_distill.losses import KLDivergence
from tests.support.helpers import assert_same_weights, data, mlp, weights_of

TERM = Term(KLDivergence(1.0), weight=0.5)


class Marked(Augmentation):
    """Examples whose first input is 100 plus the number of the source."""

    def __call__(self, inputs, labels, generator):
        new = inputs.copy()
        new[:, 0] = 100 + np.arange(len(new))
        return new, labels


def student():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)])


def teacher():
    keras.utils.set_random_seed(7)
    return mlp(16, name="teacher")


def arm(name="distilled", transfer=None, terms=(TERM,), **options):
    options = {"epochs": 2, "batch_size": 10, **options}
    return Arm(name, student, None if terms is None else list(terms), 0.5, transfer=transfer, **options)


def experiment(arms, splits=None, **options):
    splits = splits or Data(data(40), test=data(24))
    return Experiment(Classification(), splits, teacher(), arms, **{"seeds": 1, **options})


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Leave out the page and the pre-flight check, which take seconds and are tested elsewhere."""
    monkeypatch.setattr("keras_distill.report.page.write_page", lambda results, path: path.write_text("page"))
    monkeypatch.setattr("keras_distill.experiment.diagnostics.check", lambda *arguments: [])


def trained(folder, name, seed=0):
    (path,) = (folder / "models").glob(f"{name}_{seed}_*.keras")
    return keras.saving.load_model(path)


def read(batches):
    return [[part.numpy() for part in keras.tree.flatten(batch)] for batch in batches]


@pytest.mark.parametrize("kind", ["arrays", "stream"])
@pytest.mark.parametrize(("share", "new"), [(0.5, 5), (0.3, 3), (0.04, 1), (0.99, 9)])
def test_share_of_each_batch(kind, share, new, tmp_path):
    x, y = data(40)
    source = (x, y) if kind == "arrays" else tf.data.Dataset.from_tensor_slices((x, y))
    given = as_examples(source)
    transfer = TransferSet(Marked(), share=share, size=3)
    mixed = with_transfer_set(given, arm(transfer=transfer), Classification(), 40)
    assert len(mixed) == 160
    backup = Backup(tmp_path / "backup", seed=1)
    seen = []
    for batches in (mixed.training_batches(backup, 10), mixed.shuffled_batches(10)):
        listed = read(batches)
        # As many steps as without new examples.
        assert len(listed) == 4 == batches.cardinality()
        for inputs, labels in listed:
            is_new = inputs[:, 0] >= 100
            assert is_new.sum() == new and len(inputs) == 10
            assert (labels[is_new] == -1).all() and (labels[~is_new] >= 0).all()
            for row, label in zip(inputs[~is_new], labels[~is_new]):
                (number,) = np.flatnonzero((x == row).all(axis=1))
                assert y[number] == label
            seen.append(tuple(inputs[:, 0]))
    assert len(set(seen)) == 8


def test_every_epoch_has_other_new_examples():
    given = as_examples(data(40))
    mixed = with_transfer_set(given, arm(transfer=TransferSet(Marked(), size=1)), Classification(), 40)
    batches = mixed.shuffled_batches(10)
    epochs = [np.concatenate([inputs[:, 0] for inputs, _ in read(batches)]) for _ in range(2)]
    new = [set(epoch[epoch >= 100]) for epoch in epochs]
    assert all(len(each) == 20 for each in new) and new[0] != new[1]


class Numbered(Augmentation):
    """Examples whose first input is a new number in each round."""

    def __call__(self, inputs, labels, generator):
        new = inputs.copy()
        new[:, 0] = 100 + generator.integers(10**6)
        return new, labels


def test_streams_larger_than_the_shuffle_buffer_are_seen_in_all_parts(monkeypatch):
    # A buffer of one example.
    monkeypatch.setattr("keras_distill.experiment.streamed_examples._SHUFFLE_BYTES", 1)
    given = as_examples(tf.data.Dataset.from_tensor_slices(data(40)))
    mixed = with_transfer_set(given, arm(transfer=TransferSet(Numbered(), size=8)), Classification(), 40)
    batches, rounds = mixed.shuffled_batches(10), set()
    for _ in range(12):
        numbers = np.concatenate([inputs[:, 0] for inputs, _ in read(batches)])
        assert len(numbers) == 40
        rounds |= set(numbers[numbers >= 100])
    # An epoch holds half of one of eight rounds.
    assert len(rounds) >= 6


@pytest.mark.parametrize("transfer", [None, TransferSet(Marked(), size=1)])
def test_steps_per_epoch(transfer, tmp_path):
    """Two passes over the training set make one epoch."""
    seen = []
    counting = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    distilled = arm(transfer=transfer, epochs=2, steps_per_epoch=8)
    experiment([distilled], callbacks=lambda title, seed: [counting]).run(tmp_path)
    assert seen == [*range(8)] * 2
    # 2 epochs of 8 steps are 16 steps of the learning-rate schedule.
    assert experiment([distilled]).num_steps(distilled) == 16
    seen.clear()
    whole = dataclasses.replace(distilled, steps_per_execution=4, name="whole")
    experiment([whole], callbacks=lambda title, seed: [counting]).run(tmp_path)
    assert_same_weights(weights_of(trained(tmp_path, "whole")), weights_of(trained(tmp_path, "distilled")))


def test_an_epoch_is_at_least_one_pass():
    with pytest.raises(
        ValueError, match="of 'distilled' must be at least 4, one pass over the training set. Received: 3"
    ):
        experiment([arm(steps_per_epoch=3)])


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_labels_of_new_examples_are_missing_in_every_dtype(dtype):
    x, y = data(12)
    task = Regression() if dtype == "float32" else Classification()
    given = as_examples((x, y.astype(dtype)))
    mixed = with_transfer_set(given, arm(transfer=TransferSet(Marked(), size=1)), task, 12)
    labels = mixed.labels()
    np.testing.assert_array_equal(labels[:12], y)
    assert not task.labeled(labels)[12:].any()


@pytest.mark.parametrize("labels", [True, False])
def test_pools_are_datasets_too(labels):
    """Arrays for training, and a stream of unlabeled examples."""
    x, y = data(12)
    pool = tf.data.Dataset.from_tensor_slices((x + 100, y) if labels else x + 100)
    mixed = with_transfer_set(as_examples((x, y)), arm(transfer=TransferSet(pool)), Classification(), 12)
    for inputs, classes in read(mixed.shuffled_batches(6)):
        is_new = inputs[:, 0] > 50
        assert is_new.sum() == 3 and (classes[is_new] == -1).all() and (classes[~is_new] >= 0).all()


X, Y = data(2)


class Constant(Augmentation):
    """The second example, with the label 2 or a mixture of two."""

    def __init__(self, mixes_labels=False):
        self.mixes_labels = mixes_labels

    def __call__(self, inputs, labels, generator):
        new = np.broadcast_to(X[1], inputs.shape).astype("float32")
        if labels is None:
            return new, None
        label = np.array([0.25, 0.0, 0.75], "float32") if self.mixes_labels else np.array(2, labels.dtype)
        return new, np.broadcast_to(label, labels.shape)


def constant_data():
    """Training examples that are all alike, so that the order does not matter."""
    return Data((np.tile(X[:1], (40, 1)), np.tile(Y[:1], 40)), test=data(24), validation=data(16))


def expected_student(labels, loss, terms=(), weight=1.0, epochs=3):
    """Return the student that plain `fit` trains on half the first, half the second example."""
    keras.utils.set_random_seed(0)
    model = student()
    distiller = Distiller(
        student=model, teacher=teacher() if terms else None, terms=list(terms), supervised_weight=weight
    )
    distiller.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, epochs)), loss)
    x = np.repeat(X, 20, axis=0)
    distiller.fit(x, np.repeat(labels, 20, axis=0), epochs=epochs, batch_size=40, verbose=0)
    return weights_of(model)


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WHOLE = {"batch_size": 40, "epochs": 3}


@pytest.mark.parametrize("transfer", [Constant(), Constant(mixes_labels=True), X[1:]])
def test_distilled_student_learns_from_the_teacher_alone_on_new_examples(transfer, tmp_path):
    experiment([arm(transfer=transfer, **WHOLE)], constant_data()).run(tmp_path)
    expected = expected_student(np.array([Y[0], -1]), SPARSE, [TERM], 0.5)
    assert_same_weights(weights_of(trained(tmp_path, "distilled")), expected, rtol=1e-4, atol=1e-6)


def test_baseline_has_the_labels_of_the_new_examples(tmp_path):
    arms = [arm("own", Constant(), None, **WHOLE), arm("given", TransferSet((X[1:], np.array([2]))), None, **WHOLE)]
    experiment(arms, constant_data()).run(tmp_path)
    expected = expected_student(np.array([Y[0], 2]), SPARSE)
    for name in ("own", "given"):
        assert_same_weights(weights_of(trained(tmp_path, name)), expected, rtol=1e-4, atol=1e-6)


def test_baseline_with_mixed_labels(tmp_path):
    results = experiment([arm("mixed", Constant(mixes_labels=True), None, **WHOLE)], constant_data()).run(tmp_path)
    labels = np.stack([np.eye(3, dtype="float32")[Y[0]], [0.25, 0, 0.75]])
    expected = expected_student(labels, keras.losses.CategoricalCrossentropy(from_logits=True))
    model = trained(tmp_path, "mixed")
    assert_same_weights(weights_of(model), expected, rtol=1e-4, atol=1e-6)
    # The validation split is one-hot, too.
    x, y = data(16)
    accuracy = np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)
    run = next(each for each in results.models if each.name == "mixed").runs[0]
    assert run.history["val_accuracy"][-1] == pytest.approx(accuracy, abs=1e-6)


def test_few_labels_give_new_examples_of_labeled_ones_to_a_baseline(tmp_path):
    seen = {}

    class Recording(Marked):
        def __call__(self, inputs, labels, generator):
            seen.setdefault(labels is None, []).append(len(inputs))
            return inputs, labels

    arms = [arm("baseline", Recording(), None), arm("distilled", Recording())]
    experiment(arms, labels=7).run(tmp_path)
    # The dry run looks at 16; each of 10 rounds is made of the 7 labeled examples, or of all 40.
    assert set(seen[False]) == {16, 7} and set(seen[True]) == {16, 40}


def test_teacher_with_a_transfer_set(tmp_path):
    taught = Arm("teacher", lambda: mlp(16, name="teacher"), transfer=Mixup(), epochs=1, batch_size=20)
    splits = Data(data(40), test=data(24))
    Experiment(Classification(), splits, taught, [arm()], seeds=1, labels=10).run(tmp_path)
    assert (tmp_path / "teacher.keras").exists()


def test_other_settings_of_a_transfer_set_are_trained_again(tmp_path):
    for transfer in (
        None,
        TransferSet(Munge(), size=2),
        TransferSet(Munge(), size=2, seed=1),
        TransferSet(X, share=0.2),
    ):
        experiment([arm(transfer=transfer, epochs=1)]).run(tmp_path)
    assert len(list((tmp_path / "models").glob("distilled_0_*.keras"))) == 4
    settings = [path.read_text() for path in (tmp_path / "models").glob("*.json")]
    assert sum("Munge(probability=0.5" in text for text in settings) >= 2
    experiment([arm(transfer=TransferSet(X, share=0.2), epochs=1)]).run(tmp_path)
    assert len(list((tmp_path / "models").glob("distilled_0_*.keras"))) == 4


def test_search_with_a_transfer_set(tmp_path):
    distilled = arm(transfer=TransferSet(Mixup(), size=1), epochs=1)
    tuned = TunedArm("tuned", tuned_objective(distilled, Classification()), trials=2, default="distilled")
    splits = Data(data(40), test=data(24), validation=data(16))
    results = experiment([distilled, tuned], splits).run(tmp_path)
    assert "tuned" in str(results)


def test_arms_of_the_same_name_have_their_own_examples():
    """As a searched arm and its default."""
    first, second = arm(transfer=TransferSet(Marked(), size=1)), arm(transfer=TransferSet(Marked(), size=3))
    examples = TrainingData(experiment([first]), lambda arm: student()).examples
    assert [len(examples(each)) for each in (first, second, first)] == [80, 160, 80]


@pytest.mark.parametrize("kind", ["multilabel", "regression", "weights"])
def test_other_tasks(kind, tmp_path):
    x, y = data(40)
    targets = np.eye(3, dtype="float32")[y]
    tasks = {"multilabel": MultiLabelClassification(), "regression": Regression(), "weights": Classification()}
    train = (x, y, np.ones(40, "float32")) if kind == "weights" else (x, targets)
    test = (x, y) if kind == "weights" else (x, targets)
    loss = KLDivergence(1.0) if kind == "weights" else keras.losses.MeanSquaredError()
    base = dataclasses.replace(arm("baseline", Mixup(), None, epochs=1))
    distilled = arm(transfer=Mixup(), terms=[Term(loss)], epochs=1)
    Experiment(tasks[kind], Data(train, test=test), teacher(), [base, distilled], seeds=1).run(tmp_path)


@pytest.mark.parametrize(
    ("transfer", "terms", "message"),
    [
        (TransferSet(X), None, "Arm 'baseline': The transfer set has no labels"),
        (TransferSet(X[:, :5]), (TERM,), "Arm 'baseline': The inputs of the transfer set must be like"),
        (TransferSet(X.astype("float64")), (TERM,), "inputs of the transfer set must be like"),
        (lambda inputs, labels, generator: inputs, None, r"must return `\(inputs, labels\)`"),
    ],
)
def test_unsuitable_transfer_sets_raise_before_training(transfer, terms, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment([arm("baseline", transfer, terms)]).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"share": 0}, {"share": 1.0}, {"size": 0}, {"seed": -1}])
def test_numbers_out_of_range(options):
    with pytest.raises(ValueError, match="must be"):
        TransferSet(Mixup(), **options)
