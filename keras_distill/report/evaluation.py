"""What a report shows of trained models: their answers, the time that these take, and examples in doubt."""

import dataclasses
import re
import time

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression import export, profiling
from keras_distill.report.results import Example, Run

MOST_EXAMPLES = 6
_MOST_CLASSES = 100


def evaluate_predictions(logits, labels, seed, history):
    """The `Run` of a trained model.

    Args:
        logits: What it says of the test examples, shape `[n, classes]`.
        labels: Their class numbers, shape `[n]`.
        seed: The seed it was trained with.
        history: As of `Run`.
    """
    guesses, classes = np.argmax(logits, axis=-1), np.shape(logits)[-1]
    confusion = None
    # Of a thousand classes it would fill megabytes, and no page shows it.
    if classes <= _MOST_CLASSES:
        confusion = np.zeros((classes, classes), int)
        np.add.at(confusion, (labels, guesses), 1)
        confusion = confusion.tolist()
    errors = int(np.sum(guesses != labels))
    return Run(seed, 1 - errors / len(labels), errors, history, confusion)


def milliseconds(models, inputs, batch=128, repeats=30):
    """Median time of one prediction, in batches, per example: `{name: milliseconds}`.

    The models take turns, so that what else the machine does slows all of them alike.

    Args:
        models: `{name: keras.Model}`.
        inputs: Structure of arrays, test examples.
        batch: Examples of one prediction.
        repeats: Predictions of each model.
    """
    index = np.resize(np.arange(len(keras.tree.flatten(inputs)[0])), batch)
    inputs = keras.tree.map_structure(lambda array: tf.constant(array[index]), inputs)
    functions = {name: tf.function(lambda x, model=model: model(x, training=False)) for name, model in models.items()}
    times = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(inputs).numpy()
            # The first call makes the graph.
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(taken)) / batch for name, taken in times.items()}


def profile_models(models, files, calibration, x, labels, folder):
    """What files of trained models cost, and how good they are: a `Footprint` for each, with an accuracy a seed.

    Args:
        models: `{name: [keras.Model]}`, one for each seed.
        files: `{name: [formats]}` of those that are written.
        calibration: Inputs that the ranges of "litert_int8" are taken from: training examples.
        x: Test examples.
        labels: Their class numbers.
        folder: Where the files go.
    """
    seeds = [(name, place, model) for name in files for place, model in enumerate(models[name])]
    found = {}
    bar = keras.utils.Progbar(len(seeds), unit_name="model")
    for name, place, model in seeds:
        file = f"{re.sub('[^a-z0-9]+', '_', name.lower())}_{place}"
        for exported in export(model, folder, calibration, files[name], file):
            known = found.get((name, exported.format))
            if known is None:
                found[name, exported.format] = profiling.profile(model, exported, x, labels, name=name)
            else:
                accuracies = (*known.accuracies, profiling.accuracy(exported, x, labels))
                found[name, exported.format] = dataclasses.replace(known, accuracies=accuracies)
        bar.add(1)
    return list(found.values())


def least_confident_examples(models, images, labels):
    """`Example`s of what all models say of test pictures that the teacher gets right with the least confidence.

    Args:
        models: `{name: keras.Model}`, one of them called "teacher".
        images: Shape `[n, height, width, 1 or 3]`, from 0 to 1 or from 0 to 255; or inputs that are no pictures.
        labels: Their class numbers, shape `[n]`.

    Returns:
        Up to six, each of another class; none if the inputs are no pictures.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[-1] not in (1, 3):
        return []
    probabilities = keras.ops.softmax(models["teacher"].predict(images, verbose=0)).numpy()
    order = np.argsort(probabilities.max(axis=-1))
    right = [index for index in order if probabilities[index].argmax() == labels[index]]
    shown = list({labels[index]: index for index in reversed(right)}.values())[::-1][:MOST_EXAMPLES]
    # Called, not asked to `predict`, which would deal them out to several devices: there may be fewer than those.
    logits = {name: np.array(model(images[shown], training=False)) for name, model in models.items()} if shown else {}
    return [
        Example(
            image=_picture(images[index]),
            label=int(labels[index]),
            logits={name: values[position] for name, values in logits.items()},
        )
        for position, index in enumerate(shown)
    ]


def _picture(image):
    image = image[..., 0] if image.shape[-1] == 1 else image
    return np.uint8(np.clip(image * 255 if image.max() <= 1 else image, 0, 255))
