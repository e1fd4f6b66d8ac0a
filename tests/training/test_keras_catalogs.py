"""Every loss and metric of Keras gives the same numbers in a distiller without a teacher as in `keras.Model`.

The lists of losses and metrics are Keras' own, so that a new one is tested as soon as Keras has it.
"""

import inspect
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller
from keras_distill.training.compiled_losses import CompiledLosses
from tests.support.helpers import weights_of

EXAMPLES, CLASSES = 6, 3
# Shape of the outputs by rank of the labels, for labels with a component for each output.
SHAPES = {1: (EXAMPLES, 1), 2: (EXAMPLES, CLASSES), 3: (EXAMPLES, 4, CLASSES), 4: (EXAMPLES, 4, 5, CLASSES)}
REDUCTIONS = ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none"]
WEIGHTS = ["none", "examples", "values"]


def random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype("float32")


def real(rank):
    shape = SHAPES[rank]
    return random(*shape[: max(rank, 1)] if rank > 1 else (EXAMPLES,)), random(*shape, seed=1)


def binary(rank):
    labels, outputs = real(rank)
    return np.round(labels), outputs


def signs(rank):
    labels, outputs = binary(rank)
    return 2 * labels - 1, outputs


def one_hot(rank):
    labels, outputs = indices(max(rank - 1, 1))
    return np.eye(CLASSES, dtype="float32")[labels], outputs


def indices(rank):
    shape = SHAPES[min(rank + 1, 4)]
    outputs = random(*shape, seed=1)
    labels = np.random.default_rng(2).integers(0, CLASSES, shape[:-1])
    # Rank 4: a last axis of length 1.
    return (labels if rank < 4 else labels[..., None]), outputs / outputs.sum(-1, keepdims=True)


def embeddings(rank):
    return np.arange(EXAMPLES) % CLASSES, random(EXAMPLES, 4, seed=1)


def series(rank):
    return np.random.default_rng(2).integers(1, CLASSES, (EXAMPLES, 2)), random(EXAMPLES, 4, CLASSES, seed=1)


LOSSES = {
    "BinaryCrossentropy": binary,
    "BinaryFocalCrossentropy": binary,
    "CTC": series,
    "CategoricalCrossentropy": one_hot,
    "CategoricalFocalCrossentropy": one_hot,
    "CategoricalGeneralizedCrossEntropy": indices,
    "CategoricalHinge": one_hot,
    "Circle": embeddings,
    "CosineSimilarity": real,
    "Dice": binary,
    "Hinge": signs,
    "Huber": real,
    "KLDivergence": one_hot,
    "LogCosh": real,
    "MeanAbsoluteError": real,
    "MeanAbsolutePercentageError": real,
    "MeanSquaredError": real,
    "MeanSquaredLogarithmicError": real,
    "Poisson": real,
    "SparseCategoricalCrossentropy": indices,
    "SquaredHinge": signs,
    "Tversky": binary,
}
# Name: reason.
SKIPPED_LOSSES = {"Loss": "abstract"}


def classes_of(module, base):
    return {name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}


def test_every_loss_is_tested():
    assert classes_of(keras.losses, keras.losses.Loss) == {*LOSSES, *SKIPPED_LOSSES}


def value_and_gradient(loss, labels, outputs, weights):
    outputs = tf.constant(outputs)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = loss(None, tf.constant(labels), outputs, None if weights is None else tf.constant(weights))
    return np.array(value), np.array(tape.gradient(value, outputs))


def weights_for(kind, loss, labels, outputs):
    if kind == "none":
        return None
    if kind == "examples":
        return random(EXAMPLES, seed=3)
    shape = np.shape(loss.call(tf.constant(labels, "float32"), tf.constant(outputs)))
    return random(*shape, seed=3)


def outcome(function, *arguments):
    """Return the result, or the type of the error."""
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_keras(name):
    cls, compared = getattr(keras.losses, name), 0
    for rank, reduction, kind in itertools.product(SHAPES, REDUCTIONS, WEIGHTS):
        labels, outputs = LOSSES[name](rank)
        loss = cls(reduction=reduction)
        model = keras.Model()
        model.compile(loss=loss)
        weights = outcome(weights_for, kind, loss, labels, outputs)
        if isinstance(weights, type):
            continue
        expected = outcome(value_and_gradient, model.compute_loss, labels, outputs, weights)
        if isinstance(expected, type):
            continue
        found = value_and_gradient(CompiledLosses(keras.Model(), loss).loss, labels, outputs, weights)
        for each, reference in zip(found, expected, strict=True):
            np.testing.assert_array_equal(each, reference, err_msg=f"rank {rank}, {reduction}, weights {kind}")
        compared += 1
    assert compared >= 35


def student_for(outputs):
    keras.utils.set_random_seed(0)
    shape = outputs.shape[1:]
    layers = [keras.Input((4,)), keras.layers.Dense(int(np.prod(shape)), "sigmoid"), keras.layers.Reshape(shape)]
    return keras.Sequential(layers)


# A weight of 1 changes the last digit: TensorFlow folds the factor 100 of this loss into other constants.
ROUNDED = {"MeanAbsolutePercentageError": 3e-7}
WEIGHTED = ("Dice", "MeanSquaredError", "SparseCategoricalCrossentropy")


