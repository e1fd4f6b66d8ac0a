"""Every loss makes the same update on one replica and on several."""

import pytest

from tests.support.alike import EXAMPLES, assert_alike, from_logits
from tests.support.every_loss import LOSSES, distiller_with, pictures

pytestmark = pytest.mark.replicas


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    assert_alike(lambda: distiller_with(name), pictures(EXAMPLES, name), loss=from_logits)
