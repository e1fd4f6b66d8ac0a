"""Run the examples in the docstrings of keras_distill.pipelines."""

import doctest
import importlib
import pkgutil

import pytest

from keras_distill import cache, pipelines
from tests.support.helpers import features, mlp

pytestmark = pytest.mark.tfx

MODULES = sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"keras_distill.pipelines.{name}")
    names = {"teacher": mlp(name="teacher"), "x": features(32, 8), "open_cache": cache.open_cache}
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs=names):
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0, test.name


def test_public_names_have_examples():
    finder = doctest.DocTestFinder()
    with_examples = {
        test.name.rpartition(".")[2]
        for name in MODULES
        for test in finder.find(importlib.import_module(f"keras_distill.pipelines.{name}"))
        if test.examples
    }
    assert with_examples == {"Settings", "TeacherLabeller", "DistillationReport", "LabelWithTeacher"}
