"""Fashion-MNIST: a convolutional network becomes a file for a small device, step by step.

A teacher with residual blocks teaches a narrower student; the blocks of each of the student's stages then share one
set of weights; and the shared student is distilled once more while it rounds weights and activations to 8 bits, as the
device will. Beside that, the same student is distilled for as long without rounding, and rounded afterwards
(post-training quantization), so that the two differ in nothing else.

Run:    python -m recipes.fashion_mnist_edge --originals=FOLDER --seeds=2
Expect: files, accuracy on the 10,000 test pictures as each file gives it (mean and sample standard deviation over 2
        seeds, the teacher 1), bytes, milliseconds of one prediction on one thread (median):

        teacher            LiteRT, floats    92.01 %            1,045 kB             0.355
        student alone      LiteRT, floats    91.12 +- 0.21 %      167 kB    6.3x     0.067
        student distilled  LiteRT, floats    90.82 +- 0.16 %      167 kB    6.3x     0.067
        student shared     LiteRT, floats    90.80 +- 0.08 %      167 kB    6.3x     0.067
        shared, longer     LiteRT, floats    90.95 +- 0.15 %      167 kB    6.3x     0.075
        shared, longer     LiteRT, 8 bits    90.98 +- 0.02 %     39.7 kB   26.3x     0.036
        shared, 8 bits     LiteRT, 8 bits    90.96 +- 0.01 %     30.4 kB   34.4x     0.035

        The file is 34 times smaller than the teacher's and ten times as fast, for 1.05 points of accuracy; the aim was
        less than 1. With all labels and so few epochs distillation gains nothing over the labels alone. Learning to
        round is as accurate as rounding afterwards, and its kernels stay the same integers in all blocks that share
        them, which makes the file 23 % smaller.
Time:   an hour on 2 cores of an AMD EPYC, shared with other work
References:
    Polino et al., ICLR 2018, https://arxiv.org/abs/1802.05668 (quantised students)
    Lan et al., ICLR 2020, https://arxiv.org/abs/1909.11942 (shared weights)
    Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877 (8 bits)
"""

import keras
from absl import flags

from keras_distill import Term
from keras_distill.compression import quantized, share
from keras_distill.losses import KullbackLeibler
from recipes import common, comparison, data

WIDTH = flags.DEFINE_integer("width", 16, "Channels of the student's first stage.", lower_bound=1)
LAST_EPOCHS = flags.DEFINE_integer("last_epochs", 5, "Epochs with rounding, and as many without.", lower_bound=1)
LAST_RATE = flags.DEFINE_float("last_learning_rate", 1e-3, "Their learning rate.", lower_bound=1e-9)
CALIBRATION = 500

common.defaults(temperature=4.0, alpha=0.1, epochs=10, teacher_epochs=12, seeds=3, learning_rate=2e-3)

FILES = {
    "teacher": ["litert_float32", "saved_model"],
    "student alone": ["litert_float32"],
    "student distilled": ["litert_float32"],
    "student shared": ["litert_float32"],
    "shared, longer": ["litert_float32", "litert_int8"],
    "shared, 8 bits": ["litert_int8"],
}


def network(width, blocks, name, dropout=0.0):
    """Two stages of residual blocks, at 14x14 and 7x7 pixels."""
    layers = keras.layers

    def convolution(x, channels, stride, label):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, name=label)(x)
        return layers.ReLU(name=f"{label}_relu")(layers.BatchNormalization(name=f"{label}_bn")(x))

    pictures = keras.Input((28, 28, 1))
    x = pictures
    for stage in range(2):
        channels = width * 2**stage
        x = convolution(x, channels, 2, f"stage_{stage}")
        for block in range(blocks):
            label = f"stage_{stage}_block_{block}"
            x = layers.Add(name=f"{label}_sum")([x, convolution(x, channels, 1, label)])
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pictures, layers.Dense(10, name="logits")(x), name=name)


def teacher():
    return network(64, 1, "teacher", dropout=0.3)


def student():
    return network(WIDTH.value, 3, "student")


def shared(model):
    """The student with one convolution for all blocks of a stage; each block keeps its own normalisation."""
    for stage in range(2):
        model = share(model, [f"stage_{stage}_block_{block}" for block in range(3)])
    return model


def terms():
    return [Term(KullbackLeibler(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)]


def recipe():
    pictures = data.fashion_mnist()
    calibration = pictures.train[0][:CALIBRATION]

    def distilled(name, model, start=None, **settings):
        return comparison.Student(name, model, lambda _: terms(), "student alone", start=start, settings=settings)

    last = {"epochs": LAST_EPOCHS.value, "learning_rate": LAST_RATE.value}
    comparison.compare(
        "Fashion-MNIST: a file for a small device",
        "A convolutional network of 64 to 128 channels with residual blocks teaches a narrower one, whose blocks then "
        "share their weights, and which learns to compute in 8 bits.",
        pictures,
        teacher,
        [
            comparison.Student("student alone", lambda _: student()),
            distilled("student distilled", lambda _: student()),
            distilled("student shared", shared, "student distilled"),
            distilled("shared, longer", lambda model: model, "student shared", **last),
            distilled("shared, 8 bits", lambda model: quantized(model, calibration), "student shared", **last),
        ],
        keep="shared, 8 bits",
        files=FILES,
    )


if __name__ == "__main__":
    common.run(recipe)
