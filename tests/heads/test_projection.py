import re

import keras
import numpy as np
import pytest

from keras_distill.heads import Projection
from tests.support.helpers import features


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)])
def test_is_a_matrix_product_along_the_last_axis(shape):
    head = Projection()
    head.build((None, *shape[1:]), (None, *shape[1:-1], 7))
    kernel, bias = features(3, 7), features(7, seed=1)
    head.set_weights([kernel, bias])
    student = features(*shape, seed=2)
    np.testing.assert_allclose(head(student), student @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_without_bias_zero_stays_zero():
    head = Projection(use_bias=False)
    head.build((None, 3), (None, 7))
    assert [tuple(w.shape) for w in head.trainable_weights] == [(3, 7)]
    np.testing.assert_array_equal(head(np.zeros((2, 3))), np.zeros((2, 7)))


def test_starts_from_the_initializer_it_was_given():
    head = Projection(kernel_initializer=keras.initializers.Constant(0.5))
    head.build((None, 3), (None, 7))
    np.testing.assert_array_equal(head(np.ones((1, 3))), np.full((1, 7), 1.5))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((None, 4, 4, 3), (None, 4, 4, 7)), ((None, 3), (None, 5, 7)), ((None, 3), (None, None)), ((None,), (None,))],
)
def test_other_shapes_raise(student, teacher):
    shapes = f"student shape {student}, teacher shape {teacher}"
    with pytest.raises(ValueError, match=f"{re.escape(shapes)}$"):
        Projection().build(student, teacher)
