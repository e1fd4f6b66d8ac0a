"""What the report of a recipe shows of its trained models beside their accuracy: time, and examples in doubt."""

import dataclasses
import re
import time

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression import export, footprint
from keras_distill.report import Example
from recipes.data import rows

MOST_EXAMPLES = 6


def milliseconds(models, data, batch=128, repeats=30):
    """Median time of one prediction, in batches, per example: `{name: milliseconds}`.

    The models take turns, so that what else the machine does slows all of them alike.

    Args:
        models: `{name: keras.Model}`.
        data: A `Data`, of which test examples are taken.
        batch: Examples of one prediction.
        repeats: Predictions of each model.
    """
    count = len(data.test[1])
    inputs = keras.tree.map_structure(tf.constant, rows(data.test[0], np.resize(np.arange(count), batch)))
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


def footprints(models, files, data, folder):
    """What files of trained models cost, and how good they are: a `Footprint` for each, with an accuracy a seed.

    Args:
        models: `{name: [keras.Model]}`, one for each seed.
        files: `{name: [formats]}` of those that are written.
        data: A `Data`: files are calibrated by its training examples and judged by the test examples.
        folder: Where the files go.
    """
    seeds = [(name, place, model) for name in files for place, model in enumerate(models[name])]
    found = {}
    bar = keras.utils.Progbar(len(seeds), unit_name="model")
    for name, place, model in seeds:
        file = f"{re.sub('[^a-z0-9]+', '_', name.lower())}_{place}"
        for exported in export(model, folder, data.train[0], files[name], file):
            known = found.get((name, exported.format))
            if known is None:
                found[name, exported.format] = footprint.weigh(model, exported, *data.test, name=name)
            else:
                accuracies = (*known.accuracies, footprint.accuracy(exported, *data.test))
                found[name, exported.format] = dataclasses.replace(known, accuracies=accuracies)
        bar.add(1)
    return list(found.values())


def doubtful(models, data):
    """`Example`s of what all models say of test pictures that the teacher gets right with the least confidence.

    Args:
        models: `{name: keras.Model}`, one of them called "teacher".
        data: A `Data`.

    Returns:
        Up to six, each of another class; none if the inputs are no pictures.
    """
    images, labels = data.test
    if not isinstance(images, np.ndarray):
        return []
    probabilities = keras.ops.softmax(models["teacher"].predict(images, verbose=0)).numpy()
    order = np.argsort(probabilities.max(axis=-1))
    right = [index for index in order if probabilities[index].argmax() == labels[index]]
    shown = list({labels[index]: index for index in reversed(right)}.values())[::-1][:MOST_EXAMPLES]
    # Called, not asked to `predict`, which would deal them out to several devices: there may be fewer than those.
    logits = {name: np.array(model(images[shown], training=False)) for name, model in models.items()} if shown else {}
    return [
        Example(
            image=np.uint8(np.squeeze(images[index], -1) * 255),
            label=int(labels[index]),
            logits={name: values[position] for name, values in logits.items()},
        )
        for position, index in enumerate(shown)
    ]
