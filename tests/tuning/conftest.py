"""Fixture of the searches in this folder."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def freeze_garbage_collection():
    """Exclude existing objects from garbage collection, which KerasTuner runs before every trial."""
    gc.freeze()
    yield
    gc.unfreeze()
