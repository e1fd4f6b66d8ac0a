"""Teachers: sources of the activations that a student is compared with."""

from keras_distill.data.batch import with_activations, with_index
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.cached import CachedTeacher
from keras_distill.teachers.conversion import as_teacher
from keras_distill.teachers.ema import EMATeacher
from keras_distill.teachers.ensemble import Ensemble, most_confident
from keras_distill.teachers.model import ModelTeacher
from keras_distill.teachers.numpy_teacher import NumPyTeacher
from keras_distill.teachers.paraphrased import ParaphrasedTeacher
from keras_distill.teachers.paraphraser import Paraphraser

__all__ = [
    "CachedTeacher",
    "EMATeacher",
    "Ensemble",
    "ModelTeacher",
    "NumPyTeacher",
    "ParaphrasedTeacher",
    "Paraphraser",
    "Teacher",
    "as_teacher",
    "most_confident",
    "with_activations",
    "with_index",
]
