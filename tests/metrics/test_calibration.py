import keras
import numpy as np
import pytest

from keras_distill.metrics import ExpectedCalibrationError
from tests.support.helpers import features, mlp, softmax


def reference(labels, probabilities, bins, weight=None):
    """Equation 3 of Guo et al., bin by bin; a confidence at the upper bound belongs to the bin."""
    weight = np.ones(len(labels)) if weight is None else weight
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    error = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if weight[inside].sum():
            accuracy = np.average(correct[inside], weights=weight[inside])
            mean = np.average(confidence[inside], weights=weight[inside])
            error += weight[inside].sum() / weight.sum() * abs(accuracy - mean)
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_matches_the_paper_over_batches(bins):
    logits, labels = features(200, 5, scale=2), np.random.default_rng(1).integers(0, 5, 200)
    weight = np.random.default_rng(2).uniform(0, 2, 200)
    metric = ExpectedCalibrationError(bins)
    for rows in (slice(150), slice(150, 200)):
        metric.update_state(labels[rows], logits[rows], weight[rows])
    np.testing.assert_allclose(metric.result(), reference(labels, softmax(logits), bins, weight), rtol=1e-5)


def test_worked_by_hand():
    # Two examples with 0.9, one of them correct; two with 0.6, both correct: 2/4 * |0.5 - 0.9| + 2/4 * |1 - 0.6|.
    probabilities = np.float32([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    metric = ExpectedCalibrationError(10, from_logits=False)
    metric.update_state(np.array([0, 0, 0, 1]), probabilities)
    np.testing.assert_allclose(metric.result(), 0.4, rtol=1e-6)


def test_a_confidence_at_a_bound_belongs_to_the_lower_bin():
    # If both examples were in one bin, their differences would partly cancel.
    metric = ExpectedCalibrationError(2, from_logits=False)
    metric.update_state(np.array([0, 0]), np.float32([[0.5, 0.5], [0.25, 0.75]]))
    np.testing.assert_allclose(metric.result(), (0.5 + 0.75) / 2, rtol=1e-6)


def test_large_logits_do_not_overflow():
    metric = ExpectedCalibrationError()
    metric.update_state(np.array([0, 1]), np.float32([[1e4, 0], [0, 1e4]]))
    assert metric.result() == 0


def test_takes_one_hot_labels_and_tokens():
    logits, labels = features(6, 4, 5), np.random.default_rng(1).integers(0, 5, (6, 4))
    expected = reference(labels.ravel(), softmax(logits).reshape(-1, 5), 15)
    for form in (labels, labels[..., None], np.eye(5, dtype="float32")[labels]):
        metric = ExpectedCalibrationError()
        metric.update_state(form, logits)
        np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)


def test_missing_labels_do_not_count():
    logits, labels = features(8, 5), np.arange(8) % 5
    expected = reference(labels[:5], softmax(logits[:5]), 15)
    one_hot = np.eye(5, dtype="float32")[labels]
    one_hot[5:] = np.nan
    labels[5:] = -1
    for form in (labels, one_hot):
        metric = ExpectedCalibrationError()
        metric.update_state(form, logits)
        np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)


def test_works_for_any_keras_model():
    model, x, y = mlp(), features(20, 8), np.arange(20) % 3
    model.compile("sgd", metrics=[ExpectedCalibrationError()], loss="mse")
    logs = model.evaluate(x, np.eye(3)[y], batch_size=8, return_dict=True, verbose=0)
    expected = reference(y, softmax(model.predict(x, verbose=0)), 15)
    np.testing.assert_allclose(logs["expected_calibration_error"], expected, rtol=1e-5)


def test_config_round_trip():
    metric = ExpectedCalibrationError(7, from_logits=False)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (restored.bins, restored.from_logits) == (7, False)


def test_rejects_invalid_bins_and_single_classes():
    with pytest.raises(ValueError, match="`bins` must be an integer >= 1"):
        ExpectedCalibrationError(0)
    with pytest.raises(ValueError, match="at least two classes. Received: predictions of shape"):
        ExpectedCalibrationError().update_state(np.array([0, 1]), features(2, 1))


def test_a_final_softmax_is_not_applied_twice():
    x, labels = features(40, 8, scale=3), np.random.default_rng(1).integers(0, 3, 40)
    logits = mlp()
    model = keras.Sequential([keras.Input((8,)), logits, keras.layers.Softmax()])
    model.compile(loss="sparse_categorical_crossentropy", metrics=[ExpectedCalibrationError()])
    found = model.evaluate(x, labels, batch_size=40, verbose=0, return_dict=True)["expected_calibration_error"]
    np.testing.assert_allclose(found, reference(labels, softmax(logits.predict(x, verbose=0)), 15), rtol=1e-4)
