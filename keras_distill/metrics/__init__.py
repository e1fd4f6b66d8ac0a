"""Metrics of teacher-student similarity and of calibration."""

from keras_distill.metrics.acceptance import Acceptance
from keras_distill.metrics.agreement import Agreement
from keras_distill.metrics.base import DistillationMetric
from keras_distill.metrics.calibration import ExpectedCalibrationError
from keras_distill.metrics.cka import CKA
from keras_distill.metrics.divergence import TeacherDivergence
from keras_distill.metrics.mean import MeanMetric

__all__ = [
    "CKA",
    "Acceptance",
    "Agreement",
    "DistillationMetric",
    "ExpectedCalibrationError",
    "MeanMetric",
    "TeacherDivergence",
]
