"""What several tests need."""

import sys

import keras
import numpy as np
import tensorflow as tf


def features(*shape, seed=0, scale=1.0):
    """Normally distributed float32 numbers, the same ones for the same seed."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def value_and_gradient(function, x):
    """The mean of `function(x)` and its gradient, as NumPy arrays."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_mean(function(x))
    return value.numpy(), tape.gradient(value, x).numpy()


def central_differences(function, x, step=1e-5):
    """The gradient of a scalar NumPy function of `x`, in float64, one entry at a time."""
    x = np.array(x, "float64")
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        gradient[index] = (above - function(x)) / (2 * step)
        x[index] = kept
    return gradient


def mlp(width=8, classes=3, name="student", **options):
    """A dense network from 8 numbers to logits, with a layer called "features"."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, activation="relu", name="features", **options),
            keras.layers.Dense(classes, name="logits"),
        ],
        name=name,
    )


def data(examples=24, classes=3):
    """Inputs of shape `[examples, 8]` and class numbers."""
    return features(examples, 8), np.random.default_rng(1).integers(0, classes, examples)


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(distiller, optimizer=None, loss=None, **options):
    """The distiller, compiled with plain gradient descent and cross-entropy unless told otherwise."""
    distiller.compile(optimizer or keras.optimizers.SGD(0.1), loss or crossentropy(), **options)
    return distiller


def fitted(model, *arguments, epochs=1, batch_size=8, **options):
    """The history of a quiet, unshuffled fit: `{name: [value per epoch]}`."""
    options = {"shuffle": False, "verbose": 0, "epochs": epochs, "batch_size": batch_size} | options
    return model.fit(*arguments, **options).history


def softmax(logits, temperature=1.0):
    logits = np.asarray(logits, "float64") / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softened_kl(student, teacher, temperature):
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) of each row, in float64."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=-1)


def weights_of(model):
    return [weight.copy() for weight in model.get_weights()]


def assert_same_weights(first, second, **tolerance):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **({"rtol": 1e-5, "atol": 1e-7} | tolerance))


@keras.saving.register_keras_serializable("tests")
class Counter(keras.layers.Layer):
    """Lets everything through and counts how often it ran, in training and otherwise."""

    def build(self, shape):
        self.count = {
            training: self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name=str(training))
            for training in (True, False)
        }

    def call(self, inputs, training=False):
        self.count[bool(training)].assign_add(1)
        return inputs

    def counted(self):
        return int(self.count[True].numpy()), int(self.count[False].numpy())


def missing_package(patch, name):
    """As if a package were not installed that reports are drawn with.

    Args:
        patch: A `pytest.MonkeyPatch`, which undoes it.
        name: Of the package.
    """
    import keras_distill.report

    # What is imported meanwhile takes its place.
    patch.setattr(keras_distill, "report", keras_distill.report)
    for module in [module for module in sys.modules if module.startswith("keras_distill.report")]:
        patch.delitem(sys.modules, module)
    patch.setitem(sys.modules, name, None)
