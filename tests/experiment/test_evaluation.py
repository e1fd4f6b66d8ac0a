"""Evaluation of models on one split."""

import numpy as np
import pytest

from keras_distill.experiment import Classification, LanguageModeling
from keras_distill.experiment.evaluation import Evaluator


def outputs(num_correct, count=500):
    """Return logits of which the first ones predict the class 1, which all examples have."""
    return np.where((np.arange(count) < num_correct)[:, None], [0.0, 1.0], [1.0, 0.0])


@pytest.mark.parametrize(("after", "expected"), [(493, False), (492, False), (400, True), (500, False)])
def test_a_loss_within_the_chance_of_the_examples_is_not_reported(after, expected):
    evaluator = Evaluator(Classification(), np.ones(500, int), None)
    assert evaluator.clearly_worse(*map(evaluator.evaluate, (outputs(after), outputs(493)))) == expected


def test_labeled_examples_count_for_the_score_and_all_for_the_agreement():
    labels = np.array([1, 1, -1, -1])
    evaluator = Evaluator(Classification(), labels, outputs(4, 4))
    evaluation = evaluator.evaluate(outputs(1, 4))
    assert (evaluation.score, evaluation.agreement, evaluator.num_examples) == (0.5, 0.25, 2)
    with pytest.raises(ValueError, match="No example of the evaluation split has a label"):
        Evaluator(Classification(), np.array([-1, -1]), None)


def test_an_evaluation_does_not_grow_with_the_vocabulary():
    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 4, 1000)).astype("float32")
    evaluator = Evaluator(LanguageModeling(), np.ones((3, 4), int), teacher)
    evaluation = evaluator.evaluate(student)
    arrays = [value for value in evaluation if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 100 and all(array.base is None for array in arrays)
