"""Probabilities instead of logits, invalid labels, inaccurate teachers and unsuitable temperatures."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import Term
from keras_distill.losses import BinaryKD, Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.teachers import CachedTeacher, ModelTeacher, with_activations
from tests.support.checked_models import (
    clusters,
    function_teacher,
    healthy_distiller,
    names,
    network,
    only_finding,
    student_ending_in,
)


def test_a_teacher_that_outputs_probabilities(teacher):
    x, y = clusters()
    teacher_function = function_teacher(teacher, lambda logits: ops.softmax(logits) * 1.0)
    only_finding(
        check(healthy_distiller(teacher_function, terms=[Term(KLDivergence(1.0))]), x, y),
        "probabilities",
        "teacher",
        "'output'",
    )
    stored = {"output": np.array(ops.softmax(teacher(x)))}
    distiller = healthy_distiller(CachedTeacher(stored), terms=[Term(KLDivergence(1.0))])
    only_finding(check(distiller, with_activations(x, stored), y), "probabilities", "by their logarithm")
    # Log-probabilities are logits.
    teacher_function = function_teacher(teacher, lambda logits: ops.log_softmax(logits))
    assert check(healthy_distiller(teacher_function, terms=[Term(KLDivergence(1.0))]), x, y) == []


def test_a_student_that_outputs_probabilities(teacher):
    student = student_ending_in(lambda x: ops.softmax(x) * 1.0)
    terms = [Term(KLDivergence(2.0), "logits", "output")]
    findings = check(healthy_distiller(teacher, student, terms), *clusters())
    assert "The student outputs probabilities at 'output'" in findings[names(findings).index("probabilities")].what
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    assert check(healthy_distiller(teacher, student, terms, loss=loss), *clusters()) == []


@pytest.mark.parametrize("invalid", [4, -2, 1.5])
def test_class_indices_out_of_range(invalid, teacher):
    x, y = clusters()
    y = y.astype("float32")
    y[5] = invalid
    finding = only_finding(
        check(healthy_distiller(teacher), x, y), "labels out of range", "4 classes", "integers from 0 to 3"
    )
    assert f"1 of 256 are invalid, e.g. [{float(invalid)}]" in finding.seen


def test_invalid_one_hot_labels(teacher):
    x, y = clusters()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    only_finding(check(healthy_distiller(teacher, loss=loss), x, 100 * one_hot), "labels out of range", "from 0 to 1")
    only_finding(
        check(healthy_distiller(teacher, loss=loss), x, 0.5 * one_hot), "labels out of range", "rows with a sum of 1"
    )
    assert check(healthy_distiller(teacher, loss=loss), x, 0.9 * one_hot + 0.025) == []
    # A regression loss accepts any number as label.
    regression = [Term(Hint(), "features", "features", head="auto")]
    assert check(healthy_distiller(teacher, terms=regression, loss="mse"), x, 3 * one_hot) == []


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
    only_finding(
        check(healthy_distiller(untrained, terms=[Term(KLDivergence(2.0))]), x, shuffled),
        "teacher at chance level",
        "chance 2",
    )


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


@pytest.mark.parametrize(("temperature", "name"), [(5000.0, "temperature too high"), (0.02, "temperature too low")])
def test_unsuitable_temperatures(temperature, name, teacher):
    findings = check(healthy_distiller(teacher, terms=[Term(KLDivergence(temperature), name="soft")]), *clusters())
    assert name in names(findings)
    assert "term 'soft' (KLDivergence)" in findings[0].what


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_common_temperatures_give_no_findings(temperature, teacher):
    assert check(healthy_distiller(teacher, terms=[Term(KLDivergence(temperature))]), *clusters()) == []


def test_binary_logits_are_not_classes(teacher):
    x, y = clusters()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    assert check(healthy_distiller(teacher, terms=[Term(BinaryKD(2.0))], loss=loss), x, one_hot) == []
    only_finding(
        check(healthy_distiller(teacher, terms=[Term(BinaryKD(2.0))], loss=loss), x, 2 * one_hot), "labels out of range"
    )
