"""Metrics of teacher-student similarity, of language models and of calibration."""

from keras_distill.metrics.acceptance import Acceptance
from keras_distill.metrics.accepted_length import AcceptedLength
from keras_distill.metrics.agreement import Agreement
from keras_distill.metrics.base import DistillationMetric
from keras_distill.metrics.calibration import ExpectedCalibrationError
from keras_distill.metrics.chunked import ChunkedMetric
from keras_distill.metrics.cka import CKA
from keras_distill.metrics.divergence import TeacherDivergence
from keras_distill.metrics.mean import MeanMetric
from keras_distill.metrics.perplexity import Perplexity

__all__ = [
    "CKA",
    "Acceptance",
    "AcceptedLength",
    "Agreement",
    "ChunkedMetric",
    "DistillationMetric",
    "ExpectedCalibrationError",
    "MeanMetric",
    "Perplexity",
    "TeacherDivergence",
]
