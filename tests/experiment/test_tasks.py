"""Tasks, compared with scikit-learn and Keras."""

import keras
import numpy as np
import pytest
import sklearn.metrics

from keras_distill.experiment import (
    Classification,
    LanguageModeling,
    MultiLabelClassification,
    Regression,
    Score,
    Segmentation,
    Task,
)
from keras_distill.losses import BinaryKD, KLDivergence
from tests.support.helpers import softmax

RANDOM = np.random.default_rng(0)


def model(shape, activation=None, units=3):
    return keras.Sequential([keras.Input(shape), keras.layers.Dense(units, activation=activation)], name="student")


def test_classification():
    outputs, labels = RANDOM.normal(size=(200, 4)), RANDOM.integers(0, 4, 200)
    guesses = outputs.argmax(-1)
    task = Classification()
    assert task.evaluate(outputs, labels) == pytest.approx(sklearn.metrics.accuracy_score(labels, guesses))
    np.testing.assert_array_equal(
        task.confusion(outputs, labels), sklearn.metrics.confusion_matrix(labels, guesses, labels=range(4))
    )
    expected = sklearn.metrics.recall_score(labels, guesses, average=None)
    np.testing.assert_allclose(task.per_class(outputs, labels), expected)
    one_hot = Classification(one_hot=True)
    for method in ("evaluate", "confusion", "per_class"):
        np.testing.assert_array_equal(
            getattr(one_hot, method)(outputs, np.eye(4)[labels]), getattr(task, method)(outputs, labels)
        )
    assert task.evaluate(outputs, labels[:, None]) == task.evaluate(outputs, labels)
    assert task.agreement(outputs, outputs) == one_hot.agreement(outputs, outputs) == 1
    assert task.resolution(200) == 1 / 200
    assert isinstance(task.distillation_loss(2.0), KLDivergence)


def test_least_confident_examples_are_correct_and_of_different_classes():
    logits = np.array([[1.0, 0, 0], [0.1, 0, 0], [0, 3.0, 0], [0, 0, 0.2], [0.05, 0, 0]])
    # The last example is the least clear one, but wrong.
    assert list(Classification().least_confident(logits, np.array([0, 0, 1, 2, 1]))) == [1, 3, 2]


@pytest.mark.parametrize("one_hot", [False, True])
def test_missing_labels_of_a_classification(one_hot):
    task = Classification(one_hot)
    labels = np.array([0, 1, 2])
    labels = np.eye(3, dtype="float32")[labels] if one_hot else labels
    some = np.where(np.array([True, False, True]).reshape(-1, *[1] * one_hot), labels, task.missing_labels(labels))
    np.testing.assert_array_equal(task.labeled(some), [True, False, True])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_classes_of_any_integer_dtype(dtype):
    labels = np.array([0, 1, 2], dtype)
    task = Classification()
    task.check(model((4,)), labels)
    assert task.labeled(labels).all() and task.missing_labels(labels).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "The label 3 of example 1 is not a class of 'student', which has the classes 0 to 2"),
        ([-2, 1], "The label -2 of example 0"),
        ([0.0, 1.0], r'Cast them: y.astype\("int32"\)'),
        ([[0, 1, 0]], "Labels must be class indices"),
    ],
)
def test_labels_that_are_no_classes_raise(labels, message):
    with pytest.raises(ValueError, match=message):
        Classification().check(model((4,)), np.array(labels))


