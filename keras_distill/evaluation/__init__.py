"""What a student took over from its teacher."""

from keras_distill.evaluation.agreement import Agreement
from keras_distill.evaluation.calibration import ExpectedCalibrationError
from keras_distill.evaluation.cka import CKA
from keras_distill.evaluation.divergence import Divergence
