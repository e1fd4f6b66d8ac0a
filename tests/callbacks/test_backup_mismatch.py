"""Errors of `Backup` for a checkpoint of another run, of other versions or of another format."""

import json

import keras
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence
from keras_distill.saving import runs
from tests.support.helpers import compiled, crossentropy, mlp
from tests.support.interrupted_training import accumulating, assert_same, interrupt, trained

pytestmark = pytest.mark.processes


def wider():
    return compiled(Distiller(student=mlp(9), teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (
            {"make": wider},
            r"variables, such as 'model/0/student/features/kernel' \(8, 8\) float32 in the checkpoint and .*\(8, 9\)",
        ),
        ({"seed": 1}, "seed 0 in the checkpoint and 1 now"),
        ({"settings": {"temperature": 2.0}}, "temperature 4.0 in the checkpoint and 2.0 now"),
        ({"dataset": lambda backup, x, y: backup.batches((x, y), 16)}, "steps 4 in the checkpoint and 2 now"),
    ],
)
def test_a_checkpoint_of_another_run_raises(tmp_path, options, difference):
    interrupt(tmp_path, settings={"temperature": 4.0})
    options = {"make": accumulating, "settings": {"temperature": 4.0}} | options
    with pytest.raises(ValueError, match=f"belongs to another run: .*{difference}.*delete the folder to start"):
        trained(options.pop("make"), tmp_path, **options)


def test_a_checkpoint_of_other_versions_raises(tmp_path, monkeypatch):
    interrupt(tmp_path)
    version = keras.__version__
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    with pytest.raises(ValueError, match=f"another run: keras '{version}' in the checkpoint and '3.99.0' now"):
        trained(accumulating, tmp_path)


def test_a_checkpoint_of_another_format_raises(tmp_path):
    interrupt(tmp_path)
    for marker in tmp_path.glob("*.json"):
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 1}))
    with pytest.raises(ValueError, match=r"written by keras_distill 0.1.0 .*: resume with that version, or delete the"):
        trained(accumulating, tmp_path)


def test_numbers_in_generated_names_may_differ(tmp_path):
    def unnamed():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
        return compiled(
            Distiller(student=model, teacher=mlp(name="teacher"), terms=[Term(KLDivergence())]),
            keras.optimizers.Adam(0.1),
        )

    def after_another():
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]).compile("adam", crossentropy())
        # The first model takes names, but must not take random numbers.
        keras.utils.set_random_seed(0)
        return unnamed()

    whole = trained(unnamed, tmp_path / "whole")
    interrupt(tmp_path / "broken", unnamed)
    assert_same(trained(after_another, tmp_path / "broken"), whole)


def test_a_setting_may_have_the_name_of_another_property_of_the_run():
    first, second = (
        {"seed": 0, "settings": {"seed": seed, "keras": "2"}, "versions": {"keras": "3"}} for seed in (1, 2)
    )
    assert runs.differences(first, second, "before", "now") == "seed 1 before and 2 now"
    assert runs.differences(first, first, "before", "now") == ""
