"""The teacher of all checks."""

import keras
import pytest

from tests.support.checked_models import clusters, network
from tests.support.helpers import crossentropy


@pytest.fixture(scope="module")
def teacher():
    """A network trained on the clusters."""
    keras.utils.set_random_seed(1)
    model = network(16, "teacher")
    model.compile(keras.optimizers.Adam(0.01), crossentropy())
    model.fit(*clusters(), epochs=8, verbose=0)
    return model
