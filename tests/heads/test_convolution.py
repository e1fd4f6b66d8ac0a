import re

import numpy as np
import pytest

from keras_distill.heads import Convolution
from tests.support.helpers import features


def built(student, teacher, **settings):
    head = Convolution(**settings)
    head.build(student, teacher)
    return head


def test_is_a_matrix_product_at_each_position():
    head = built((None, 4, 5, 3), (None, 4, 5, 7))
    kernel, bias = features(3, 7), features(7, seed=1)
    head.set_weights([kernel[None, None], bias])
    student = features(2, 4, 5, 3, seed=2)
    np.testing.assert_allclose(head(student), student @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_doubles_a_line_by_interpolation():
    head = built((None, 1, 2, 1), (None, 1, 4, 1))
    head.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    # Pixel centers of the four are at -1/4, 1/4, 3/4, 5/4 of the two; outside, the edge repeats.
    np.testing.assert_allclose(head(np.array([[[[0.0], [4.0]]]]))[0, 0, :, 0], [0.0, 1.0, 3.0, 4.0])


@pytest.mark.parametrize("size", [(2, 9), (4, 5), (8, 3)])
def test_a_constant_map_stays_constant_at_any_size(size):
    head = built((None, 4, 5, 3), (None, *size, 7))
    maps = np.asarray(head(np.ones((2, 4, 5, 3))))
    assert maps.shape == (2, *size, 7)
    np.testing.assert_allclose(maps, np.broadcast_to(maps[:, :1, :1], maps.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [((None, None), (4, 4)), ((4, 4), (None, None)), ((None, 4), (8, 8))])
def test_an_unknown_size_is_assumed_to_be_the_teachers(sizes):
    student, teacher = sizes
    head = built((None, *student, 3), (None, *teacher, 7))
    assert head(np.ones((2, 4, 4, 3))).shape == (2, 4, 4, 7)


def test_a_larger_kernel_reads_the_neighbors_and_keeps_the_size():
    head = built((None, 3, 3, 1), (None, 3, 3, 1), kernel_size=3, use_bias=False, kernel_initializer="ones")
    corner = np.zeros((1, 3, 3, 1))
    corner[0, 0, 0] = 1
    np.testing.assert_array_equal(head(corner)[0, :, :, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert len(head.trainable_weights) == 1


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((None, 3), (None, 7)), ((None, 4, 4, 3), (None, 16, 7)), ((None, 4, 4, None), (None, 4, 4, 7))],
)
def test_other_shapes_raise(student, teacher):
    shapes = f"student shape {student}, teacher shape {teacher}"
    with pytest.raises(ValueError, match=f"{re.escape(shapes)}$"):
        Convolution().build(student, teacher)
