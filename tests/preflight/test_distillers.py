"""`check` accepts every distiller: subclasses with hooks, and peers."""

import keras
import numpy as np
import pytest

from keras_distill import Distiller, MutualDistiller, Term
from keras_distill.losses import KLDivergence
from keras_distill.preflight import check
from keras_distill.training import LossWeight
from tests.support.checked_models import clusters, network
from tests.support.helpers import crossentropy, weights_of


class Rescaled(Distiller):
    """Divides the inputs by 255."""

    def prepare_batch(self, batch):
        return batch._replace(inputs=batch.inputs / 255.0)


class Halving(LossWeight):
    def value(self, step):
        return 0.5 ** (keras.ops.cast(step, "float32") / 1000.0)


def compiled(distiller, learning_rate=1e-3):
    distiller.compile(keras.optimizers.Adam(learning_rate), crossentropy(), metrics=["accuracy"])
    return distiller


def peers(**options):
    return compiled(MutualDistiller({"small": network(8, "small"), "wide": network(16, "wide")}), **options)


def names(findings):
    return {finding.name for finding in findings}


def test_a_subclass_is_checked_through_its_hooks(teacher):
    x, y = clusters()
    distiller = compiled(Rescaled(student=network(), teacher=teacher, terms=[Term(KLDivergence(2.0))]))
    # Inputs of the range that the hook expects.
    assert check(distiller, 255.0 * x, y) == []


def test_a_weight_of_the_user(teacher):
    terms = [Term(KLDivergence(2.0), weight=Halving())]
    assert check(compiled(Distiller(student=network(), teacher=teacher, terms=terms)), *clusters()) == []


def test_healthy_peers_give_no_findings_and_are_left_as_they_are():
    distiller = peers()
    before = weights_of(distiller)
    assert check(distiller, *clusters()) == []
    for one, other in zip(before, weights_of(distiller), strict=True):
        np.testing.assert_array_equal(one, other)
    assert distiller.optimizer.iterations.numpy() == 0


def test_a_frozen_peer():
    distiller = peers()
    distiller.peers["small"].trainable = False
    distiller = compiled(MutualDistiller(distiller.peers))
    (finding,) = [finding for finding in check(distiller, *clusters()) if finding.name == "frozen student"]
    assert "'small' is frozen" in str(finding)


def test_a_learning_rate_at_which_the_loss_of_peers_explodes():
    assert any("learning rate" in str(finding) for finding in check(peers(learning_rate=100.0), *clusters()))


def test_labels_out_of_range_of_peers():
    x, y = clusters()
    assert names(check(peers(), x, np.where(y == 0, 99, y))) == {"labels out of range"}


def test_other_models_raise():
    with pytest.raises(ValueError, match="must be a Distiller or a MutualDistiller. Received: Sequential"):
        check(keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]), *clusters())
