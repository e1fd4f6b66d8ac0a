"""Synthetic results for tests of the report."""

import numpy as np

from keras_distill.compression import Profile
from keras_distill.preflight import Finding
from keras_distill.report import Example, ModelResult, Results, Run

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
    return Run(seed, accuracy, errors, history, confusion.tolist())


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


def results(
    classes=FASHION, seeds=5, shown=2, shape=(28, 28), teacher=0.985, baseline=0.957, distilled=0.972, **changed
):
    """Return results of a teacher (one run, no history), a baseline and a distilled student."""
    names = ["teacher", "baseline", "distilled"]
    size = len(classes)
    wobble = np.random.default_rng(7).normal(0, 0.0012, (2, seeds))
    terms = ("supervised_loss", "kl_divergence_loss", "attention_transfer_loss")
    fields = {
        "title": "Fashion-MNIST: hint and attention",
        "description": "A network of 1.2 million weights teaches one of 30 thousand what clothes look like.",
        "settings": {"temperature": 20.0, "alpha": 0.1, "epochs": 12, "optimizer": "adam", "workdir": "runs/hint"},
        "classes": list(classes),
        "temperature": 20.0,
        "command": "python -m recipes.fashion_mnist_hint --seeds=5 --temperature=20 --workdir=runs/hint",
        "seconds": 1234.5,
        "seeds": list(range(seeds)),
        "models": [
            ModelResult(names[0], "teacher", 1_200_000, [run(0, teacher, size, epochs=0)], 0.1234),
            ModelResult(
                names[1], "baseline", 31_415, [run(s, baseline + wobble[0, s], size) for s in range(seeds)], 0.0123
            ),
            ModelResult(
                names[2],
                "distilled",
                31_415,
                [run(s, distilled + wobble[1, s], size, terms=terms) for s in range(seeds)],
                0.0123,
            ),
        ],
        "examples": examples(shown, size, shape, names),
    }
    return Results(**{**fields, **changed})
