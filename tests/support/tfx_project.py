"""User project for the pipeline tests: models and terms for eight numeric features and three classes."""

import keras
import tensorflow as tf

from keras_distill import Term
from keras_distill.losses import Hint, KLDivergence
from tests.support.helpers import crossentropy, mlp


def teacher(hp):
    return mlp(width=16, name="teacher")


def student(hp):
    return mlp(width=hp.Int("width", 3, 6, default=4))


def terms(hp):
    return [*kl_term(hp), Term(Hint(), "features", "features", head="auto", weight=0.1)]


def output_term(hp):
    return [Term(KLDivergence(2.0))]


def kl_term(hp):
    return [Term(KLDivergence(hp.Float("temperature", 1.0, 4.0, default=2.0)))]


def several_teachers(hp):
    return [
        Term(KLDivergence(2.0), name="first"),
        Term(KLDivergence(2.0), teacher="half/output", name="half"),
        Term(KLDivergence(2.0), teacher="top/output", name="top"),
    ]


def two_inputs(hp):
    inputs = {name: keras.Input((4,), name=name) for name in ("low", "high")}
    joined = keras.layers.Concatenate()([inputs["low"], inputs["high"]])
    return keras.Model(inputs, keras.layers.Dense(3)(joined))


def split_features(features):
    return {"low": features["x"][:, :4], "high": features["x"][:, 4:]}


def halve(features):
    """Preprocess the features."""
    return features["x"] / 2


def compile_with_sgd(model, hp):
    model.compile(keras.optimizers.SGD(0.01), crossentropy(), metrics=["accuracy"])


def compile_with_overflow(model, hp):
    model.compile(keras.optimizers.SGD(1e30), crossentropy())


def compile_with_failure(model, hp):
    """Compile a model whose training fails after `steps_before_failure[0]` steps, once in this process."""

    def failing_metric(labels, outputs):
        return tf.ensure_shape(tf.numpy_function(_fail, [outputs], tf.float32), [None])

    model.compile("adam", crossentropy(), metrics=[failing_metric])


def two_devices():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


steps_before_failure = [-1]


def _fail(outputs):
    steps_before_failure[0] -= 1
    if steps_before_failure[0] == 0:
        raise RuntimeError("training failed")
    return outputs.sum(-1)
