import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.losses import (
    DIST,
    CenteredKL,
    Chunked,
    ConfidenceTemperature,
    CurriculumTemperature,
    DecoupledKD,
    FocalTemperature,
    Hint,
    KLDivergence,
    LogitStandardization,
)
from keras_distill.schedules import Linear

WRAPPERS = [Chunked, ConfidenceTemperature, CurriculumTemperature, FocalTemperature, LogitStandardization]
every_wrapper = pytest.mark.parametrize("cls", WRAPPERS)


@every_wrapper
def test_wrapper_inherits_the_attributes_of_its_inner_loss(cls):
    inner = DecoupledKD()
    inner.rank = 3
    assert cls(inner).needs_labels and not cls().needs_labels and not cls.needs_labels
    assert cls(inner).rank == 3 and cls().rank is None


@every_wrapper
def test_wrapper_saves_its_inner_loss(cls):
    for loss in (None, KLDivergence(3.0)):
        revived = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cls(loss)))
        assert revived.loss is None if loss is None else revived.loss.temperature == 3.0


@every_wrapper
@pytest.mark.parametrize("loss", [Hint(), "kl", 2.0])
def test_wrapper_rejects_other_losses(cls, loss):
    with pytest.raises(ValueError, match=f"{cls.__name__} takes a loss of logits.*Received: "):
        cls(loss)


@every_wrapper
@pytest.mark.parametrize("loss", [CenteredKL(), CenteredKL(pairs="crops")])
def test_wrapper_rejects_a_loss_with_state(cls, loss):
    with pytest.raises(ValueError, match=f"{cls.__name__} takes a loss without state.*a CenteredKL"):
        cls(loss)


@every_wrapper
def test_wrapper_rejects_a_single_class(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__} compares two classes or more.*\(None, 1\)"):
        cls(KLDivergence()).build((None, 1), (None, 1))


def test_a_wrapper_is_relational_if_its_inner_loss_is():
    assert LogitStandardization(DIST()).relational and not LogitStandardization().relational
    assert FocalTemperature(KLDivergence()).relational


def test_temperature_is_that_of_the_inner_loss():
    loss = CurriculumTemperature(KLDivergence(Linear(2.0, 4.0, 10)), low=1.0, high=3.0)
    loss.build((None, 5), (None, 5))
    loss.bias.assign([0.0])
    # sigmoid(0) is 1/2, so the trained temperature is 2; the schedule is at 3.
    np.testing.assert_allclose(tf.function(loss.temperature_at)(tf.constant(5)), 6.0)
    assert LogitStandardization(loss).temperature_at(tf.constant(5)) == 6.0
    assert LogitStandardization().temperature_at(0) is None
