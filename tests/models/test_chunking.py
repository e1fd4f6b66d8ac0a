"""Functions of rows in chunks: values, gradients and the number of computations."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.models.chunking import in_chunks
from tests.support.helpers import features

ROWS, DIM = 7, 3
# Two chunks of 4 rows, the last of which is padded.
TOKENS = 5
SCALE = np.array([0.5, 0.0, 1.0, 0.25, 2.0, 1.0, 0.0], "float32")


def computed(upstream, scale, tokens=TOKENS):
    """Return the sum of `upstream * (row . weight)^2`, its gradients, and the number of chunks that were computed."""
    rows, weight, calls = tf.constant(features(len(upstream), DIM)), tf.constant(features(DIM, seed=1)), []

    def squares(rows, weights, _):
        calls.append(1)
        return tf.square(tf.linalg.matvec(rows, weights[0]))

    with tf.GradientTape() as tape:
        tape.watch([rows, weight])
        values = in_chunks(squares, rows, [weight], (), tokens, scale)
        total = tf.reduce_sum(values * upstream)
    return total, *tape.gradient(total, [rows, weight]), len(calls)


def expected(upstream):
    rows, weight = features(len(upstream), DIM).astype("float64"), features(DIM, seed=1).astype("float64")
    product = rows @ weight
    common = 2 * upstream * product
    return (upstream * product**2).sum(), common[:, None] * weight, common @ rows


@pytest.mark.parametrize("factor", [3.0, -0.1, 0.0])
def test_a_known_scale_saves_the_second_computation(factor):
    *results, chunks = computed(factor * SCALE, SCALE)
    for one, other in zip(results, expected(factor * SCALE), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert chunks == 2


@pytest.mark.parametrize("row", [0, 1, 4])
def test_another_upstream_gradient_is_computed_in_the_backward_pass(row):
    upstream = 3.0 * SCALE
    upstream[row] += 0.01
    *results, chunks = computed(upstream, SCALE)
    for one, other in zip(results, expected(upstream), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert chunks == 4


def test_upstream_gradients_that_are_not_finite_pass():
    upstream = 3.0 * SCALE
    upstream[2] = np.inf
    gradients = computed(upstream, SCALE)[1]
    assert np.isinf(gradients[2]).any() and np.isfinite(np.delete(gradients, 2, 0)).all()


@pytest.mark.parametrize("scale", [None, np.zeros(0, "float32")])
def test_no_rows(scale):
    total, of_rows, of_weight, _ = computed(np.zeros(0, "float32"), scale)
    assert total == 0 and of_rows.shape == (0, DIM) and not np.any(of_weight)
