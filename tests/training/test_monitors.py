"""Callbacks that monitor a value find out by themselves whether larger values are better."""

import keras
import pytest

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import Hint
from keras_distill.metrics import CKA, Acceptance, Agreement, ChunkedMetric, ExpectedCalibrationError, TeacherDivergence
from tests.support.helpers import crossentropy, data, mlp

CALLBACKS = [
    lambda monitor, folder: keras.callbacks.EarlyStopping(monitor),
    lambda monitor, folder: keras.callbacks.ReduceLROnPlateau(monitor),
    lambda monitor, folder: keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor, save_best_only=True),
]


def larger_is_better(callback):
    return bool(callback.monitor_op(2, 1))


@pytest.mark.parametrize("make", CALLBACKS)
@pytest.mark.parametrize(
    "monitor", ["val_accuracy", "accuracy", "val_loss", "loss", "val_top", "val_sparse_categorical_crossentropy"]
)
def test_as_in_keras(make, monitor, tmp_path):
    x, y = data()
    found = []
    for model in (mlp(), Distiller(student=mlp(), teacher=mlp(16, name="teacher"))):
        metrics = [
            "accuracy",
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
            "sparse_categorical_crossentropy",
        ]
        model.compile("sgd", crossentropy(), metrics=metrics)
        callback = make(monitor, tmp_path)
        model.fit(x, y, validation_data=(x, y), epochs=2, callbacks=[callback], verbose=0)
        found.append(larger_is_better(callback))
    assert found[0] == found[1]


def test_values_of_a_distiller(tmp_path):
    x, y = data()
    distiller = Distiller(
        student=mlp(), teacher=mlp(name="teacher"), terms=[Term(Hint(), "features", "features", name="hint")]
    )
    metrics = [Agreement(), TeacherDivergence(), CKA("features", "features"), ExpectedCalibrationError()]
    metrics += [Acceptance(), ChunkedMetric(Acceptance(), name="chunked")]
    distiller.compile("sgd", crossentropy(), metrics=metrics)
    expected = {
        "val_hint_loss": False,
        "val_supervised_loss": False,
        "val_agreement": True,
        "val_cka": True,
        "val_acceptance": True,
        "val_chunked": True,
        f"val_{metrics[1].name}": False,
        f"val_{metrics[3].name}": False,
    }
    callbacks = {monitor: keras.callbacks.EarlyStopping(monitor) for monitor in expected}
    distiller.fit(x, y, validation_data=(x, y), callbacks=list(callbacks.values()), verbose=0)
    assert {monitor: larger_is_better(callback) for monitor, callback in callbacks.items()} == expected


def test_peers():
    x, y = data()
    peers = MutualDistiller({"first": mlp(), "second": mlp(name="other")})
    peers.compile("sgd", crossentropy(), metrics=["accuracy"])
    logs = peers.fit(x, y, validation_data=(x, y), verbose=0).history
    (monitor,) = [name for name in logs if name.startswith("val_") and "first" in name and "accuracy" in name]
    callback = keras.callbacks.EarlyStopping(monitor)
    peers.fit(x, y, validation_data=(x, y), callbacks=[callback], verbose=0)
    assert larger_is_better(callback)


def test_a_metric_that_says_nothing_asks_for_the_mode():
    """As in Keras."""
    x, y = data()
    distiller = Distiller(student=mlp(), teacher=mlp(name="teacher"))
    distiller.compile(
        "sgd", crossentropy(), metrics=[keras.metrics.MeanMetricWrapper(lambda y, p: p[:, 0], name="own")]
    )
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        distiller.fit(x, y, callbacks=[keras.callbacks.EarlyStopping("own")], verbose=0)
