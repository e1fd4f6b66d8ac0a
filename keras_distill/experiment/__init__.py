"""Experiments: one way to train, evaluate and compare students, for every task."""

from keras_distill.experiment.arm import Arm
from keras_distill.experiment.classification import Classification, MultiLabelClassification
from keras_distill.experiment.data import Data
from keras_distill.experiment.example import Example
from keras_distill.experiment.features import LinearProbe, Retrieval
from keras_distill.experiment.language_modeling import LanguageModeling
from keras_distill.experiment.latency import Latency, measure_latencies
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.picture import Picture
from keras_distill.experiment.regression import Regression
from keras_distill.experiment.results import Results
from keras_distill.experiment.run import Experiment
from keras_distill.experiment.score import Score
from keras_distill.experiment.segmentation import Segmentation
from keras_distill.experiment.statistics import Comparison, bootstrap, compare
from keras_distill.experiment.task import Task
from keras_distill.experiment.tuned import TunedArm, tuned_objective

__all__ = [
    "Arm",
    "Classification",
    "Comparison",
    "Data",
    "Example",
    "Experiment",
    "LanguageModeling",
    "Latency",
    "LinearProbe",
    "ModelResult",
    "MultiLabelClassification",
    "Picture",
    "Regression",
    "Results",
    "Retrieval",
    "Run",
    "Score",
    "Segmentation",
    "Task",
    "TunedArm",
    "bootstrap",
    "compare",
    "measure_latencies",
    "tuned_objective",
]
