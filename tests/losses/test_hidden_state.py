import numpy as np
import pytest

from keras_distill import Term
from keras_distill.data.batch import Batch
from keras_distill.heads import Projection
from keras_distill.losses import HiddenState
from keras_distill.losses.hidden_state import hidden_state
from keras_distill.models.specs import Spec
from tests.support.helpers import central_differences, features, value_and_gradient


def reference(student, teacher):
    """Equation 8 of the paper: the mean over tokens and channels."""
    squares = [[((s - t) ** 2).sum() / len(s) for s, t in zip(*example)] for example in zip(student, teacher)]
    return np.mean(squares)


def test_matches_the_paper():
    student, teacher = features(2, 4, 5), features(2, 4, 5, seed=1)
    value, gradient = value_and_gradient(lambda s: HiddenState().compare(s, teacher, Batch(None)), student)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-6)
    np.testing.assert_allclose(gradient, central_differences(lambda s: reference(s, teacher), student), atol=1e-7)


def test_known_value():
    loss = hidden_state(np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[1.0, 4.0], [0.0, 4.0]]]))
    np.testing.assert_allclose(loss, [[2.0, 4.5]])


def test_each_example_is_the_mean_over_its_tokens():
    student, teacher = features(2, 3, 4), np.zeros((2, 3, 4), "float32")
    weight = np.array([[1, 1, 0], [1, 1, 1]])
    loss = HiddenState().compare(student, teacher, Batch(None, position_weight=weight))
    np.testing.assert_allclose(loss, [(student[0, :2] ** 2).mean(), (student[1] ** 2).mean()], rtol=1e-6)


def test_takes_tokens_with_an_automatic_projection():
    term = Term(HiddenState(), "a", "b", head="auto", name="t")
    built = term.build(Spec((None, None, 4), "float32", "Add"), Spec((None, None, 8), "float32", "Add"))
    assert isinstance(built.head, Projection)
    with pytest.raises(ValueError, match="HiddenState compares activations of rank 3"):
        term.build(Spec((None, 4), "float32", "Add"), Spec((None, 4), "float32", "Add"))
