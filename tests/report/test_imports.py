"""Packages that the report needs."""

import sys

import pytest

from tests.support.helpers import missing_package


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_error_names_the_packages_to_install(monkeypatch, missing):
    missing_package(monkeypatch, missing)
    # The module that imports matplotlib itself; the others import its submodules, which are already loaded.
    monkeypatch.delitem(sys.modules, "keras_distill.utils.drawing", raising=False)
    with pytest.raises(ImportError, match=f"{missing}.*pip install matplotlib jinja2"):
        from keras_distill.report import write_page  # noqa: F401
