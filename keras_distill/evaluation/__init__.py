"""What a student took over from its teacher; and, before that, what is likely to keep it from learning."""

from keras_distill.evaluation.agreement import Agreement
from keras_distill.evaluation.calibration import ExpectedCalibrationError
from keras_distill.evaluation.cka import CKA
from keras_distill.evaluation.divergence import Divergence
from keras_distill.evaluation.finding import Finding
from keras_distill.evaluation.preflight import check
from keras_distill.metric import DistillationMetric
