"""`Settings` of TFX nodes: serialization, and errors of invalid values."""

import importlib
import json
import re

import pytest

from keras_distill.pipelines.settings import Settings

pytestmark = pytest.mark.tfx


class FakeFnArgs:
    def __init__(self, custom_config):
        self.custom_config = custom_config


def test_settings_survive_a_round_trip_through_json():
    settings = Settings(
        "tests.support.tfx_project:student",
        label="label",
        terms="tests.support.tfx_project:terms",
        taps=("output", "features"),
    )
    config = json.loads(json.dumps({**settings.as_config(), "another": 1}))
    restored = Settings.from_fn_args(FakeFnArgs(config))
    assert restored.resolve("terms").__name__ == "terms"
    assert restored.as_config() == settings.as_config()


def test_config_changes_with_the_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "changing_project.py"
    path.write_text("def student(hp):\n    return 1\n")
    before = Settings("changing_project:student").as_config()
    assert Settings("changing_project:student").as_config() == before
    path.write_text("def student(hp):\n    return 2\n")
    importlib.import_module("changing_project")
    assert Settings("changing_project:student").as_config() != before


def test_config_contains_the_versions():
    assert set(Settings("tests.support.tfx_project:student").as_config()["keras_distill"]["versions"]) == {
        "keras",
        "keras_distill",
        "tensorflow",
    }


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "tfx_project.student",
            "A function must be given as 'package.module:function'. Received: 'tfx_project.student'",
        ),
        (
            "no_project:student",
            "`model` could not be imported from 'no_project:student': No module named 'no_project'.",
        ),
        (
            "tests.support.tfx_project:studnet",
            "`model` could not be imported from 'tests.support.tfx_project:studnet': module "
            "'tests.support.tfx_project' has no attribute",
        ),
        (
            "tests.support.tfx_project:steps_before_failure",
            "`model` must be a function, but 'tests.support.tfx_project:steps_before_failure' is not callable. "
            "Received: [",
        ),
    ],
)
def test_invalid_references_raise(reference, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings(reference).as_config()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "`epochs` must be an integer >= 1. Received: 0"),
        ("batch_size", 0.5, "`batch_size` must be an integer >= 1. Received: 0.5"),
        ("shuffle_buffer", 0, "`shuffle_buffer` must be an integer >= 1. Received: 0"),
        ("max_trials", 0, "`max_trials` must be an integer >= 1. Received: 0"),
        ("seed", -1, "`seed` must be an integer >= 0. Received: -1"),
        ("backup_every", 0, "`backup_every` must be an integer >= 1 or None. Received: 0"),
        ("supervised_weight", -0.1, "`supervised_weight` must be a finite number >= 0. Received: -0.1"),
    ],
)
def test_numbers_out_of_range_raise(name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings("tests.support.tfx_project:student", **{name: value})
