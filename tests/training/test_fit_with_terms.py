"""`fit`, `evaluate` and `predict` with terms: compile arguments, callbacks, labels, class weights and metrics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.losses import Hint, KLDivergence, RelationalKD
from keras_distill.teachers import CachedTeacher, with_activations
from tests.support.helpers import (
    assert_same_weights,
    compiled,
    crossentropy,
    data,
    features,
    fitted,
    mlp,
    softened_kl,
    softmax,
    weights_of,
)

pytestmark = pytest.mark.everyday


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"steps_per_execution": 2},
        {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
        {"run_eagerly": True},
    ],
    ids=["jit_compile", "steps_per_execution", "accumulation", "run_eagerly"],
)
def test_terms_with_compile_arguments(options):
    results = []
    for chosen in ({"optimizer": keras.optimizers.SGD(0.1)}, options):
        keras.utils.set_random_seed(0)
        terms = [
            Term(KLDivergence()),
            Term(Hint(), "features", "features", "auto"),
            Term(RelationalKD(), "features", "features"),
        ]
        distiller = compiled(Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=terms), **chosen)
        if "optimizer" in options and chosen is not options:
            # Accumulating two batches of 8 equals one batch of 16 only for losses that treat examples separately.
            continue
        results.append(fitted(distiller, *data(32), epochs=2))
    for name in results[0]:
        np.testing.assert_allclose(results[0][name], results[-1][name], rtol=1e-4, err_msg=name)
    assert results[-1]["loss"][1] < results[-1]["loss"][0]


def test_gradient_accumulation_matches_a_larger_batch():
    results = []
    for steps, batch_size in ((2, 8), (None, 16)):
        keras.utils.set_random_seed(0)
        terms = [Term(KLDivergence()), Term(Hint(), "features", "features", "auto")]
        student = mlp()
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)
        fitted(
            compiled(Distiller(student=student, teacher=mlp(16, name="teacher"), terms=terms), optimizer),
            *data(32),
            batch_size=batch_size,
        )
        results.append(weights_of(student))
    assert_same_weights(*results)


def test_keras_callbacks(tmp_path):
    (x, y), teacher = data(), mlp(16, name="teacher")
    distiller = compiled(Distiller(student=mlp(), teacher=teacher, terms=[Term(KLDivergence())]), metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", min_delta=100, patience=1, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_kl_divergence_loss", mode="min", factor=0.5, min_delta=100, patience=0),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.TerminateOnNaN(),
    ]
    history = fitted(distiller, x, y, epochs=9, validation_data=(x, y), callbacks=callbacks)
    assert len(history["loss"]) == 2
    assert distiller.optimizer.learning_rate.numpy() == pytest.approx(0.05)
    assert "kl_divergence_loss" in (tmp_path / "log.csv").read_text()
    assert list((tmp_path / "board").rglob("events*"))


def test_train_test_and_predict_on_batch():
    (x, y), distiller = (
        data(8),
        compiled(Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])),
    )
    first = distiller.train_on_batch(x, y, return_dict=True)
    assert distiller.test_on_batch(x, y, return_dict=True)["loss"] < first["loss"]
    assert distiller.predict_on_batch(x).shape == (8, 3)


def test_training_without_labels_and_validation_with_them():
    (x, y), distiller = data(), Distiller(student=mlp(), teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())])
    history = fitted(compiled(distiller, metrics=["accuracy"]), x, epochs=3, validation_data=(x, y))
    assert "accuracy" not in history and len(history["val_accuracy"]) == 3
    assert history["supervised_loss"] == [0.0] * 3 and min(history["val_supervised_loss"]) > 0


def test_sample_weights_without_labels():
    (x, _), weight = data(24), np.linspace(0.0, 2.0, 24).astype("float32")
    student, teacher = mlp(), mlp(16, name="teacher")
    divergence = softened_kl(*(model.predict(x, verbose=0) for model in (student, teacher)), 1.0)
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(), name="kl")])
    distiller.compile(keras.optimizers.SGD(0.0))
    dataset = tf.data.Dataset.from_tensor_slices((x, weight)).map(lambda x, w: (x, None, w)).batch(24)
    logs = fitted(distiller, dataset)
    assert logs["kl_loss"][0] == pytest.approx(np.mean(weight * divergence), rel=1e-5)
    assert distiller.evaluate(dataset, verbose=0, return_dict=True)["kl_loss"] == pytest.approx(logs["kl_loss"][0])
    for call in (
        lambda: distiller.fit(x, sample_weight=weight),
        lambda: distiller.fit(x, validation_data=(x, None, weight)),
        lambda: distiller.evaluate(x, sample_weight=weight),
    ):
        with pytest.raises(ValueError, match=r"Keras drops `sample_weight`.*map\(lambda x, w: \(x, None, w\)\)"):
            call()


def test_predict_and_evaluate_accept_inputs_with_activations():
    (x, y), logits = data(), features(24, 3, seed=5)
    distiller = compiled(
        Distiller(student=mlp(), teacher=CachedTeacher({"output": logits}), terms=[Term(KLDivergence())])
    )
    joined = with_activations(x, {"output": logits})
    np.testing.assert_allclose(distiller.predict(joined, verbose=0), distiller.predict(x, verbose=0), rtol=1e-6)
    reference = softened_kl(distiller.predict(x, verbose=0), logits, 1.0).mean()
    logged = distiller.evaluate(joined, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(logged["kl_divergence_loss"], reference, rtol=1e-5)
    batches = tf.data.Dataset.from_tensor_slices((joined, y)).shuffle(24, seed=1).batch(8)
    from_dataset = distiller.evaluate(batches, verbose=0, return_dict=True)
    np.testing.assert_allclose(from_dataset["kl_divergence_loss"], reference, rtol=1e-5)


def test_class_weights_with_missing_labels():
    (x, y), weight = data(), {0: 0.5, 1: 2.0, 2: 3.0}
    labeled = np.arange(24) % 3 > 0
    student = mlp()
    distiller = compiled(
        Distiller(student=student, teacher=mlp(16, name="teacher"), terms=[Term(KLDivergence())]),
        keras.optimizers.SGD(0.0),
    )
    logged = fitted(distiller, x, np.where(labeled, y, -1), batch_size=24, class_weight=weight)
    log_p = np.log(softmax(student.predict(x, verbose=0)))[np.arange(24), y]
    weights = np.vectorize(weight.get)(y)
    np.testing.assert_allclose(logged["supervised_loss"], -(weights * log_p)[labeled].sum() / labeled.sum(), rtol=1e-5)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array([0.5, 0.25], "float32")])
def test_metric_results_that_are_not_tensors(value):
    class Constant(keras.metrics.Metric):
        def __init__(self):
            super().__init__()
            self.count = self.add_variable((), "zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.count.assign_add(1)

        def result(self):
            return value

    model = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
    model.compile("sgd", crossentropy(), metrics=[Constant()], run_eagerly=True)
    logs = model.evaluate(*data(), verbose=0, return_dict=True)
    np.testing.assert_array_equal(logs["constant"], value)
    assert isinstance(logs["loss"], float)
