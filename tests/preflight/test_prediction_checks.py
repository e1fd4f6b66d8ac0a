"""Outputs that are no logits, labels that are no classes, teachers that are not right."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import Term
from keras_distill.losses import BinaryKD, Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.teachers import CachedTeacher, ModelTeacher, with_activations
from tests.support.sound import as_function, clusters, ending_in, healthy, names, network, only


def test_a_teacher_that_gives_probabilities(teacher):
    x, y = clusters()
    by_function = as_function(teacher, lambda logits: ops.softmax(logits) * 1.0)
    only(check(healthy(by_function, given=[Term(KLDivergence(1.0))]), x, y), "probabilities", "teacher", "'output'")
    stored = {"output": np.array(ops.softmax(teacher(x)))}
    distiller = healthy(CachedTeacher(stored), given=[Term(KLDivergence(1.0))])
    only(check(distiller, with_activations(x, stored), y), "probabilities", "the logarithm")
    # Their logarithms are logits.
    by_function = as_function(teacher, lambda logits: ops.log_softmax(logits))
    assert check(healthy(by_function, given=[Term(KLDivergence(1.0))]), x, y) == []


def test_a_student_that_gives_probabilities(teacher):
    student = ending_in(lambda x: ops.softmax(x) * 1.0)
    given = [Term(KLDivergence(2.0), "logits", "output")]
    found = check(healthy(teacher, student, given), *clusters())
    assert "The student gives probabilities at 'output'" in found[names(found).index("probabilities")].what
    fit = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    assert check(healthy(teacher, student, given, loss=fit), *clusters()) == []


@pytest.mark.parametrize("wrong", [4, -2, 1.5])
def test_class_numbers_out_of_range(wrong, teacher):
    x, y = clusters()
    y = y.astype("float32")
    y[5] = wrong
    found = only(check(healthy(teacher), x, y), "labels out of range", "4 classes", "whole numbers from 0 to 3")
    assert f"1 of 256, such as [{float(wrong)}]" in found.seen


def test_one_hot_labels_that_are_none(teacher):
    x, y = clusters()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    only(check(healthy(teacher, loss=loss), x, 100 * one_hot), "labels out of range", "from 0 to 1")
    only(check(healthy(teacher, loss=loss), x, 0.5 * one_hot), "labels out of range", "rows of the sum 1")
    assert check(healthy(teacher, loss=loss), x, 0.9 * one_hot + 0.025) == []
    # To a loss that is none of classes, any number may be a label.
    regression = [Term(Hint(), "features", "features", head="auto")]
    assert check(healthy(teacher, given=regression, loss="mse"), x, 3 * one_hot) == []


def test_a_teacher_with_its_classes_in_another_order(teacher):
    x, y = clusters()
    turned = as_function(teacher, lambda logits: ops.take(logits, [2, 0, 3, 1], axis=-1))
    found = only(check(healthy(turned, given=[Term(KLDivergence(2.0))]), x, y), "class order", "'output'")
    # Class 0 of the labels stands second in the teacher.
    assert "classes=[1, 3, 0, 2]" in found.advice
    mended = ModelTeacher(turned, classes=[1, 3, 0, 2])
    assert check(healthy(mended, given=[Term(KLDivergence(2.0))]), x, y) == []


def test_two_classes_exchanged(teacher):
    turned = as_function(teacher, lambda logits: ops.take(logits, [1, 0, 2, 3], axis=-1))
    found = check(healthy(turned, given=[Term(KLDivergence(2.0))]), *clusters())
    assert "classes=[1, 0, 2, 3]" in only(found, "class order").advice


def test_a_teacher_no_better_than_chance():
    untrained = network(16, "teacher")
    x, y = clusters()
    # Of labels that have nothing to do with the inputs, any teacher knows as much as chance.
    shuffled = np.random.default_rng(3).permutation(y)
    only(check(healthy(untrained, given=[Term(KLDivergence(2.0))]), x, shuffled), "teacher by chance", "chance gives")


def test_a_teacher_that_always_says_the_most_frequent_class():
    x, y = clusters()
    y = np.where(np.arange(256) % 10 < 8, 0, y)
    constant = as_function(network(), lambda logits: 0.01 * logits + np.float32([3, 0, 0, 0]))
    found = check(healthy(constant, given=[Term(KLDivergence(2.0))]), x, y)
    assert "teacher by chance" in names(found)


def test_few_labels_say_nothing_of_a_teacher(teacher):
    x, y = clusters()
    y[::2] = np.random.default_rng(3).permutation(y[::2])
    y[20:] = -1
    assert check(healthy(teacher, given=[Term(KLDivergence(2.0))]), x, y) == []


def test_data_that_come_class_by_class_say_nothing_of_chance(teacher):
    x, y = clusters()
    assert check(healthy(teacher), x[y == 0], y[y == 0]) == []


def test_a_teacher_that_is_sure_of_other_labels(teacher):
    x, y = clusters()
    y[::2] = np.random.default_rng(3).permutation(y[::2])
    found = check(healthy(teacher, given=[Term(KLDivergence(2.0))]), x, y)
    only(found, "teacher sure and wrong", "mean confidence", "preprocessing")


def test_a_teacher_worse_than_the_student(teacher):
    x, y = clusters()
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    # It never says class 3.
    other = as_function(teacher, lambda logits: logits - np.float32([0, 0, 0, 100]))
    found = check(healthy(other, student, [Term(KLDivergence(2.0))]), x, y)
    worse = found[names(found).index("teacher worse than student")]
    assert "the student on" in worse.seen


@pytest.mark.parametrize(("temperature", "name"), [(5000.0, "temperature too high"), (0.02, "temperature too low")])
def test_temperatures_that_leave_nothing(temperature, name, teacher):
    found = check(healthy(teacher, given=[Term(KLDivergence(temperature), name="soft")]), *clusters())
    assert name in names(found)
    assert "term 'soft' (KLDivergence)" in found[0].what


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_temperatures_as_they_are_used(temperature, teacher):
    assert check(healthy(teacher, given=[Term(KLDivergence(temperature))]), *clusters()) == []


def test_yes_or_no_logits_are_no_classes(teacher):
    x, y = clusters()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    one_hot = np.eye(4, dtype="float32")[y]
    assert check(healthy(teacher, given=[Term(BinaryKD(2.0))], loss=loss), x, one_hot) == []
    only(check(healthy(teacher, given=[Term(BinaryKD(2.0))], loss=loss), x, 2 * one_hot), "labels out of range")
