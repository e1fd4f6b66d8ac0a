"""Gradients and steps that teach nothing, or too much."""

import keras
import pytest
from keras import ops

from keras_distill import Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.schedules import WarmUp
from tests.support.sound import clusters, ending_in, healthy, names, network, only


def test_a_frozen_student(teacher):
    student = network()
    student.trainable = False
    only(check(healthy(teacher, student), *clusters()), "frozen student", "'student'", "0 of 4 weights")
    cut = ending_in(lambda x: ops.stop_gradient(x))
    found = check(healthy(teacher, cut, [Term(KLDivergence())]), *clusters())
    only(found, "frozen student", "gradients of all are 0")
    part = network()
    part.get_layer("features").trainable = False
    assert check(healthy(teacher, part, [Term(KLDivergence())]), *clusters()) == []


def test_a_term_that_reaches_no_weight(teacher):
    student = network()
    student.get_layer("features").trainable = False
    only(check(healthy(teacher, student), *clusters()), "no gradient", "Term 'hint'")


def test_a_term_that_drowns_the_others(teacher):
    x, y = clusters()
    given = [Term(KLDivergence(2.0), weight=0.9), Term(Hint(), "features", "features", head="auto", weight=1e4)]
    found = check(healthy(teacher, given=given, optimizer=keras.optimizers.Adam(1e-3)), x, y)
    finding = only(found, "drowned terms", "Term 'hint' drowns", "Balance")
    assert "the supervised loss 0.0" in finding.seen
    given = [Term(KLDivergence(2.0), weight=1e-6)]
    only(
        check(healthy(teacher, given=given), x, y), "drowned terms", "The supervised loss drowns", "`supervised_weight`"
    )
    # Before its warm-up a term has no share, which is not what it will have.
    given = [Term(KLDivergence(2.0)), Term(Hint(), "features", "features", head="auto", weight=WarmUp(0.1, 500))]
    assert check(healthy(teacher, given=given), x, y) == []


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(30.0), lambda: keras.optimizers.SGD(1e3), lambda: keras.optimizers.SGD(1e18)],
)
def test_a_learning_rate_at_which_the_loss_explodes(optimizer, teacher):
    found = check(healthy(teacher, optimizer=optimizer()), *clusters())
    assert "learning rate too high" in names(found)
    assert "clipnorm" in found[0].advice


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(1e-9),
        lambda: keras.optimizers.SGD(1e-8),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-9, 100, 0.9)),
        lambda: keras.optimizers.SGD(0.0),
    ],
)
def test_a_learning_rate_at_which_nothing_moves(optimizer, teacher):
    only(check(healthy(teacher, optimizer=optimizer()), *clusters()), "learning rate too low", "hardly move")
