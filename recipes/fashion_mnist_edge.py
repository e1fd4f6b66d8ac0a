"""Fashion-MNIST: distill a convolutional network into a 41 kB int8 file for a small device, step by step.

1. A teacher with residual blocks is distilled into a narrower student.
2. The blocks of each stage of the student are tied: they share one set of weights, and the student is distilled again.
3. The tied student is distilled once more with quantization-aware training (QAT): weights and activations are rounded
   to int8 as on the device. For comparison, the same student is distilled for as many epochs without rounding and
   quantized afterwards (post-training quantization, PTQ). The two differ in nothing else.

Run:    python -m recipes.fashion_mnist_edge --originals=FOLDER
Result: measured with version 0.1.0, which had another order of the examples;
        accuracy of each file on the 10,000 test images (mean and sample standard deviation over 3 seeds; teacher: one
        seed), size, and median time of one prediction on one thread in milliseconds:

        teacher                  LiteRT, float32  92.01 %            1,045 kB             0.353
        baseline                 LiteRT, float32  91.71 +- 0.26 %      255 kB    4.1x     0.153
        distilled                LiteRT, float32  91.44 +- 0.22 %      255 kB    4.1x     0.153
        distilled, tied          LiteRT, float32  91.43 +- 0.20 %      255 kB    4.1x     0.153
        distilled, tied          LiteRT, int8     91.43 +- 0.18 %     41.0 kB   25.5x     0.058
        distilled, tied, longer  LiteRT, float32  91.55 +- 0.15 %      255 kB    4.1x     0.192
        distilled, tied, longer  LiteRT, int8     91.51 +- 0.24 %     41.0 kB   25.5x     0.058
        distilled, tied, QAT     LiteRT, int8     91.56 +- 0.22 %     41.0 kB   25.5x     0.058

        The int8 file is 25 times smaller than the teacher's and 6 times as fast, for 0.45 points of accuracy. QAT makes
        8, 7 and 2 errors fewer than PTQ after as many epochs, in the three seeds. With all labels, a teacher that is
        0.3 points better than the baseline, and so few epochs, distillation gains nothing over the labels.
Time:   85 minutes for the students, each on one core of an AMD EPYC whose other core was busy too; 15 for the teacher
References:
    Polino et al., ICLR 2018, https://arxiv.org/abs/1802.05668 (distillation of quantized students)
    Lan et al., ICLR 2020, https://arxiv.org/abs/1909.11942 (cross-layer parameter sharing)
    Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877 (int8 quantization)
"""

import keras
from absl import flags

from keras_distill import Term
from keras_distill.compression import quantize_aware, tie_weights
from keras_distill.experiment import Arm, Classification, Experiment
from keras_distill.losses import KLDivergence

from . import common, data

WIDTH = flags.DEFINE_integer("width", 20, "Number of channels in the first stage of the student.", lower_bound=1)
LAST_EPOCHS = flags.DEFINE_integer(
    "last_epochs", 5, "Number of epochs of the last step, with QAT and without.", lower_bound=1
)
LAST_RATE = flags.DEFINE_float("last_learning_rate", 1e-3, "Initial learning rate of the last step.", lower_bound=1e-9)
CALIBRATION = 500

common.defaults(temperature=4.0, alpha=0.1, epochs=10, teacher_epochs=12, seeds=3, learning_rate=2e-3)

FILES = {
    "teacher": ["litert_float32", "saved_model"],
    "baseline": ["litert_float32"],
    "distilled": ["litert_float32"],
    "distilled, tied": ["litert_float32", "litert_int8"],
    "distilled, tied, longer": ["litert_float32", "litert_int8"],
    "distilled, tied, QAT": ["litert_int8"],
}


def network(width: int, blocks: int, name: str, dropout: float = 0.0) -> keras.Model:
    """Return a network with two stages of residual blocks, at 14x14 and 7x7 pixels."""
    layers = keras.layers

    def convolution(x, channels, stride, label):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, name=label)(x)
        return layers.ReLU(name=f"{label}_relu")(layers.BatchNormalization(name=f"{label}_bn")(x))

    images = keras.Input((28, 28, 1))
    x = images
    for stage in range(2):
        channels = width * 2**stage
        x = convolution(x, channels, 2, f"stage_{stage}")
        for block in range(blocks):
            label = f"stage_{stage}_block_{block}"
            x = layers.Add(name=f"{label}_sum")([x, convolution(x, channels, 1, label)])
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, layers.Dense(10, name="logits")(x), name=name)


def teacher() -> keras.Model:
    return network(64, 1, "teacher", dropout=0.3)


def student() -> keras.Model:
    return network(WIDTH.value, 3, "student")


def tied(model: keras.Model) -> keras.Model:
    """Tie the convolutions of all blocks of a stage; each block keeps a separate batch normalization."""
    for stage in range(2):
        model = tie_weights(model, [f"stage_{stage}_block_{block}" for block in range(3)])
    return model


def terms() -> list[Term]:
    return [Term(KLDivergence(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)]


def experiment() -> Experiment:
    images = data.fashion_mnist()
    calibration = images.train[0][:CALIBRATION]
    training = common.training()
    last = {**training, **common.training(epochs=LAST_EPOCHS.value, learning_rate=LAST_RATE.value)}

    def distilled(name, model, start=None, **arguments):
        arguments = arguments or training
        return Arm(name, model, terms(), common.ALPHA.value, baselines=["baseline"], start=start, **arguments)

    return Experiment(
        Classification(),
        common.as_data(images),
        Arm("teacher", teacher, **common.teacher_training()),
        [
            Arm("baseline", student, **training),
            distilled("distilled", student),
            distilled("distilled, tied", tied, "distilled"),
            distilled("distilled, tied, longer", lambda model: model, "distilled, tied", **last),
            distilled(
                "distilled, tied, QAT", lambda model: quantize_aware(model, calibration), "distilled, tied", **last
            ),
        ],
        title="Fashion-MNIST: a file for a small device",
        description="A convolutional network of 64 to 128 channels with residual blocks is distilled into a narrower "
        "one. The weights of its blocks are then tied, and it is quantized to int8.",
        files=FILES,
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
