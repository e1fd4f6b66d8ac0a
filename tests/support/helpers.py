"""Helpers shared by several tests."""

import sys

import keras
import numpy as np
import tensorflow as tf


def features(*shape, seed=0, scale=1.0):
    """Return normally distributed float32 numbers, reproducible by seed."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def value_and_gradient(function, x):
    """Return the mean of `function(x)` and its gradient, as NumPy arrays."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_mean(function(x))
    return value.numpy(), tape.gradient(value, x).numpy()


def central_differences(function, x, step=1e-5):
    """Return the gradient of a scalar NumPy function of `x` by central differences in float64."""
    x = np.array(x, "float64")
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        value = x[index]
        x[index] = value + step
        above = function(x)
        x[index] = value - step
        gradient[index] = (above - function(x)) / (2 * step)
        x[index] = value
    return gradient


def mlp(width=8, classes=3, name="student", **options):
    """Return a dense model of 8 inputs with the layers "features" and "logits"."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, activation="relu", name="features", **options),
            keras.layers.Dense(classes, name="logits"),
        ],
        name=name,
    )


def data(examples=24, classes=3):
    """Return inputs of shape `[examples, 8]` and class indices."""
    return features(examples, 8), np.random.default_rng(1).integers(0, classes, examples)


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(distiller, optimizer=None, loss=None, **options):
    """Compile and return the distiller, by default with SGD and cross-entropy."""
    distiller.compile(optimizer or keras.optimizers.SGD(0.1), loss or crossentropy(), **options)
    return distiller


def zero_rate_sgd():
    """Return SGD with a learning rate of 0: `fit` logs losses without changing weights."""
    return keras.optimizers.SGD(0.0)


def fitted(model, *arguments, epochs=1, batch_size=8, **options):
    """Fit silently without shuffling and return the history, `{name: [value per epoch]}`."""
    options = {"shuffle": False, "verbose": 0, "epochs": epochs, "batch_size": batch_size} | options
    return model.fit(*arguments, **options).history


def softmax(logits, temperature=1.0):
    logits = np.asarray(logits, "float64") / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softened_kl(student, teacher, temperature):
    """Return T^2 KL(softmax(z_t / T) || softmax(z_s / T)) of each row, in float64."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=-1)


def weights_of(model):
    return [weight.copy() for weight in model.get_weights()]


def assert_same_weights(first, second, **tolerance):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **({"rtol": 1e-5, "atol": 1e-7} | tolerance))


@keras.saving.register_keras_serializable("tests")
class Counter(keras.layers.Layer):
    """Identity layer that counts its calls in training and in inference."""

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


PLOTTING = ("keras_distill.report", "keras_distill.utils.drawing", "keras_distill.utils.soft_targets")


def missing_package(monkeypatch, name):
    """Simulate that an optional package of `keras_distill.report` is not installed.

    Args:
        monkeypatch: A `pytest.MonkeyPatch`, which restores the modules.
        name: Name of the package.
    """
    import keras_distill.report

    # The patch records this attribute, because importing the modules again replaces it.
    monkeypatch.setattr(keras_distill, "report", keras_distill.report)
    for module in [module for module in sys.modules if module.startswith(PLOTTING)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
