"""Every loss makes the same update on one replica and on several."""

import pytest

from tests.support.loss_models import LOSSES, distiller_with, images
from tests.support.replica_comparison import EXAMPLES, assert_same_on_replicas, from_logits

pytestmark = pytest.mark.replicas


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    # Its temperature of 0.07 magnifies rounding errors.
    tolerance = 3e-5 if name == "ContrastiveRepresentation" else 1e-5
    assert_same_on_replicas(lambda: distiller_with(name), images(EXAMPLES, name), tolerance, loss=from_logits)
