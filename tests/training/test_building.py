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
