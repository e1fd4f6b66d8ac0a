"""A step is traced once, with every form of labels and metrics, and gives the values of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import KLDivergence
from keras_distill.training.base import BaseDistiller


def network(name, outputs=("logits",), classes=3):
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(classes, name=output)(inputs) for output in outputs]
    return keras.Model(inputs, heads[0] if len(heads) == 1 else dict(zip(outputs, heads)), name=name)


def data(count=12):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 4)).astype("float32"), random.integers(0, 3, count)


def crossentropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


@pytest.fixture
def traces(monkeypatch):
    """Names of the steps that were traced, filled while a test runs."""
    found, steps = [], {name: getattr(BaseDistiller, name) for name in ("train_step", "test_step")}

    def counted(name):
        return lambda self, batch: found.append(name) or steps[name](self, batch)

    for name in steps:
        monkeypatch.setattr(BaseDistiller, name, counted(name))
    return found


def distiller(*outputs, **options):
    teacher = network("teacher", outputs or ("logits",))
    terms = [Term(KLDivergence(), f"output[{name}]", f"output[{name}]") for name in outputs] or None
    made = Distiller(student=network("student", outputs or ("logits",)), teacher=teacher, terms=terms)
    made.compile("sgd", **{"loss": crossentropy(), "metrics": ["accuracy"]} | options)
    return made


X, Y = data()
FORMS = {
    "arrays": ((X, Y), {}),
    "sample weights": ((X, Y, np.ones(12)), {}),
    "dataset": ((tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),), {}),
    "column of labels": ((X, Y[:, None]), {}),
    "one-hot": ((X, np.eye(3, dtype="float32")[Y]), {"loss": keras.losses.CategoricalCrossentropy(from_logits=True)}),
    "missing labels": ((X, np.where(np.arange(12) % 3, Y, -1)), {}),
    "without labels": ((X,), {"loss": None, "metrics": None}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_traced_once(form, traces):
    (x, *rest), options = FORMS[form]
    model = distiller(**options)
    given = dict(zip(("y", "sample_weight"), rest))
    model.fit(x, **given, batch_size=4, epochs=2, verbose=0)
    model.evaluate(x, **given, batch_size=4, verbose=0)
    assert traces == ["train_step", "test_step"]


def test_evaluation_without_training(traces):
    model = distiller()
    logs = model.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True)
    predicted = model.student.predict(X, verbose=0).argmax(-1)
    assert traces == ["test_step"] and logs["accuracy"] == pytest.approx(np.mean(predicted == Y))


def test_peers_and_outputs(traces):
    peers = MutualDistiller([network("first"), network("second")])
    peers.compile("sgd", crossentropy(), metrics=["accuracy"])
    peers.fit(X, Y, batch_size=4, verbose=0)
    several = distiller("a", "b", loss={"a": crossentropy(), "b": crossentropy()}, metrics={"a": ["accuracy"]})
    several.fit(X, {"a": Y, "b": Y}, batch_size=4, verbose=0)
    assert traces == ["train_step", "train_step"]
    logs = several.evaluate(X, {"a": Y, "b": Y}, verbose=0, return_dict=True)
    predicted = several.student.predict(X, verbose=0)["a"].argmax(-1)
    assert logs["a_accuracy"] == pytest.approx(np.mean(predicted == Y))


def test_single_batches_follow_on_each_other(traces):
    model = distiller()
    logs = [model.train_on_batch(X, Y, return_dict=True) for _ in range(3)]
    steps = traces.count("train_step")
    model.fit(X, Y, batch_size=4, verbose=0)
    assert traces.count("train_step") == steps + 1 and logs[0].keys() == logs[2].keys()


def test_metrics_are_built_again_for_another_compile(traces):
    model = distiller()
    model.fit(X, Y, batch_size=4, verbose=0)
    model.compile("sgd", crossentropy(), metrics=["acc"])
    logs = model.fit(X, Y, batch_size=4, verbose=0).history
    assert traces == ["train_step"] * 2 and "acc" in logs and "accuracy" not in logs


@pytest.mark.parametrize("everywhere", [False, True])
def test_eager_losses_see_values(everywhere):
    seen = []

    def loss(labels, outputs):
        seen.append(labels.numpy().tolist())
        return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)

    model = distiller(loss=loss, run_eagerly=not everywhere)
    tf.config.run_functions_eagerly(everywhere)
    try:
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    finally:
        tf.config.run_functions_eagerly(False)
    assert np.array_equal(np.ravel(seen), Y)


def test_no_batch_is_taken_from_a_generator():
    taken = []

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            taken.append(index)
            return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]

    student = network("student")
    student.compile("sgd", crossentropy(), metrics=["accuracy"])
    student.fit(Batches(), verbose=0, shuffle=False)
    of_keras, taken[:] = len(taken), []
    distiller().fit(Batches(), verbose=0, shuffle=False)
    assert len(taken) == of_keras


def squared_size(labels, outputs):
    """Return a loss that reads a size of the outputs that only the data set."""
    return keras.ops.mean(keras.ops.square(outputs), axis=-1) * outputs.shape[1] ** 2


def squared_unmasked(labels, outputs):
    return keras.ops.mean(keras.ops.square(outputs), axis=-1) * keras.ops.cast(outputs._keras_mask, "float32")


@pytest.mark.parametrize("loss", [squared_size, squared_unmasked])
def test_a_loss_may_read_what_is_known_in_a_step_alone(loss):
    inputs = keras.Input((None, 4))
    student = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Masking()(inputs)))
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    x[:, 3:] = 0.0 if loss is squared_unmasked else 1.0
    model = Distiller(student=student, teacher=None)
    model.compile("sgd", loss)
    # A loss of Keras leaves out masked positions: the mean is over the others.
    kept = student.predict(x, verbose=0)[:, : 3 if loss is squared_unmasked else 5]
    expected = np.mean(kept.astype("float64") ** 2) * (25.0 if loss is squared_size else 1.0)
    logs = model.evaluate(x, np.zeros((8, 5), "int32"), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)


class OneHotSteps(Distiller):
    def test_step(self, data):
        return super().test_step((data[0], tf.one_hot(data[1], 3)))


class OneHotLosses(Distiller):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, tf.one_hot(y, 3), y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, tf.one_hot(y, 3), y_pred, sample_weight)


@pytest.mark.parametrize("kind", [OneHotSteps, OneHotLosses])
def test_subclasses_may_compare_other_labels(kind):
    model = kind(student=network("student"), teacher=None)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert logs["accuracy"] == pytest.approx(np.mean(model.student.predict(X, verbose=0).argmax(-1) == Y))


class Deep(keras.Model):
    """Model with a second output in training."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = keras.layers.Dense(3), keras.layers.Dense(3)

    def call(self, x, training=None):
        return {"a": self.first(x), "b": self.second(x)} if training else {"a": self.first(x)}


def test_a_student_may_have_more_outputs_in_training():
    student = Deep()
    student(X, training=True)
    model = Distiller(student=student, teacher=None)
    model.compile(keras.optimizers.SGD(0.0), {"a": crossentropy(), "b": crossentropy()})
    logs = model.fit(X, {"a": Y, "b": Y}, batch_size=12, verbose=0).history
    outputs = np.asarray([student.first(X), student.second(X)], "float64")
    expected = np.mean(np.log(np.exp(outputs).sum(-1)) - outputs[:, np.arange(12), Y], axis=1)
    np.testing.assert_allclose([logs["a_loss"][0], logs["b_loss"][0]], expected, rtol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_may_follow_after_training_without(weighted):
    data = tf.data.Dataset.from_tensor_slices((X, np.ones(12))).batch(12)
    model = distiller()
    with pytest.warns(UserWarning, match="the data hold no labels"):
        model.fit(data.map(lambda x, weight: (x, None, weight) if weighted else (x,)), verbose=0)
    assert "accuracy" in model.fit(X, Y, batch_size=4, verbose=0).history
