"""Classes that logits mask: -inf, -1e9 and the smallest numbers of float16 and float32, in every loss of logits.

The expected values are NumPy's, in float64, over the classes that are left.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, losses
from keras_distill.data.batch import Batch
from keras_distill.losses import (
    DIST,
    AcceptanceLikelihood,
    AdaptiveKL,
    BinaryKD,
    CenteredKL,
    Chunked,
    ConfidenceTemperature,
    CurriculumTemperature,
    DecoupledKD,
    FocalTemperature,
    HybridLogitDistillation,
    JensenShannon,
    KLDivergence,
    LogitMSE,
    LogitStandardization,
    MultiLevelKD,
    QualityFocal,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TopK,
    TotalVariation,
    UniversalLogitDistillation,
)
from keras_distill.metrics import TeacherDivergence
from tests.support.helpers import central_differences, features, mlp, softmax, value_and_gradient, zero_rate_sgd

pytestmark = pytest.mark.case("E8")

CLASSES, MASKED = 6, [1, 4]
LEFT = [c for c in range(CLASSES) if c not in MASKED]
LABELS = np.array([0, 2, 3, 5, 0])
# Index of each label among the classes that are left.
TARGETS = np.array([LEFT.index(label) for label in LABELS])
MASKS = {
    "-inf": (-np.inf, -np.inf),
    "-1e9": (-1e9, -1e9),
    "float16": (-65504.0, -65504.0),
    "float32": (np.finfo("float32").min, np.finfo("float32").min),
    "-1e9 and -inf": (-1e9, -np.inf),
}


def kl(p, q):
    return (p * np.log(p / q)).sum(axis=-1)


def softened(student, teacher, temperature):
    return temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))


def jensen_shannon(student, teacher):
    p, q = softmax(teacher), softmax(student)
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def skewed(p, q, skew=0.1):
    """Return KL(p || skew * p + (1 - skew) * q)."""
    return kl(p, skew * p + (1 - skew) * q)


def adaptive(student, teacher, base, mu=0.5):
    p, q, gap = softmax(teacher), softmax(student), np.abs(softmax(teacher) - softmax(base))
    weight = []
    for probabilities, gaps in zip(p, gap, strict=True):
        order = np.argsort(-probabilities)
        size = max(1, (np.cumsum(probabilities[order]) <= mu).sum())
        weight.append(gaps[order[:size]].sum() / gaps.sum())
    return np.array(weight) * kl(p, q) + (1 - np.array(weight)) * kl(q, p)


def sorted_distance(student, teacher):
    return np.abs(np.sort(softmax(student)) - np.sort(softmax(teacher))).sum(axis=-1)


def binary(student, teacher):
    p, q = (1 / (1 + np.exp(-logits)) for logits in (teacher, student))
    return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(axis=-1)


def quality(student, teacher):
    p, q = (1 / (1 + np.exp(-logits)) for logits in (teacher, student))
    return (np.abs(p - q) * (-p * np.log(q) - (1 - p) * np.log(1 - q))).mean(axis=-1)


def decoupled(student, teacher, temperature=4.0):
    values = []
    for s, t, target in zip(student, teacher, TARGETS, strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        ours, others = (np.array([x[target], 1 - x[target]]) for x in (p, q)), (np.delete(x, target) for x in (p, q))
        values.append(kl(*ours) + 8 * kl(*(x / x.sum() for x in others)))
    return temperature**2 * np.array(values)


def multi_level(student, teacher):
    values = 0
    for temperature in (2.0, 3.0, 4.0, 5.0, 6.0):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        values = values + temperature**2 * kl(p, q) + ((p @ p.T - q @ q.T) ** 2).sum(axis=1)
        values = values + ((p.T @ p - q.T @ q) ** 2).sum() / p.shape[1]
    return values / 5


def dist(student, teacher):
    p, q = softmax(teacher), softmax(student)
    rows = np.array([1 - np.corrcoef(*pair)[0, 1] for pair in zip(p, q, strict=True)])
    columns = np.array([1 - np.corrcoef(*pair)[0, 1] for pair in zip(p.T, q.T, strict=True)])
    return rows + columns.mean()


def standardized(student, teacher):
    student, teacher = (
        (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, ddof=1, keepdims=True) for x in (student, teacher)
    )
    return softened(student, teacher, 2.0)


def confidence(student, teacher, base):
    difficulty = 1 / (softmax(base).max(axis=-1) + 1e-3)
    factor = (1 + 0.25 * (difficulty.mean() - difficulty))[:, None]
    return 16 * kl(softmax(teacher / factor, 4.0), softmax(student / factor, 4.0))


def focal(student, teacher, base):
    cosine = (base * teacher).sum(axis=-1) / np.linalg.norm(base, axis=-1) / np.linalg.norm(teacher, axis=-1)
    factor = (1 + 0.25 * ((1 - cosine).mean() - (1 - cosine)))[:, None]
    return 16 * kl(softmax(teacher / factor, 4.0), softmax(student / factor, 4.0))


def curriculum(student, teacher):
    # The authors' bounds 1 and 21 and initial score 1.
    return softened(student, teacher, 1 + 20 / (1 + np.exp(-1.0)))


# {class: (loss, reference)}. Some factors have no gradient: they are computed from `base`, the unchanged student.
CASES = {
    KLDivergence: (KLDivergence(2.0), lambda s, t, base: softened(s, t, 2.0)),
    ReverseKL: (ReverseKL(2.0), lambda s, t, base: softened(t, s, 2.0)),
    JensenShannon: (JensenShannon(), lambda s, t, base: jensen_shannon(s, t)),
    SkewKL: (SkewKL(), lambda s, t, base: skewed(softmax(t), softmax(s))),
    SkewReverseKL: (SkewReverseKL(), lambda s, t, base: skewed(softmax(s), softmax(t))),
    AdaptiveKL: (AdaptiveKL(), adaptive),
    AcceptanceLikelihood: (
        AcceptanceLikelihood(),
        lambda s, t, base: -np.log(np.minimum(softmax(s), softmax(t)).sum(axis=-1)),
    ),
    UniversalLogitDistillation: (UniversalLogitDistillation(), lambda s, t, base: sorted_distance(s, t)),
    HybridLogitDistillation: (
        HybridLogitDistillation([(c, c) for c in range(CLASSES)]),
        lambda s, t, base: jensen_shannon(s, t),
    ),
    TotalVariation: (TotalVariation(), lambda s, t, base: np.abs(softmax(s) - softmax(t)).sum(axis=-1) / 2),
    TopK: (TopK(k=2, tail=True), None),
    BinaryKD: (BinaryKD(), lambda s, t, base: binary(s, t)),
    LogitMSE: (LogitMSE(), lambda s, t, base: ((s - t) ** 2).mean(axis=-1)),
    DecoupledKD: (DecoupledKD(), lambda s, t, base: decoupled(s, t)),
    MultiLevelKD: (MultiLevelKD(), lambda s, t, base: multi_level(s, t)),
    DIST: (DIST(), lambda s, t, base: dist(s, t)),
    LogitStandardization: (LogitStandardization(), lambda s, t, base: standardized(s, t)),
    CurriculumTemperature: (CurriculumTemperature(), lambda s, t, base: curriculum(s, t)),
    ConfidenceTemperature: (ConfidenceTemperature(), confidence),
    FocalTemperature: (FocalTemperature(), focal),
    CenteredKL: (CenteredKL(0.5, 1.0), lambda s, t, base: kl(softmax(t), softmax(s, 0.5))),
    QualityFocal: (QualityFocal(), lambda s, t, base: quality(s, t)),
    Chunked: (Chunked(tokens=2), lambda s, t, base: softened(s, t, 1.0)),
}


def top_2(student, teacher):
    p, q = softmax(teacher), softmax(student)
    best = np.argsort(-p, axis=-1)[:, :2]
    p, q = (np.take_along_axis(x, best, axis=-1) for x in (p, q))
    p, q = (np.concatenate([x, 1 - x.sum(axis=-1, keepdims=True)], axis=-1) for x in (p, q))
    return kl(p, q)


CASES[TopK] = (CASES[TopK][0], lambda s, t, base: top_2(s, t))


def compare(loss, student, teacher):
    if not loss.built:
        loss.build(student.shape, teacher.shape)
    return loss.compare(tf.convert_to_tensor(student), tf.convert_to_tensor(teacher), Batch(None, LABELS))


def masked(logits, value, classes=MASKED):
    logits = logits.copy()
    logits[:, classes] = value
    return logits


def pair():
    return features(5, CLASSES, scale=2), features(5, CLASSES, seed=1, scale=2)


def test_every_loss_of_logits_has_a_case():
    classes = {
        cls for cls in vars(losses).values() if isinstance(cls, type) and issubclass(cls, losses.DistillationLoss)
    }
    wrappers = {cls for cls in classes if "compare_inner" in dir(cls)}
    assert {cls for cls in classes if cls.logits} | wrappers == set(CASES)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cls", CASES)
def test_classes_that_both_mask_are_left_out(cls, mask):
    (loss, reference), (student, teacher) = CASES[cls], pair()
    student, teacher = (masked(x, value) for x, value in zip((student, teacher), MASKS[mask], strict=True))
    left = [x[:, LEFT].astype("float64") for x in (student, teacher)]
    np.testing.assert_allclose(compare(loss, student, teacher), reference(*left, left[0]), rtol=2e-5)
    _, gradient = value_and_gradient(lambda s: compare(loss, s, teacher), student)
    slope = central_differences(lambda s: reference(s, left[1], left[0]).mean(), left[0])
    np.testing.assert_allclose(gradient[:, LEFT], slope, atol=2e-5 * np.abs(slope).max())
    np.testing.assert_array_equal(gradient[:, MASKED], 0)


@pytest.mark.parametrize("value", [-np.inf, -1e9, -65504.0])
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("cls", CASES)
def test_values_and_gradients_are_finite_and_moderate_where_only_one_masks(cls, side, value):
    loss, (student, teacher) = CASES[cls][0], pair()
    student = masked(student, value) if side == "student" else student
    teacher = masked(teacher, value) if side == "teacher" else teacher
    result, gradient = value_and_gradient(lambda s: compare(loss, s, teacher), student)
    # At most 100 nats, times the squared temperature of up to 16: see the documentation of `class_masks`.
    assert 0 < result < 100 * 250 and np.isfinite(gradient).all() and np.abs(gradient).max() < 100 * 250
    assert np.any(gradient[:, LEFT])
    if side == "student":
        np.testing.assert_array_equal(gradient[:, MASKED], 0)


@pytest.mark.parametrize("value", [-np.inf, -1e9])
def test_a_probability_of_0_contributes_0(value):
    student, teacher = pair()
    q, p = softmax(student), softmax(teacher[:, LEFT])
    expected = kl(p, q[:, LEFT])
    loss = KLDivergence(1.0)
    np.testing.assert_allclose(compare(loss, student, masked(teacher, value)), expected, rtol=1e-5)
    # The gradient q - p, 1/5 of it because of the mean over the batch.
    full = np.zeros_like(q)
    full[:, LEFT] = p
    _, gradient = value_and_gradient(lambda s: compare(loss, s, masked(teacher, value)), student)
    np.testing.assert_allclose(gradient, (q - full) / 5, atol=1e-6)


def test_a_missing_class_of_the_student_costs_100_nats():
    student, teacher = pair()
    p, q = softmax(teacher), softmax(student[:, LEFT])
    loss = KLDivergence(1.0)
    # p * 100 where the student's probability is 0, and the textbook's terms of the other classes.
    rest = (p[:, LEFT] * np.log(p[:, LEFT] / q)).sum(axis=-1)
    expected = rest + 100 * p[:, MASKED].sum(axis=-1)
    np.testing.assert_allclose(compare(loss, masked(student, -np.inf), teacher), expected, rtol=1e-5)
    _, gradient = value_and_gradient(lambda s: compare(loss, s, teacher), masked(student, -np.inf))
    left = p[:, LEFT].sum(axis=-1, keepdims=True)
    # Zero where the student's probabilities are the teacher's over the classes that the student has.
    np.testing.assert_allclose(gradient[:, LEFT], (left * q - p[:, LEFT]) / 5, atol=1e-6)


def test_a_class_that_the_teacher_excludes_is_avoided_by_reverse_kl():
    student, teacher = pair()
    _, gradient = value_and_gradient(
        lambda s: compare(ReverseKL(1.0), s, masked(teacher, -np.inf)), student.astype("float32")
    )
    # Gradient descent lowers the logits of these classes.
    assert (gradient[:, MASKED] > 0).all()


def test_masks_may_differ_between_examples():
    student, teacher = pair()
    for row, column in enumerate([1, 4, 1, 4, 1]):
        student[row, column] = teacher[row, column] = -np.inf
    rows = [np.delete(np.arange(CLASSES), column) for column in [1, 4, 1, 4, 1]]
    left = [np.stack([x[i, columns] for i, columns in enumerate(rows)]).astype("float64") for x in (student, teacher)]
    for cls in (KLDivergence, ReverseKL, LogitStandardization, LogitMSE, FocalTemperature):
        loss, reference = CASES[cls]
        np.testing.assert_allclose(compare(loss, student, teacher), reference(*left, left[0]), rtol=2e-5)


@pytest.mark.parametrize("cls", CASES)
def test_a_row_without_any_class_is_finite(cls):
    loss, (student, teacher) = CASES[cls][0], pair()
    student[0] = teacher[0] = -np.inf
    result, gradient = value_and_gradient(lambda s: compare(loss, s, teacher), student)
    assert np.isfinite(result) and np.isfinite(gradient).all()


@pytest.mark.parametrize("cls", CASES)
def test_nan_is_not_hidden(cls):
    loss, (student, teacher) = CASES[cls][0], pair()
    student[0, 0] = np.nan
    assert np.isnan(compare(loss, student, teacher)[0])


def test_an_instance_wise_temperature_ignores_masked_classes():
    keras.utils.set_random_seed(0)
    loss, (student, teacher) = CurriculumTemperature(instance=True), pair()
    results = [compare(loss, masked(student, value), masked(teacher, value)) for value in (-np.inf, -1e9)]
    assert np.isfinite(results).all()
    np.testing.assert_array_equal(*results)


def test_divergence_metric():
    student, teacher = pair()
    metric = TeacherDivergence()
    metric.update_state(masked(student, -1e9), masked(teacher, -np.inf))
    np.testing.assert_allclose(metric.result(), softened(student[:, LEFT], teacher[:, LEFT], 1.0).mean(), rtol=1e-5)


def test_a_student_with_a_class_mask_is_trained():
    mask = np.array([0.0, -np.inf, 0.0], "float32")

    def with_mask(name):
        model = mlp(name=name)
        return keras.Sequential([model, keras.layers.Lambda(lambda x: x + mask, name="mask")], name=f"{name}_masked")

    student, teacher = with_mask("student"), with_mask("teacher")
    student.build((None, 8))
    teacher.build((None, 8))
    x = features(16, 8)
    expected = softened(*(model.layers[0].predict(x, verbose=0)[:, [0, 2]] for model in (student, teacher)), 2.0).mean()
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence(2.0))])
    distiller.compile(zero_rate_sgd())
    history = distiller.fit(x, batch_size=16, verbose=0).history
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-4)
