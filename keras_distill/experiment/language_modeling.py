"""Language modeling."""

from typing import Any

import numpy as np

from keras_distill.experiment.position_task import PositionTask
from keras_distill.experiment.score import Score


class LanguageModeling(PositionTask):
    """Prediction of the next token. The score is the perplexity; lower is better.

    Models end in logits or in a softmax, shape `[texts, tokens, words]`. Labels are the next tokens, shape
    `[texts, tokens]`; -1 marks those that count neither in the supervised loss nor in the score, such as padding and
    the tokens of a prompt. The terms leave them out where the sample weight is 0, as from `language.completions`. The
    agreement with the teacher is the fraction of all positions with the same most probable token.

    Args:
        ignore_class: Index of a further token that does not count, such as that of the padding. Defaults to None.

    Example:

    >>> from keras_distill.experiment import LanguageModeling
    >>> outputs = np.log([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]])
    >>> round(LanguageModeling().evaluate(outputs, np.array([[0, -1]])), 6)
    2.0
    """

    score = Score("perplexity", higher_is_better=False, percent=False)

    def records(self, outputs: Any, labels: Any) -> np.ndarray:
        """Return the sum of -log p over the tokens that count, and their number, shape `[texts, 2]`."""
        outputs, labels = np.asarray(outputs), np.asarray(labels)
        labels = labels.reshape(outputs.shape[:-1])
        counted = self.counted(labels)
        sums = [_nats(logits[which], tokens[which]).sum() for logits, tokens, which in zip(outputs, labels, counted)]
        return np.stack([np.array(sums), counted.reshape(len(counted), -1).sum(axis=1)], axis=1)

    def score_of(self, records: Any) -> float:
        total, count = np.sum(records, axis=0)
        return float(np.exp(total / count)) if count else float("nan")

    def agreement(self, outputs: Any, teacher_outputs: Any) -> float:
        return float(np.mean(self.as_labels(outputs) == self.as_labels(teacher_outputs)))


def _nats(logits, tokens):
    """Return -log p of tokens, for one text at a time to save memory."""
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
