"""Probabilities instead of logits, and unsuitable temperatures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_distill import Term
from keras_distill.losses import BinaryKD, KLDivergence
from keras_distill.preflight import check
from keras_distill.teachers import CachedTeacher, with_activations
from tests.support.checked_models import (
    clusters,
    function_teacher,
    healthy_distiller,
    names,
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
    # With the values, a CachedTeacher raises at once.
    spec = {"output": tf.TensorSpec((None, 4))}
    distiller = healthy_distiller(CachedTeacher(spec), terms=[Term(KLDivergence(1.0))])
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


@pytest.mark.parametrize(("policy", "found"), [("float32", False), ("mixed_bfloat16", True)])
def test_a_softmax_whose_input_keras_reads(teacher, policy, found):
    """With `from_logits=True`, Keras itself reads the input of a final softmax, unless a cast follows it."""
    keras.config.set_dtype_policy(policy)
    try:
        student = student_ending_in(keras.layers.Softmax())
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = clusters()
    values = []
    for from_logits in (True, False):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        student.compile("sgd", loss)
        values.append(student.evaluate(x, y, verbose=0))
    assert (abs(values[0] - values[1]) > 0.1) == found
    terms = [Term(KLDivergence(2.0), "output", "output")]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert ("probabilities" in names(check(healthy_distiller(teacher, student, terms, loss=loss), x, y))) == found


@pytest.mark.parametrize(("temperature", "name"), [(5000.0, "temperature too high"), (0.02, "temperature too low")])
def test_unsuitable_temperatures(temperature, name, teacher):
    findings = check(healthy_distiller(teacher, terms=[Term(KLDivergence(temperature), name="soft")]), *clusters())
    assert name in names(findings)
    assert "term 'soft' (KLDivergence)" in findings[0].what


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_common_temperatures_give_no_findings(temperature, teacher):
    assert check(healthy_distiller(teacher, terms=[Term(KLDivergence(temperature))]), *clusters()) == []


def test_temperatures_of_binary_logits_are_not_those_of_classes(teacher):
    x, y = clusters()
    # At this temperature a softmax would be uniform.
    terms = [Term(KLDivergence(2.0)), Term(BinaryKD(5000.0))]
    assert "temperature too high" not in names(check(healthy_distiller(teacher, terms=terms), x, y))
