"""Synthetic results for tests of the report."""

import numpy as np

from keras_distill.compression import Profile
from keras_distill.experiment.example import Example
from keras_distill.experiment.latency import Latency
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.picture import Picture
from keras_distill.experiment.results import Results
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import compare
from keras_distill.preflight import Finding
from keras_distill.tuning.search import Hyperparameter, Search, Trial

FASHION = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def run(seed, accuracy, classes=10, epochs=12, terms=(), tests=10_000):
    """Return a run with this accuracy; `terms` are the names of its losses besides the total."""
    generator = np.random.default_rng([seed, round(1e6 * accuracy), classes])
    accuracy = min(accuracy, 1.0)
    errors = round((1 - accuracy) * tests)
    wrong = generator.dirichlet(np.full(classes * (classes - 1), 0.15))
    confusion = np.full((classes, classes), 0)
    confusion[~np.eye(classes, dtype=bool)] = generator.multinomial(errors, wrong)
    np.fill_diagonal(confusion, tests // classes - confusion.sum(axis=1))
    learned = 1 - np.exp(-np.arange(1, epochs + 1) / 2.5)
    noise = generator.normal(0, 0.002, (2 + 2 * len(terms), epochs))
    history = {}
    if epochs:
        history["accuracy"] = (accuracy + 0.005) * (0.7 + 0.3 * learned) + noise[0]
        history["val_accuracy"] = accuracy * (0.75 + 0.25 * learned) + noise[1]
        for index, name in enumerate(("loss", *terms)):
            history[name] = (2.0 / 4**index) * (1.3 - learned + np.abs(noise[index]))
        history["val_loss"] = 2.0 * (1.4 - learned + np.abs(noise[-1]))
    history = {name: values.tolist() for name, values in history.items()}
    recalls = np.diag(confusion) / confusion.sum(axis=1)
    return Run(seed, accuracy, history, accuracy - 0.01, recalls.tolist(), confusion.tolist())


def examples(count, classes, shape, names):
    generator = np.random.default_rng(classes)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / shape[0]
    listed = []
    for index in range(count):
        blob = 255 * np.exp(-12 * ((rows - 0.5) ** 2 + (columns - 0.35 - 0.1 * index) ** 2))
        image = np.broadcast_to(blob.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape).astype("uint8")
        logits = generator.normal(0, 4, classes)
        label = int(np.argmax(logits))
        logits[label] += 6
        listed.append(
            Example(
                image,
                label,
                {name: (logits + generator.normal(0, 1.5 * i, classes)).tolist() for i, name in enumerate(names)},
            )
        )
    return listed


def pictures(shape=(28, 28), count=2):
    """Return pictures of random images, with the predictions of two models of `results`."""
    generator = np.random.default_rng(0)

    def image(*size):
        return generator.integers(0, 256, size, "uint8")

    masks = (*shape[:2], 3)
    return [
        Picture(image(*shape), image(*masks), {name: image(*masks) for name in ("teacher", "distilled")})
        for _ in range(count)
    ]


def profiles():
    """Return profiles of files of the three models of `results`."""
    return [
        Profile("teacher", "litert_float32", 4_800_000, 1_200_000, 30_000_000, (0.985,), 1.25, 1.5, 9_000_000),
        Profile("baseline", "litert_float32", 130_000, 31_415, 900_000, (0.957, 0.955), 0.11, 0.13, 6_100_000),
        Profile("distilled", "keras", 420_000, 31_415, 900_000),
        Profile("distilled", "litert_float32", 130_000, 31_415, 900_000, (0.973, 0.972), 0.1, 0.2, None),
        Profile("distilled", "litert_int8", 41_000, 31_415, 900_000, (0.968, 0.971), 0.04, 0.05, 5_900_000),
    ]


def findings():
    """Return the findings of the pre-flight check for the two students of `results`."""
    seen = "The teacher's probabilities add up to 1.0000 in all of 256 examples."
    finding = Finding("probabilities", "Teacher 'output' holds <probabilities>.", seen, "Tap the layer before.")
    return {"baseline": [], "distilled": [finding]}


def latency(median):
    """Return a latency with quartiles 5 % below and 8 % above its median."""
    return Latency(median, 0.95 * median, 1.08 * median, 128)


def comparisons(models, resolution=1e-4):
    """Return the paired comparisons of each model with its baselines."""
    scores = {model.name: [run.score for run in model.runs] for model in models}
    return [
        compare(model.name, scores[model.name], name, scores[name], resolution)
        for model in models
        for name in model.baselines
        if len(scores[name]) == len(scores[model.name])
    ]


def results(
    classes=FASHION, seeds=5, shown=2, shape=(28, 28), teacher=0.985, baseline=0.957, distilled=0.972, **changed
):
    """Return results of a teacher (one run, no history), a baseline and a distilled student."""
    names = ["teacher", "baseline", "distilled"]
    size = len(classes)
    wobble = np.random.default_rng(7).normal(0, 0.0012, (2, seeds))
    terms = ("supervised_loss", "kl_divergence_loss", "attention_transfer_loss")
    students = [
        [run(s, baseline + wobble[0, s], size) for s in range(seeds)],
        [run(s, distilled + wobble[1, s], size, terms=terms) for s in range(seeds)],
    ]
    fields = {
        "title": "Fashion-MNIST: hint and attention",
        "description": "A network of 1.2 million weights teaches one of 30 thousand what clothes look like.",
        "settings": {"temperature": 20.0, "alpha": 0.1, "epochs": 12, "optimizer": "adam", "workdir": "runs/hint"},
        "classes": list(classes),
        "temperature": 20.0,
        "command": "python -m recipes.fashion_mnist_hint --seeds=5 --temperature=20 --workdir=runs/hint",
        "seconds": 1234.5,
        "seeds": list(range(seeds)),
        "num_examples": 10_000,
        "models": [
            ModelResult(
                names[0], "teacher", 1_200_000, [run(0, teacher, size, epochs=0)], latency(0.1234), bytes=4_800_000
            ),
            ModelResult(names[1], "baseline", 31_415, students[0], latency(0.0123), bytes=130_000),
            ModelResult(names[2], "distilled", 31_415, students[1], latency(0.0123), ["baseline"], 130_000),
        ],
        "examples": examples(shown, size, shape, names),
    }
    fields |= changed
    if "comparisons" not in fields:
        fields["comparisons"] = comparisons(fields["models"])
    return Results(**fields)


def regression(seeds=10, distilled=0.44, **changed):
    """Return results of a regression, whose score is an error in degrees Celsius."""
    random = np.random.default_rng(3)

    def model(name, role, error, parameters, ms, count, baselines=()):
        runs = []
        for seed in range(count):
            score = error + random.normal(0, 0.008)
            decay = np.exp(-np.arange(1, 31) / 6)
            history = {
                "loss": (score**2 * (0.9 + 6 * decay)).tolist(),
                "val_loss": (score**2 * (1 + 5 * decay)).tolist(),
            }
            runs.append(Run(seed, score, {} if role == "teacher" else history))
        return ModelResult(name, role, parameters, runs, latency(ms), baselines)

    models = [
        model("teacher (gradient boosting)", "teacher", 0.401, None, 0.21, 1),
        model("baseline", "baseline", 0.483, 4_353, 0.0021, seeds),
        model("distilled", "distilled", distilled, 4_353, 0.0021, seeds, ["baseline"]),
    ]
    fields = {
        "title": "Air temperature at the coast",
        "description": "A small network learns from a gradient boosting model and from jittered rows.",
        "settings": {"epochs": 30, "noise": 0.05},
        "models": models,
        "command": "python -m recipes.temperature",
        "seconds": 95.2,
        "seeds": list(range(seeds)),
        "score": Score("RMSE", higher_is_better=False, percent=False, unit="\u00b0C"),
        "num_examples": 1_250,
        "comparisons": comparisons(models, 0.0),
    }
    return Results(**fields | changed)


def eight_models(size=100, seeds=3):
    """Return results of a teacher, two baselines and five distilled arms with classes of long names."""
    classes = [f"{('great', 'little', 'common', 'western')[n % 4]} spotted bird, species {n + 1}" for n in range(size)]
    scores = {"teacher": 0.83, "baseline": 0.70, "baseline, augmented images": 0.718, "soft targets": 0.731}
    scores |= {
        "hint at the second block": 0.729,
        "attention transfer": 0.712,
        "all losses together": 0.741,
        "T = 1": 0.705,
    }
    models = []
    for number, (name, score) in enumerate(scores.items()):
        role = "teacher" if number == 0 else "baseline" if number < 3 else "distilled"
        baselines = list(scores)[1:3] if role == "distilled" else []
        random = np.random.default_rng(number)
        runs = [run(s, score + random.normal(0, 0.004), size) for s in range(1 if number == 0 else seeds)]
        parameters = 23_700_000 if number == 0 else 1_250_000 + (40_000 if "hint" in name else 0)
        models.append(
            ModelResult(name, role, parameters, runs, latency(4.2 if number == 0 else 0.3 + 0.002 * number), baselines)
        )
    return results(
        classes,
        models=models,
        seeds=seeds,
        shown=0,
        title="Birds: which loss?",
        description="Five distillation losses against two baselines on 100 species of birds.",
        examples=examples(2, size, (96, 128, 3), list(scores)[:4]),
        files={"trained student": "models/soft targets.keras", "history": "history.csv"},
    )


SPACE = [
    Hyperparameter("temperature", 1.0, 16.0, True),
    Hyperparameter("alpha", 0.0, 1.0),
    Hyperparameter("optimizer", choices=["adam", "sgd", "lion"]),
    Hyperparameter("sgd_rate", 0.01, 1.0, True),
]


def search(scores=(0.80, 0.90, 0.85, 0.88), direction="max", space=SPACE, **changed):
    """Return a search with these scores."""
    random = np.random.default_rng(0)
    trials = []
    for number, score in enumerate(scores):
        values = {"temperature": float(2 ** random.uniform(0, 4)), "alpha": float(random.uniform())}
        values["optimizer"] = ["adam", "sgd", "lion"][number % 3]
        values |= {"sgd_rate": 0.1} if values["optimizer"] == "sgd" else {}
        trials.append(Trial(f"{number:02d}", values, score))
    return Search(**{"objective": "val_accuracy", "direction": direction, "space": space, "trials": trials} | changed)
