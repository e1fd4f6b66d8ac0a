"""Evaluation of models on one split."""

import numpy as np
import pytest

from keras_distill.experiment import Classification
from keras_distill.experiment.evaluation import Evaluator


def outputs(num_correct, count=500):
    """Return logits of which the first ones predict the class 1, which all examples have."""
    return np.where((np.arange(count) < num_correct)[:, None], [0.0, 1.0], [1.0, 0.0])


@pytest.mark.parametrize(("after", "expected"), [(493, False), (492, False), (400, True), (500, False)])
def test_a_loss_within_the_chance_of_the_examples_is_not_reported(after, expected):
    evaluator = Evaluator(Classification(), np.ones(500, int), None)
    assert evaluator.clearly_worse(outputs(after), outputs(493)) == expected


def test_labeled_examples_count_for_the_score_and_all_for_the_agreement():
    labels = np.array([1, 1, -1, -1])
    evaluator = Evaluator(Classification(), labels, outputs(4, 4))
    run = evaluator.run(0, outputs(1, 4), {})
    assert (run.score, run.agreement, evaluator.num_examples) == (0.5, 0.25, 2)
    with pytest.raises(ValueError, match="No example of the evaluation split has a label"):
        Evaluator(Classification(), np.array([-1, -1]), None)
