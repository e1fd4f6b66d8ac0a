"""Fashion-MNIST: a convolutional network becomes a file for a small device, step by step.

A teacher with residual blocks teaches a narrower student; the blocks of each of the student's stages then share one
set of weights; and the shared student is distilled once more while it rounds weights and activations to 8 bits, as the
device will. Beside that, the same student is distilled for as long without rounding, and rounded afterwards
(post-training quantization), so that the two differ in nothing else.

Run:    python -m recipes.fashion_mnist_edge --originals=FOLDER
Expect: files, accuracy on the 10,000 test pictures as each file gives it (mean and sample standard deviation over 3
        seeds, the teacher 1), bytes, milliseconds of one prediction on one thread (median):

        teacher            LiteRT, floats    92.01 %            1,045 kB             0.353
        student alone      LiteRT, floats    91.71 +- 0.26 %      255 kB    4.1x     0.153
        student distilled  LiteRT, floats    91.44 +- 0.22 %      255 kB    4.1x     0.153
        student shared     LiteRT, floats    91.43 +- 0.20 %      255 kB    4.1x     0.153
        student shared     LiteRT, 8 bits    91.43 +- 0.18 %     41.0 kB   25.5x     0.058
        shared, longer     LiteRT, floats    91.55 +- 0.15 %      255 kB    4.1x     0.192
        shared, longer     LiteRT, 8 bits    91.51 +- 0.24 %     41.0 kB   25.5x     0.058
        shared, 8 bits     LiteRT, 8 bits    91.56 +- 0.22 %     41.0 kB   25.5x     0.058

        The file is 25 times smaller than the teacher's and 6 times as fast, for 0.45 points of accuracy. A student that
        learns to round makes 8, 7 and 2 errors fewer than one that is rounded after as many epochs, in the three seeds.
        With all labels, a teacher that is 0.3 points better than the student alone, and so few epochs, distillation
        gains nothing over the labels.
Time:   85 minutes for the students, each on one core of an AMD EPYC whose other core was busy too; 15 for the teacher
References:
    Polino et al., ICLR 2018, https://arxiv.org/abs/1802.05668 (quantised students)
    Lan et al., ICLR 2020, https://arxiv.org/abs/1909.11942 (shared weights)
    Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877 (8 bits)
"""

import keras
from absl import flags

from keras_distill import Term
from keras_distill.compression import quantize_aware, tie_weights
from keras_distill.losses import KLDivergence
from recipes import common, comparison, data

WIDTH = flags.DEFINE_integer("width", 20, "Channels of the student's first stage.", lower_bound=1)
LAST_EPOCHS = flags.DEFINE_integer("last_epochs", 5, "Epochs with rounding, and as many without.", lower_bound=1)
LAST_RATE = flags.DEFINE_float("last_learning_rate", 1e-3, "Their learning rate.", lower_bound=1e-9)
CALIBRATION = 500

common.defaults(temperature=4.0, alpha=0.1, epochs=10, teacher_epochs=12, seeds=3, learning_rate=2e-3)

FILES = {
    "teacher": ["litert_float32", "saved_model"],
    "student alone": ["litert_float32"],
    "student distilled": ["litert_float32"],
    "student shared": ["litert_float32", "litert_int8"],
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
        model = tie_weights(model, [f"stage_{stage}_block_{block}" for block in range(3)])
    return model


def terms():
    return [Term(KLDivergence(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)]


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
            distilled("shared, 8 bits", lambda model: quantize_aware(model, calibration), "student shared", **last),
        ],
        keep="shared, 8 bits",
        files=FILES,
    )


if __name__ == "__main__":
    common.run(recipe)
