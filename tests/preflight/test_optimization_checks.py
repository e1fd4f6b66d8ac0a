"""Missing and dominant gradients, and unsuitable learning rates."""

import keras
import pytest
from keras import ops

from keras_distill import Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.schedules import WarmUp
from tests.support.checked_models import clusters, healthy_distiller, names, network, only_finding, student_ending_in


def test_a_frozen_student(teacher):
    student = network()
    student.trainable = False
    only_finding(
        check(healthy_distiller(teacher, student), *clusters()), "frozen student", "'student'", "0 of 4 weights"
    )
    detached = student_ending_in(lambda x: ops.stop_gradient(x))
    findings = check(healthy_distiller(teacher, detached, [Term(KLDivergence())]), *clusters())
    only_finding(findings, "frozen student", "all gradients are 0")
    partly_frozen = network()
    partly_frozen.get_layer("features").trainable = False
    assert check(healthy_distiller(teacher, partly_frozen, [Term(KLDivergence())]), *clusters()) == []


def test_a_term_without_gradient(teacher):
    student = network()
    student.get_layer("features").trainable = False
    only_finding(check(healthy_distiller(teacher, student), *clusters()), "no gradient", "Term 'hint'")


def test_a_dominant_loss(teacher):
    x, y = clusters()
    terms = [Term(KLDivergence(2.0), weight=0.9), Term(Hint(), "features", "features", head="auto", weight=1e4)]
    findings = check(healthy_distiller(teacher, terms=terms, optimizer=keras.optimizers.Adam(1e-3)), x, y)
    finding = only_finding(findings, "dominant loss", "Term 'hint' dominates", "Balance")
    assert "the supervised loss 0.0" in finding.seen
    terms = [Term(KLDivergence(2.0), weight=1e-6)]
    only_finding(
        check(healthy_distiller(teacher, terms=terms), x, y),
        "dominant loss",
        "The supervised loss dominates",
        "`supervised_weight`",
    )
    # The share of a term in warm-up is 0 now, but the check uses its later weight.
    terms = [Term(KLDivergence(2.0)), Term(Hint(), "features", "features", head="auto", weight=WarmUp(0.1, 500))]
    assert check(healthy_distiller(teacher, terms=terms), x, y) == []


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(30.0), lambda: keras.optimizers.SGD(1e3), lambda: keras.optimizers.SGD(1e18)],
)
def test_a_learning_rate_that_is_too_high(optimizer, teacher):
    findings = check(healthy_distiller(teacher, optimizer=optimizer()), *clusters())
    assert "learning rate too high" in names(findings)
    assert "clipnorm" in findings[0].advice


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(1e-9),
        lambda: keras.optimizers.SGD(1e-8),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-9, 100, 0.9)),
        lambda: keras.optimizers.SGD(0.0),
    ],
)
def test_a_learning_rate_that_is_too_low(optimizer, teacher):
    only_finding(
        check(healthy_distiller(teacher, optimizer=optimizer()), *clusters()), "learning rate too low", "hardly change"
    )
