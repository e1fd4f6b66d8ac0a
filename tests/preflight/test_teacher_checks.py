"""Teachers that are inaccurate, number classes differently or are confidently wrong."""

import keras
import numpy as np
from keras import ops

from keras_distill import Term
from keras_distill.losses import BinaryKD, KLDivergence
from keras_distill.preflight import check
from keras_distill.teachers import ModelTeacher
from tests.support.checked_models import (
    clusters,
    function_teacher,
    healthy_distiller,
    names,
    network,
    only_finding,
)


def test_a_teacher_with_another_class_order(teacher):
    x, y = clusters()
    permuted = function_teacher(teacher, lambda logits: ops.take(logits, [2, 0, 3, 1], axis=-1))
    finding = only_finding(
        check(healthy_distiller(permuted, terms=[Term(KLDivergence(2.0))]), x, y), "class order", "'output'"
    )
    # Class 0 of the labels is output 1 of the teacher.
    assert "classes=[1, 3, 0, 2]" in finding.advice
    corrected = ModelTeacher(permuted, classes=[1, 3, 0, 2])
    assert check(healthy_distiller(corrected, terms=[Term(KLDivergence(2.0))]), x, y) == []


def test_two_classes_exchanged(teacher):
    permuted = function_teacher(teacher, lambda logits: ops.take(logits, [1, 0, 2, 3], axis=-1))
    findings = check(healthy_distiller(permuted, terms=[Term(KLDivergence(2.0))]), *clusters())
    assert "classes=[1, 0, 2, 3]" in only_finding(findings, "class order").advice


def test_a_teacher_at_chance_level():
    untrained = network(16, "teacher")
    x, y = clusters()
    # With labels independent of the inputs every teacher is at chance level.
    shuffled = np.random.default_rng(3).permutation(y)
    finding = only_finding(
        check(healthy_distiller(untrained, terms=[Term(KLDivergence(2.0))]), x, shuffled),
        "teacher at chance level",
        "chance 2",
    )
    # All 256 examples are used.
    assert f"inputs have values from {x.min():.3g} to {x.max():.3g}" in finding.seen
    assert "another scale of the inputs" in finding.advice


def test_a_teacher_that_always_predicts_the_most_frequent_class():
    x, y = clusters()
    y = np.where(np.arange(256) % 10 < 8, 0, y)
    constant = function_teacher(network(), lambda logits: 0.01 * logits + np.float32([3, 0, 0, 0]))
    findings = check(healthy_distiller(constant, terms=[Term(KLDivergence(2.0))]), x, y)
    assert "teacher at chance level" in names(findings)


def test_accuracy_is_not_measured_on_few_labels(teacher):
    x, y = clusters()
    y[::2] = np.random.default_rng(3).permutation(y[::2])
    y[20:] = -1
    assert check(healthy_distiller(teacher, terms=[Term(KLDivergence(2.0))]), x, y) == []


def test_chance_level_is_not_measured_on_a_single_class(teacher):
    x, y = clusters()
    assert check(healthy_distiller(teacher), x[y == 0], y[y == 0]) == []


def test_a_confidently_wrong_teacher(teacher):
    x, y = clusters()
    y[::2] = np.random.default_rng(3).permutation(y[::2])
    findings = check(healthy_distiller(teacher, terms=[Term(KLDivergence(2.0))]), x, y)
    only_finding(
        findings,
        "teacher confidently wrong",
        "Teacher is confidently wrong at 'output' (accuracy",
        "mean confidence",
        "preprocessing",
    )


def test_a_teacher_worse_than_the_student(teacher):
    x, y = clusters()
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    # It never predicts class 3.
    other = function_teacher(teacher, lambda logits: logits - np.float32([0, 0, 0, 100]))
    findings = check(healthy_distiller(other, student, [Term(KLDivergence(2.0))]), x, y)
    worse = findings[names(findings).index("teacher worse than student")]
    assert "the student on" in worse.seen and "student at 'output' before distillation" in worse.what


def test_binary_logits_are_not_classes(teacher):
    x, y = clusters()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    assert check(healthy_distiller(teacher, terms=[Term(BinaryKD(2.0))], loss=loss), x, one_hot) == []
    only_finding(
        check(healthy_distiller(teacher, terms=[Term(BinaryKD(2.0))], loss=loss), x, 2 * one_hot), "labels out of range"
    )


def confident(teacher):
    return function_teacher(teacher, lambda logits: 1000 * logits)


def test_a_teacher_that_repeats_the_labels(teacher):
    x, _ = clusters()
    y = np.argmax(teacher(x), axis=-1)
    findings = check(healthy_distiller(confident(teacher), terms=[Term(KLDivergence(1.0))]), x, y)
    # Soft targets are hard at every temperature then, which is not reported as well.
    assert "teacher memorized" in names(findings) and "temperature too low" not in names(findings)
    finding = findings[names(findings).index("teacher memorized")]
    assert "Correct on 256 of 256 labeled examples" in finding.seen and "keras_distill.data.Mixup" in finding.advice


def test_a_teacher_that_labels_other_examples_may_repeat_the_labels(teacher):
    x, _ = clusters()
    y = np.argmax(teacher(x), axis=-1)
    y[::3] = -1
    findings = check(healthy_distiller(confident(teacher), terms=[Term(KLDivergence(1.0))]), x, y)
    assert "teacher memorized" not in names(findings)
