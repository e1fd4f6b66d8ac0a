import importlib
import json

import pytest

from keras_distill.pipelines.settings import Settings

pytestmark = pytest.mark.tfx


class Given:
    def __init__(self, custom_config):
        self.custom_config = custom_config


def test_settings_survive_what_a_pipeline_carries():
    settings = Settings(
        "tests.support.tfx_project:student",
        label="label",
        terms="tests.support.tfx_project:terms",
        taps=("output", "features"),
    )
    carried = json.loads(json.dumps({**settings.as_config(), "another": 1}))
    again = Settings.of(Given(carried))
    assert again.function("terms").__name__ == "terms"
    assert again.as_config() == settings.as_config()


def test_they_change_with_the_code_that_they_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "changing_project.py"
    path.write_text("def student(hp):\n    return 1\n")
    before = Settings("changing_project:student").as_config()
    assert Settings("changing_project:student").as_config() == before
    path.write_text("def student(hp):\n    return 2\n")
    importlib.import_module("changing_project")
    assert Settings("changing_project:student").as_config() != before


def test_they_name_the_versions():
    assert set(Settings("tests.support.tfx_project:student").as_config()["keras_distill"]["versions"]) == {
        "keras",
        "keras_distill",
        "tensorflow",
    }


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("tfx_project.student", "A function is named 'package.module:function'. Received: 'tfx_project.student'"),
        ("no_project:student", "`student` is not at 'no_project:student': No module named 'no_project'."),
        (
            "tests.support.tfx_project:studnet",
            "`student` is not at 'tests.support.tfx_project:studnet': module 'tests.support.tfx_project' has no attribute",
        ),
        (
            "tests.support.tfx_project:steps_before_the_stumble",
            "`student` must be a function. At 'tfx_project:steps_before_the_",
        ),
    ],
)
def test_functions_that_are_not_there(place, sentence):
    with pytest.raises(ValueError) as raised:
        Settings(place).as_config()
    assert sentence in str(raised.value)
