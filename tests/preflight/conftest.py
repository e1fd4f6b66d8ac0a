"""A teacher for all checks."""

import keras
import pytest

from tests.support.helpers import crossentropy
from tests.support.sound import clusters, network


@pytest.fixture(scope="module")
def teacher():
    """A network that knows the clusters."""
    keras.utils.set_random_seed(1)
    model = network(16, "teacher")
    model.compile(keras.optimizers.Adam(0.01), crossentropy())
    model.fit(*clusters(), epochs=8, verbose=0)
    return model
