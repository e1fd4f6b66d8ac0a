"""`fit`, `evaluate` and `predict` of a distiller match those of the student.

With negligible term weights, a distiller must make the same updates and log the same values as training without it.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.losses import Hint, KLDivergence
from tests.support.helpers import (
    assert_same_weights,
    compiled,
    crossentropy,
    data,
    features,
    fitted,
    mlp,
    softmax,
    weights_of,
)

pytestmark = pytest.mark.everyday


def with_negligible_terms(student):
    """Return a distiller whose terms have negligible weights."""
    teacher = keras.models.clone_model(student)
    outputs = [f"output[{name}]" for name in ("topic", "tone")] if len(student.outputs) > 1 else ["output"]
    terms = [Term(Hint(), output, output, weight=1e-20) for output in outputs]
    return Distiller(student=student, teacher=teacher, terms=terms)


def assert_same_as_plain_training(make_student, fit_arguments, compile_options=lambda: {}, **fit_options):
    """Train the student with and without a distiller; weights, logs and predictions must agree."""
    results = []
    for wrap in (lambda student: student, with_negligible_terms):
        keras.utils.set_random_seed(0)
        student = make_student()
        model = wrap(student)
        keras.utils.set_random_seed(1)
        model.compile(**({"optimizer": keras.optimizers.SGD(0.1), "loss": crossentropy()} | compile_options()))
        history = fitted(model, *fit_arguments(), epochs=2, **fit_options)
        results.append((history, weights_of(student), model.predict(features(5, *student.input_shape[1:]), verbose=0)))
    (plain, weights, predicted), (distilled, other_weights, other_predicted) = results
    assert_same_weights(weights, other_weights, rtol=2e-5, atol=1e-6)
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), predicted, other_predicted)
    assert set(plain) <= set(distilled)
    for name in plain:
        np.testing.assert_allclose(plain[name], distilled[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_distiller_without_a_teacher_matches_keras_fit():
    results = []
    for wrap in (lambda student: student, lambda student: Distiller(student=student, teacher=None, terms=[])):
        keras.utils.set_random_seed(0)
        student = mlp()
        history = fitted(compiled(wrap(student), metrics=["accuracy"]), *data(), epochs=2)
        results.append((history, weights_of(student)))
    (plain, weights), (distilled, other_weights) = results
    assert_same_weights(weights, other_weights, rtol=1e-6, atol=1e-7)
    for name in plain:
        np.testing.assert_allclose(plain[name], distilled[name], rtol=1e-6, err_msg=name)


def test_terms_and_teacher_require_each_other():
    with pytest.raises(ValueError, match="`terms` is empty"):
        Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[])
    with pytest.raises(ValueError, match="`teacher` is None"):
        Distiller(student=mlp(), teacher=None, terms=[Term(KLDivergence())])


def dataset():
    return (tf.data.Dataset.from_tensor_slices(data()).batch(8),)


def generator():
    x, y = data()
    return ((x[i : i + 8], y[i : i + 8]) for _ in range(2) for i in (0, 8, 16))


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y = data()
        return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8], np.arange(8.0)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (data, {}),
        (data, {"shuffle": True}),
        (dataset, {"batch_size": None}),
        (lambda: (generator(),), {"batch_size": None, "steps_per_epoch": 3}),
        (lambda: (Sequence(),), {"batch_size": None}),
    ],
    ids=["arrays", "shuffled", "tf.data", "generator", "PyDataset"],
)
def test_data_sources(arguments, options):
    assert_same_as_plain_training(mlp, arguments, lambda: {"metrics": ["accuracy"]}, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": np.arange(24.0)},
        {"class_weight": {0: 0.2, 1: 3.0, 2: 1.0}},
        {"validation_data": (*data(), np.arange(24.0))},
        {"validation_split": 0.25, "validation_freq": 2},
        {"batch_size": 7},
    ],
    ids=["sample_weight", "class_weight", "validation_data", "validation_split", "ragged"],
)
def test_fit_arguments(options):
    assert_same_as_plain_training(
        mlp, data, lambda: {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}, **options
    )


@pytest.mark.parametrize(
    "options",
    [
        lambda: {"steps_per_execution": 2},
        lambda: {"run_eagerly": True},
        lambda: {"jit_compile": True},
        lambda: {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
        lambda: {"optimizer": keras.optimizers.AdamW(0.01, clipnorm=0.1, use_ema=True)},
        lambda: {"loss": "sparse_categorical_crossentropy"},
        lambda: {"loss_weights": 0.5},
    ],
    ids=["steps_per_execution", "run_eagerly", "jit_compile", "accumulation", "AdamW", "string", "loss_weights"],
)
@pytest.mark.filterwarnings("ignore:The loss 'sparse_categorical_crossentropy'")
def test_compile_arguments(options):
    assert_same_as_plain_training(mlp, data, options)


def metric_function(y_true, y_pred):
    return keras.ops.mean(y_pred, axis=-1)


@pytest.mark.parametrize(
    "metrics",
    [
        ["accuracy"],
        ["acc", "sparse_categorical_crossentropy"],
        [metric_function],
        [keras.metrics.SparseTopKCategoricalAccuracy(2)],
    ],
    ids=["string", "strings", "function", "object"],
)
def test_forms_of_metrics(metrics):
    assert_same_as_plain_training(mlp, data, lambda: {"metrics": keras.tree.map_structure(_copy_metric, metrics)})


def _copy_metric(metric):
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def regularized_model():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1", activation="relu")(inputs)
    x = keras.layers.Dropout(0.5, seed=2)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x), name="student")


def test_regularizers_batch_normalization_and_dropout():
    assert_same_as_plain_training(regularized_model, data, validation_data=data())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    assert_same_as_plain_training(mlp, data)


def token_model():
    return keras.Sequential(
        [keras.Input((5,), dtype="int32"), keras.layers.Embedding(20, 6, mask_zero=True), keras.layers.Dense(4)],
        name="student",
    )


def token_data():
    tokens = np.random.default_rng(0).integers(1, 20, (24, 5))
    tokens[::3, 3:] = 0
    return tokens, np.random.default_rng(1).integers(0, 4, (24, 5))


@pytest.mark.parametrize("weights", [None, np.arange(120.0).reshape(24, 5) % 3])
def test_padded_tokens(weights):
    assert_same_as_plain_training(
        token_model,
        token_data,
        lambda: {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]},
        sample_weight=weights,
    )


def two_outputs(kind):
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8)(inputs)
    outputs = {"topic": keras.layers.Dense(3, name="topic")(hidden), "tone": keras.layers.Dense(1, name="tone")(hidden)}
    return keras.Model(inputs, outputs if kind == "dict" else list(outputs.values()), name="student")


@pytest.mark.parametrize("weights", [None, {"topic": np.arange(24.0), "tone": np.ones(24)}], ids=["plain", "weighted"])
def test_several_outputs(weights):
    x, topic = data()
    labels = {"topic": topic, "tone": features(24, 1, seed=3)}
    assert_same_as_plain_training(
        lambda: two_outputs("dict"),
        lambda: (x, labels),
        lambda: {
            "loss": {"topic": crossentropy(), "tone": "mse"},
            "loss_weights": {"topic": 0.5, "tone": 2.0},
            "metrics": {"topic": ["accuracy"], "tone": ["mae"]},
            "weighted_metrics": {"topic": ["accuracy"]},
        },
        sample_weight=weights,
    )


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_regression(loss):
    assert_same_as_plain_training(
        lambda: mlp(classes=1), lambda: (data()[0], features(24, 1, seed=4)), lambda: {"loss": loss, "metrics": ["mae"]}
    )


def test_minus_one_is_a_valid_label_for_other_losses():
    assert_same_as_plain_training(
        lambda: mlp(classes=1), lambda: (data()[0], np.where(data()[1] > 1, 1, -1)), lambda: {"loss": "hinge"}
    )


def test_missing_token_labels():
    tokens, labels = token_data()
    labeled = np.random.default_rng(3).random(labels.shape) < 0.5
    student = token_model()
    distiller = compiled(with_negligible_terms(student), keras.optimizers.SGD(0.0), metrics=["accuracy"])
    logged = fitted(distiller, tokens, np.where(labeled, labels, -1), batch_size=24)
    logits, counted = student.predict(tokens, verbose=0), labeled & (tokens != 0)
    log_p = np.take_along_axis(np.log(softmax(logits)), labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(logged["supervised_loss"], -log_p[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(logged["accuracy"], (logits.argmax(axis=-1) == labels)[counted].mean(), rtol=1e-5)