@pytest.mark.parametrize(
    ("name", "weighted"), [*((name, False) for name in LOSSES), *((name, True) for name in WEIGHTED)]
)
def test_fit_equals_keras(name, weighted):
    # Keras does not take a weight for each example of sequences.
    labels, outputs = LOSSES[name](1 if weighted and name.startswith("Sparse") else 2)
    x = random(EXAMPLES, 4, seed=5)
    weights = random(EXAMPLES, seed=3) if weighted else None
    models = [student_for(outputs), student_for(outputs)]
    logs = []
    for model in (models[0], Distiller(student=models[1], teacher=None, terms=[])):
        model.compile(keras.optimizers.Adam(0.01), getattr(keras.losses, name)())
        logs.append(model.fit(x, labels, sample_weight=weights, batch_size=2, shuffle=False, verbose=0).history["loss"])
    rtol = ROUNDED.get(name, 0)
    np.testing.assert_allclose(logs[1], logs[0], rtol=rtol)
    for one, other in zip(weights_of(models[0]), weights_of(models[1]), strict=True):
        np.testing.assert_allclose(other, one, rtol=rtol, atol=rtol)


METRICS = {
    "AUC": binary,
    "Accuracy": binary,
    "BinaryAccuracy": binary,
    "BinaryCrossentropy": binary,
    "BinaryIoU": binary,
    "CategoricalAccuracy": one_hot,
    "CategoricalCrossentropy": one_hot,
    "CategoricalHinge": one_hot,
    "ConcordanceCorrelation": real,
    "CosineSimilarity": real,
    "F1Score": one_hot,
    "FBetaScore": one_hot,
    "FalseNegatives": binary,
    "FalsePositives": binary,
    "Hinge": signs,
    "IoU": binary,
    "KLDivergence": one_hot,
    "LogCoshError": real,
    "MeanAbsoluteError": real,
    "MeanAbsolutePercentageError": real,
    "MeanIoU": binary,
    "MeanSquaredError": real,
    "MeanSquaredLogarithmicError": real,
    "OneHotIoU": one_hot,
    "OneHotMeanIoU": one_hot,
    "PearsonCorrelation": real,
    "Poisson": real,
    "Precision": binary,
    "PrecisionAtRecall": binary,
    "R2Score": real,
    "Recall": binary,
    "RecallAtPrecision": binary,
    "RootMeanSquaredError": real,
    "SensitivityAtSpecificity": binary,
    "SparseCategoricalAccuracy": indices,
    "SparseCategoricalCrossentropy": indices,
    "SparseTopKCategoricalAccuracy": indices,
    "SpecificityAtSensitivity": binary,
    "SquaredHinge": signs,
    "TopKCategoricalAccuracy": one_hot,
    "TrueNegatives": binary,
    "TruePositives": binary,
}
# Name: reason.
SKIPPED_METRICS = {
    "Mean": "not of labels and outputs",
    "MeanMetricWrapper": "see test_functions_as_metrics",
    "Metric": "abstract",
    "Sum": "not of labels and outputs",
}
ARGUMENTS = {
    "BinaryIoU": {"target_class_ids": [0, 1]},
    "IoU": {"num_classes": 2, "target_class_ids": [0, 1]},
    "MeanIoU": {"num_classes": 2},
    "OneHotIoU": {"num_classes": CLASSES, "target_class_ids": [0, 2]},
    "OneHotMeanIoU": {"num_classes": CLASSES},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SparseTopKCategoricalAccuracy": {"k": 2},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "TopKCategoricalAccuracy": {"k": 2},
}


def test_every_metric_is_tested():
    assert classes_of(keras.metrics, keras.metrics.Metric) == {*METRICS, *SKIPPED_METRICS}


def results_of(update, result, labels, outputs, weights):
    weights = None if weights is None else tf.constant(weights)
    for _ in range(2):
        update(None, tf.constant(labels), tf.constant(outputs), weights)
    return result()


def assert_metrics_equal(make, labels, outputs, weights):
    """Compare two updates in `keras.Model` and in `CompiledLosses`; return whether Keras takes the arguments."""
    model = keras.Model()
    model.compile(metrics=[make("plain")], weighted_metrics=[make("weighted")])

    def result():
        return {name: value for name, value in model.get_metrics_result().items() if name != "loss"}

    expected = outcome(results_of, model.compute_metrics, result, labels, outputs, weights)
    if isinstance(expected, type):
        return False
    compiled = CompiledLosses(keras.Model(), metrics=[make("plain")], weighted_metrics=[make("weighted")])
    found = results_of(compiled.update_metrics, compiled.results, labels, outputs, weights)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        # Weights of 1 change the order in which Keras takes means over positions.
        np.testing.assert_allclose(value, expected[name], rtol=3e-7, err_msg=f"{name}, labels {np.shape(labels)}")
    return True


@pytest.mark.parametrize("name", METRICS)
def test_metrics_equal_keras(name):
    def make(own_name):
        return getattr(keras.metrics, name)(**ARGUMENTS.get(name, {}), name=own_name)

    compared = 0
    for rank, weighted in itertools.product(SHAPES, (False, True)):
        labels, outputs = METRICS[name](rank)
        if "IoU" in name and "OneHot" not in name and name != "BinaryIoU":
            outputs = np.round(outputs)
        compared += assert_metrics_equal(make, labels, outputs, random(EXAMPLES, seed=3) if weighted else None)
    assert compared >= 2


@pytest.mark.parametrize("name", ["accuracy", "acc", "mse", "AUC", "binary_accuracy", "top_k_categorical_accuracy"])
def test_names_of_metrics(name):
    for labels, outputs in (one_hot(2), binary(2)):
        assert assert_metrics_equal(lambda _: name, labels, outputs, None)


def largest_error(y_true, y_pred):
    return keras.ops.max(keras.ops.abs(y_true - y_pred))


def error_of_each_image(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=(1, 2, 3))


@pytest.mark.case("A8")
@pytest.mark.parametrize("function", [largest_error, error_of_each_image])
def test_functions_as_metrics(function):
    labels, outputs = real(4)
    for make in (lambda _: function, lambda name: keras.metrics.MeanMetricWrapper(function, name=name)):
        assert assert_metrics_equal(make, labels, outputs, None)
