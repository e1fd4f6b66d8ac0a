"""Exact resume of Keras callbacks: `EarlyStopping` and `ReduceLROnPlateau`."""

import keras
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence
from tests.support.helpers import compiled, mlp
from tests.support.interrupted_training import STEPS, FaultAt, KilledError, assert_same, trained

pytestmark = pytest.mark.processes


def test_callbacks_resume(tmp_path):
    def callbacks():
        early = keras.callbacks.EarlyStopping("val_loss", min_delta=0.02, patience=2, restore_best_weights=True)
        return [early, keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, cooldown=1)]

    def hasty():
        model = Distiller(student=mlp(), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())])
        return compiled(model, keras.optimizers.SGD(0.5))

    def run(folder, *faults):
        return trained(hasty, folder, *faults, callbacks=callbacks(), epochs=12)

    whole = run(tmp_path / "whole")
    assert 3 < len(whole[1]["loss"]) < 12, "must stop early, but not at once"
    with pytest.raises(KilledError):
        run(tmp_path / "broken", FaultAt("on_train_batch_end", 2 * STEPS + 1))
    assert_same(run(tmp_path / "broken"), whole)
    # A training that stopped early does not continue.
    assert_same(run(tmp_path / "broken"), whole)
