"""Evaluation of trained models for a report: accuracy, latency, profiles of exported files and example predictions."""

import dataclasses
import pathlib
import re
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.compression import Profile, export, profiling
from keras_distill.models.softmax import logits_model
from keras_distill.report.results import Example, Run
from keras_distill.types import Structure

MOST_EXAMPLES = 6
MOST_CLASSES = 100


def evaluate_predictions(logits: np.ndarray, labels: np.ndarray, seed: int, history: dict[str, list[float]]) -> Run:
    """Return the `Run` of a trained model: accuracy, number of errors and confusion matrix.

    Args:
        logits: Predictions for the evaluation examples, shape `[n, classes]`.
        labels: Class indices, shape `[n]`.
        seed: Seed that the model was trained with.
        history: `{name: [value per epoch]}` as in `keras.callbacks.History`; empty if there is none.

    Returns:
        A `Run`. Its confusion matrix is None for more than 100 classes.
    """
    guesses, classes = np.argmax(logits, axis=-1), np.shape(logits)[-1]
    confusion = None
    # With a thousand classes the matrix would take megabytes, and the page does not show it.
    if classes <= MOST_CLASSES:
        confusion = np.zeros((classes, classes), int)
        np.add.at(confusion, (labels, guesses), 1)
        confusion = confusion.tolist()
    errors = int(np.sum(guesses != labels))
    return Run(seed, 1 - errors / len(labels), errors, history, confusion)


def prediction_milliseconds(
    models: dict[str, keras.Model], inputs: Structure, batch_size: int = 128, repeats: int = 30
) -> dict[str, float]:
    """Measure the median prediction time per example of several models, in batches.

    The models run in turn, so that other load on the machine slows all of them alike. Models of one architecture are
    measured once: a difference between them would be noise.

    Args:
        models: `{name: keras.Model}`.
        inputs: Structure of arrays, evaluation examples. They are repeated if there are fewer than `batch_size`.
        batch_size: Examples per prediction. Defaults to 128.
        repeats: Predictions per model. Defaults to 30.

    Returns:
        `{name: milliseconds per example}`.
    """
    index = np.resize(np.arange(len(keras.tree.flatten(inputs)[0])), batch_size)
    inputs = keras.tree.map_structure(lambda array: tf.constant(array[index]), inputs)
    architectures = {name: _architecture(model) for name, model in models.items()}
    measured = {architectures[name]: model for name, model in models.items()}
    functions = {key: tf.function(lambda x, model=model: model(x, training=False)) for key, model in measured.items()}
    times = {key: [] for key in measured}
    for repeat in range(repeats + 1):
        for key, function in functions.items():
            start = time.perf_counter()
            function(inputs).numpy()
            # The first call traces the graph.
            if repeat:
                times[key].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(times[key])) / batch_size for name, key in architectures.items()}


def profile_models(
    models: dict[str, list[keras.Model]],
    files: dict[str, list[str]],
    calibration: Structure,
    x: Structure,
    labels: np.ndarray,
    folder: str | pathlib.Path,
) -> list[Profile]:
    """Export trained models and profile the files: size, latency, memory, and accuracy for each seed.

    Args:
        models: `{name: [keras.Model]}`, one model per seed.
        files: `{name: [format]}` of the files to write; see `compression.export`.
        calibration: Inputs for the activation ranges of "litert_int8": training examples.
        x: Test examples.
        labels: Their class indices, shape `[n]`.
        folder: Folder for the files.

    Returns:
        One `Profile` per name and format. Its `accuracies` hold one value per seed.
    """
    exports = [(name, number, model) for name in files for number, model in enumerate(models[name])]
    profiles: dict[Any, Profile] = {}
    bar = keras.utils.Progbar(len(exports), unit_name="model")
    for name, number, model in exports:
        file = f"{re.sub('[^a-z0-9]+', '_', name.lower())}_{number}"
        for exported in export(model, folder, calibration, files[name], file):
            first = profiles.get((name, exported.format))
            if first is None:
                profiles[name, exported.format] = profiling.profile(model, exported, x, labels, name=name)
            else:
                accuracies = (*first.accuracies, profiling.accuracy(exported, x, labels))
                profiles[name, exported.format] = dataclasses.replace(first, accuracies=accuracies)
        bar.add(1)
    return list(profiles.values())


def least_confident_examples(models: dict[str, keras.Model], images: Structure, labels: np.ndarray) -> list[Example]:
    """Select the images that the teacher classifies correctly with the least confidence.

    Args:
        models: `{name: keras.Model}`, one of them named "teacher".
        images: Shape `[n, height, width, 1 or 3]`, in [0, 1] or [0, 255]. Other inputs give an empty list.
        labels: Class indices, shape `[n]`.

    Returns:
        Up to six `Example`s with the logits of all models, each of a different class.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[-1] not in (1, 3):
        return []
    models = {name: logits_model(model) for name, model in models.items()}
    probabilities = keras.ops.softmax(models["teacher"].predict(images, verbose=0)).numpy()
    order = np.argsort(probabilities.max(axis=-1))
    correct = [index for index in order if probabilities[index].argmax() == labels[index]]
    shown = list({labels[index]: index for index in reversed(correct)}.values())[::-1][:MOST_EXAMPLES]
    # A direct call: under a strategy `predict` would split the batch, which may have fewer examples than replicas.
    logits = {name: np.array(model(images[shown], training=False)) for name, model in models.items()} if shown else {}
    return [
        Example(
            image=_uint8_image(images[index]),
            label=int(labels[index]),
            logits={name: values[position] for name, values in logits.items()},
        )
        for position, index in enumerate(shown)
    ]


def _uint8_image(image):
    image = image[..., 0] if image.shape[-1] == 1 else image
    return np.uint8(np.clip(image * 255 if image.max() <= 1 else image, 0, 255))


def _architecture(model):
    """Return a key that models of the same architecture share."""
    try:
        # Without the names of the model and its layers, which do not change the computation.
        return re.sub(r'"name": "[^"]*"', "", model.to_json())
    except (NotImplementedError, TypeError, ValueError):
        # A subclassed model without a configuration.
        return str(id(model))