def test_the_advice_for_floating_point_classes_works():
    for y in (np.array([0.0, 2.0, 1.0]), np.array([0.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="Cast them: ") as error:
            Classification().check(model((4,)), y)
        code = str(error.value).partition("Cast them: ")[2].removesuffix(".")
        cast = eval(code, {"np": np, "y": y})
        Classification().check(model((4,)), cast)
        np.testing.assert_array_equal(Classification().labeled(cast), ~np.isnan(y))


def test_one_unit_is_a_multi_label_classification():
    with pytest.raises(ValueError, match=r"one output unit: MultiLabelClassification\(\)"):
        Classification().check(model((4,), units=1), np.array([0, 1]))
    MultiLabelClassification().check(model((4,), units=1), np.array([0, 1]))


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_multi_label(activation):
    logits, labels = RANDOM.normal(size=(100, 3)), RANDOM.integers(0, 2, (100, 3))
    task, student = MultiLabelClassification(), model((4,), activation)
    expected = sklearn.metrics.f1_score(labels, logits > 0, average="macro")
    assert task.evaluate(logits, labels) == pytest.approx(expected)
    np.testing.assert_allclose(
        task.per_class(logits, labels), sklearn.metrics.f1_score(labels, logits > 0, average=None)
    )
    x = RANDOM.normal(size=(5, 4)).astype("float32")
    # Evaluation reads logits, whatever the model ends in.
    logits_of_model = student.layers[-1].kernel.numpy().T @ x.T
    np.testing.assert_allclose(task.predictor(student)(x), logits_of_model.T, rtol=1e-5)
    loss = task.loss(student)
    assert loss.from_logits == (activation is None)
    assert isinstance(task.distillation_loss(1.0), BinaryKD)


def test_missing_components_of_a_multi_label_classification():
    outputs = np.array([[3.0, -1.0], [-2.0, 4.0]])
    task = MultiLabelClassification()
    # The second component counts in the first example only: it is a correct negative there.
    labels = np.array([[1.0, 0.0], [1.0, np.nan]])
    np.testing.assert_array_equal(task.per_class(outputs, labels), [2 / 3, np.nan])
    assert task.evaluate(outputs, labels) == pytest.approx(2 / 3)
    np.testing.assert_array_equal(task.labeled(np.array([[np.nan, np.nan], [1.0, np.nan]])), [False, True])
    with pytest.raises(ValueError, match="must be 0, 1 or NaN"):
        task.check(model((4,), units=2), np.array([[0, 2]]))


def test_regression():
    outputs, labels = RANDOM.normal(size=(50, 2)), RANDOM.normal(size=(50, 2))
    task = Regression(unit="m")
    expected = sklearn.metrics.root_mean_squared_error(labels.ravel(), outputs.ravel())
    assert task.evaluate(outputs, labels) == pytest.approx(expected)
    assert task.score == Score("RMSE", higher_is_better=False, percent=False, unit="m")
    labels[0, 0] = np.nan
    kept = ~np.isnan(labels)
    assert task.evaluate(outputs, labels) == pytest.approx(
        sklearn.metrics.root_mean_squared_error(labels[kept], outputs[kept])
    )
    single = model((4,), units=1)
    task.check(single, np.zeros(5))
    assert task.evaluate(np.ones((5, 1)), np.zeros(5)) == 1
    with pytest.raises(ValueError, match=r"Labels must have the shape \(1,\)"):
        task.check(single, np.zeros((5, 2)))


def test_segmentation():
    outputs, labels = RANDOM.normal(size=(4, 6, 5, 3)), RANDOM.integers(0, 3, (4, 6, 5))
    labels[:, 0] = 255
    labels[:, 1] = -1
    task = Segmentation(ignore_class=255)
    counted = (labels != 255) & (labels != -1)
    expected = sklearn.metrics.jaccard_score(labels[counted], outputs.argmax(-1)[counted], average=None)
    np.testing.assert_allclose(task.per_class(outputs, labels), expected)
    assert task.evaluate(outputs, labels) == pytest.approx(expected.mean())
    np.testing.assert_array_equal(
        task.confusion(outputs, labels),
        sklearn.metrics.confusion_matrix(labels[counted], outputs.argmax(-1)[counted], labels=range(3)),
    )
    network = keras.Sequential([keras.Input((6, 5, 2)), keras.layers.Conv2D(3, 1)], name="student")
    task.check(network, labels)
    with pytest.raises(ValueError, match=r"Pass Segmentation\(ignore_class=...\)"):
        Segmentation().check(network, labels)
    with pytest.raises(ValueError, match=r'Cast them: y.astype\("int32"\)'):
        task.check(network, labels.astype("float32"))
    metric = task.metrics(network)[0]
    metric.update_state(np.where(labels == -1, 255, labels), outputs)
    assert float(metric.result()) == pytest.approx(expected.mean(), rel=1e-5)
    labeled = np.where(np.arange(4).reshape(4, 1, 1) == 2, 255, np.zeros((4, 6, 5)))
    np.testing.assert_array_equal(task.labeled(labeled), [True, True, False, True])


def test_masks_as_images():
    task = Segmentation(ignore_class=255)
    masks = np.array([[[0, 1, 2], [255, -1, 1]]])
    black, first, second = (task.draw(None, masks)[0, 0, column].tolist() for column in range(3))
    assert black == [0, 0, 0] and len({tuple(color) for color in (black, first, second, [128] * 3)}) == 4
    expected = np.array([[[black, first, second], [[128] * 3, [128] * 3, first]]])
    np.testing.assert_array_equal(task.draw(None, masks[..., None]), expected)
    # Colors do not depend on the classes that occur.
    np.testing.assert_array_equal(task.draw(None, np.full((1, 2, 2), 2)), np.full((1, 2, 2, 3), second))
    np.testing.assert_array_equal(task.draw(None, np.full((1, 2, 2), 255)), np.full((1, 2, 2, 3), 128))
    many = task.draw(None, np.arange(21).reshape(1, 3, 7)).reshape(-1, 3).astype(int)
    distances = np.abs(many[:, None] - many).sum(-1) + 999 * np.eye(21, dtype=int)
    assert distances.min() > 30
    # Texts and volumes.
    assert task.draw(None, np.zeros((4, 7), int)) is None and task.draw(None, np.zeros((1, 4, 4, 4), int)) is None


@pytest.mark.parametrize("ignored", [None, 2])
def test_language_modeling(ignored):
    outputs, labels = RANDOM.normal(size=(4, 6, 5)), RANDOM.integers(-1, 5, (4, 6))
    labels[1] = -1
    task, counted = LanguageModeling(ignored), (labels != -1) & (labels != ignored)
    expected = np.exp(sklearn.metrics.log_loss(labels[counted], softmax(outputs)[counted], labels=range(5)))
    assert task.evaluate(outputs, labels) == pytest.approx(expected)
    np.testing.assert_array_equal(task.labeled(labels), [True, False, True, True])
    assert np.isnan(task.evaluate(outputs, np.full((4, 6), -1)))
    others = outputs + np.where(np.arange(6) < 3, 0, 100)[:, None] * np.eye(5)[0]
    assert task.agreement(outputs, others) == np.mean(outputs.argmax(-1) == others.argmax(-1))
    network = keras.Sequential([keras.Input((6, 2)), keras.layers.Dense(5)], name="student")
    task.check(network, labels)
    with pytest.raises(ValueError, match=r"the positions of 'student'. Received: labels of shape \(5,\)"):
        task.check(network, labels[:, 1:])
    assert isinstance(task.distillation_loss(2.0), KLDivergence)


def test_score_is_a_function_of_the_records_alone():
    """Rows of the records are resampled for an interval."""
    cases = [
        (Classification(), RANDOM.normal(size=(20, 3)), RANDOM.integers(0, 3, 20)),
        (MultiLabelClassification(), RANDOM.normal(size=(20, 3)), RANDOM.integers(0, 2, (20, 3))),
        (Regression(), RANDOM.normal(size=(20, 1)), RANDOM.normal(size=20)),
        (Segmentation(), RANDOM.normal(size=(20, 2, 2, 3)), RANDOM.integers(0, 3, (20, 2, 2))),
        (LanguageModeling(), RANDOM.normal(size=(20, 4, 3)), RANDOM.integers(-1, 3, (20, 4))),
    ]
    rows = RANDOM.integers(0, 20, 20)
    for task, outputs, labels in cases:
        assert task.score_of(task.records(outputs, labels)[rows]) == pytest.approx(
            task.evaluate(outputs[rows], labels[rows])
        )


class Perplexity(Task):
    """A task from outside the package: texts, scored by the perplexity of their tokens."""

    score = Score("perplexity", higher_is_better=False, percent=False)

    def loss(self, model):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def records(self, outputs, labels):
        surprise = -np.log(np.take_along_axis(softmax(outputs), labels[..., None], -1))[..., 0]
        return np.stack([surprise.sum(axis=1), np.full(len(labels), labels.shape[1])], axis=1)

    def score_of(self, records):
        total, tokens = records.sum(axis=0)
        return float(np.exp(total / tokens))


def test_a_task_from_outside_needs_a_loss_and_records():
    task = Perplexity()
    assert task.evaluate(np.zeros((3, 4, 8)), np.zeros((3, 4), int)) == pytest.approx(8)
    assert task.labeled(np.zeros((3, 4), int)).all()
    with pytest.raises(ValueError, match="Pass the `terms` of each arm"):
        task.distillation_loss(1.0)
