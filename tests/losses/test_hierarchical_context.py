import numpy as np
import pytest

from keras_distill.data.batch import Batch
from keras_distill.losses import HierarchicalContext
from keras_distill.losses.hierarchical_context import hierarchical_context
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """Transcription of the authors' code: full size, then sizes 4, 2, 1 below the height, each at half the weight."""

    def pooled(maps, size):
        def bins(length):
            return [slice(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]

        rows, columns = bins(maps.shape[1]), bins(maps.shape[2])
        return np.array([[maps[:, r, c].mean(axis=(1, 2)) for c in columns] for r in rows])

    loss, scale, total = ((student - teacher) ** 2).mean(), 1.0, 1.0
    for size in [size for size in (4, 2, 1) if size < student.shape[1]]:
        scale /= 2
        loss += scale * ((pooled(student, size) - pooled(teacher, size)) ** 2).mean()
        total += scale
    return loss / total


@pytest.mark.parametrize("shape", [(2, 5, 7, 2), (2, 4, 3, 2), (2, 1, 5, 2)])
def test_matches_the_authors_code(shape):
    student, teacher = features(*shape), features(*shape, seed=1)
    value, gradient = value_and_gradient(lambda s: hierarchical_context(s, teacher), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # 2x2, differences 1, 3, 1, 3: mean square 5 at full size, 4 of the mean; weights 1 and 1/2.
    student = np.array([1.0, 3.0, 1.0, 3.0], "float32").reshape(1, 2, 2, 1)
    np.testing.assert_allclose(hierarchical_context(student, 0 * student), [(5 + 4 / 2) / 1.5])


def test_positions_of_weight_0_are_excluded_at_every_size():
    student, teacher = features(2, 5, 6, 3), features(2, 5, 6, 3, seed=1)
    weight = np.ones((2, 5, 6), "float32")
    np.testing.assert_allclose(
        hierarchical_context(student, teacher, weight), hierarchical_context(student, teacher), rtol=1e-6
    )
    weight[:, 3:, 1:] = 0
    other = np.where(weight[..., None] > 0, student, 1e3)
    loss = hierarchical_context(student, teacher, weight)
    np.testing.assert_allclose(hierarchical_context(other, teacher, weight), loss, rtol=1e-6)
    assert np.all(loss != hierarchical_context(student, teacher))


def test_losses_of_levels_are_summed():
    shapes = (2, 8, 6, 3), (2, 4, 3, 2)
    student, teacher = (tuple(features(*shape, seed=s) for shape in shapes) for s in (0, 1))
    loss = HierarchicalContext()
    loss.build(*[tuple((None, *shape[1:]) for shape in shapes)] * 2)
    values = loss.compare(student, teacher, Batch(None))
    np.testing.assert_allclose(np.mean(values), sum(map(reference, student, teacher)), rtol=1e-5)
    # Weights of the first level's positions do not apply to the other level.
    weight = np.concatenate([np.ones((2, 4, 6)), np.zeros((2, 4, 6))], axis=1)
    values = loss.compare(student, teacher, Batch(None, position_weight=weight))
    first = hierarchical_context(student[0], teacher[0], weight)
    np.testing.assert_allclose(values, first + hierarchical_context(student[1], teacher[1]), rtol=1e-5)


def test_levels_of_different_shapes_cannot_be_compared():
    large, small = (None, 8, 8, 3), (None, 4, 4, 3)
    comparable = HierarchicalContext().comparable
    assert comparable((large, small), (large, small))
    assert not comparable((large, small), (small, large)) and not comparable((large, small), (large,))
