"""Knowledge distillation for Keras: a small student learns from a large teacher."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"keras_distill runs on Keras with TensorFlow, but Keras was started with {keras.backend.backend()}. "
        "Set KERAS_BACKEND=tensorflow before the first import of keras."
    )

from keras_distill import cache, compression, evaluation, heads, losses, mapping, schedules, teachers
from keras_distill.backup import Backup
from keras_distill.balance import Balance
from keras_distill.distiller import Distiller
from keras_distill.mutual import MutualDistiller
from keras_distill.saving import load_distiller
from keras_distill.taps import OUTPUT
from keras_distill.term import Term
from keras_distill.vocabulary import HiddenStates
