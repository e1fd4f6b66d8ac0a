import numpy as np
import pytest

from keras_distill.metrics import AcceptedLength
from keras_distill.metrics.accepted_length import accepted_length
from tests.support.helpers import features, softmax


def reference(student, teacher, k, weight, temperature=1.0):
    rates = np.minimum(softmax(student, temperature), softmax(teacher, temperature)).sum(axis=-1)
    lengths, weights = [], []
    for row, counted in zip(rates, weight, strict=True):
        for start in range(len(row) - k + 1):
            if all(counted[start : start + k]):
                lengths.append(sum(np.prod(row[start : start + size]) for size in range(1, k + 1)))
                weights.append(counted[start])
    return np.average(lengths, weights=weights)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_matches_the_definition(k, temperature):
    student, teacher = features(3, 6, 5, scale=2), features(3, 6, 5, seed=1, scale=2)
    metric = AcceptedLength(k, temperature)
    for rows in (slice(0, 1), slice(1, None)):
        metric.update_state(student[rows], teacher[rows])
    np.testing.assert_allclose(metric.result(), reference(student, teacher, k, np.ones((3, 6)), temperature), rtol=1e-5)


def test_drafts_across_padding_do_not_count():
    student, teacher = features(3, 6, 5), features(3, 6, 5, seed=1)
    weight = np.array([[1, 1, 1, 1, 0, 0], [2, 1, 0, 1, 3, 1], [0, 1, 0, 1, 0, 1]], "float32")
    student[0, 4:] = np.nan
    metric = AcceptedLength(2)
    metric.update_state(student, teacher, sample_weight=weight)
    np.testing.assert_allclose(metric.result(), reference(np.nan_to_num(student), teacher, 2, weight), rtol=1e-5)


def test_equal_rates_give_a_geometric_sum():
    np.testing.assert_allclose(accepted_length(np.full((1, 5), 0.5, "float32"), 3)[0, :3], [0.875] * 3)


def test_texts_shorter_than_a_draft_do_not_count():
    metric = AcceptedLength(4)
    metric.update_state(features(2, 3, 5), features(2, 3, 5, seed=1))
    assert metric.result() == 0


def test_rejects_invalid_arguments_and_shapes():
    with pytest.raises(ValueError, match="`k` must be an integer >= 1. Received: 0"):
        AcceptedLength(0)
    with pytest.raises(ValueError, match=r"needs the logits of a sequence, shape \[batch, tokens, classes\]"):
        AcceptedLength().update_state(features(3, 5), features(3, 5))
