"""Runs and results of one model of an experiment."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_distill.experiment.latency import Latency


@dataclasses.dataclass
class Run:
    """One training run of one model.

    Args:
        seed: Seed of the run.
        score: Score on the evaluation split, such as an accuracy, 0 to 1.
        history: `{name: [value per epoch]}` as in `keras.callbacks.History`. Defaults to empty, for a model that was
            trained elsewhere.
        agreement: Score with the teacher's predictions as labels. Defaults to None, not measured.
        per_class: Score of each class; NaN where it is undefined. Defaults to None, not recorded.
        confusion: Confusion matrix, counts `[true class][predicted class]`. Defaults to None, not recorded.
        file: Path of the trained model, relative to the folder of the results. Defaults to None, trained elsewhere.

    Example:

    >>> from keras_distill.experiment import Run
    >>> run = Run(seed=0, score=0.957)
    """

    seed: int
    score: float
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    agreement: float | None = None
    per_class: list[float] | None = None
    confusion: list[list[int]] | None = None
    file: str | None = None


@dataclasses.dataclass
class ModelResult:
    """One model of the comparison with its runs.

    Args:
        name: Short name for tables and figures, such as "distilled".
        role: "teacher", "baseline" (a student trained without a teacher) or "distilled".
        parameters: Number of weights. None if unknown, such as for a teacher that is not a Keras model.
        runs: List of `Run`, at least one.
        latency: `Latency` of a prediction. Defaults to None, not measured.
        baselines: Names of the models that a distilled model is compared with; the teacher-student gap refers to the
            first. Defaults to none.
        bytes: Size of the saved model in bytes. Defaults to None, not saved.

    Example:

    >>> from keras_distill.experiment import ModelResult, Run
    >>> model = ModelResult("distilled", "distilled", 31_415, [Run(0, 0.957), Run(1, 0.955)])
    >>> round(model.mean(), 4)
    0.956
    """

    name: str
    role: str
    parameters: int | None
    runs: list[Run]
    latency: Latency | None = None
    baselines: Sequence[str] = ()
    bytes: int | None = None

    def __post_init__(self):
        # A list, as JSON returns it, so that loaded results equal the saved ones.
        self.baselines = list(self.baselines)

    def mean(self, field: str = "score") -> float:
        """Return the mean over the runs.

        Args:
            field: "score" or "agreement". Defaults to "score".
        """
        return float(np.mean([getattr(run, field) for run in self.runs]))

    def spread(self, field: str = "score") -> float | None:
        """Return the sample standard deviation over the runs; None for one run.

        Args:
            field: "score" or "agreement". Defaults to "score".
        """
        return float(np.std([getattr(run, field) for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    def confusion(self) -> np.ndarray | None:
        """Return the sum of the runs' confusion matrices, shape `[classes, classes]`; None unless every run has one."""
        confusions = [run.confusion for run in self.runs]
        return None if any(confusion is None for confusion in confusions) else np.sum(confusions, axis=0)

    def per_class(self) -> np.ndarray | None:
        """Return the mean over the runs of the score of each class, shape `[classes]`; None unless every run has it."""
        values = [run.per_class for run in self.runs]
        return None if any(each is None for each in values) else np.mean(np.array(values, float), axis=0)
