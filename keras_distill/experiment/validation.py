"""Validation of `Results`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from keras_distill.experiment.results import Results

ROLES = ("teacher", "baseline", "distilled")


def check_results(results: Results) -> None:
    """Raise ValueError if names, roles or shapes of the `Results` are inconsistent.

    Args:
        results: A `Results`.
    """
    names = [model.name for model in results.models]
    if len(set(names)) < len(names):
        raise ValueError(f"Model names must be unique. Received: {names}")
    if sum(model.role == "teacher" for model in results.models) > 1:
        raise ValueError(f"`models` must contain at most one teacher. Received roles: {_roles(results)}")
    for model in results.models:
        _check_model(results, model)
    for number, example in enumerate(results.examples):
        _check_example(results, number, example)
    for number, picture in enumerate(results.pictures):
        _check_picture(results, number, picture)
    referenced = {
        "profiles": [profile.model for profile in results.profiles],
        "findings": results.findings,
        "comparisons": [name for each in results.comparisons for name in (each.model, each.baseline)],
        "search": [] if results.search is None else [results.search.best_model, results.search.default_model],
    }
    for argument, others in referenced.items():
        unknown = sorted(set(others) - {*names, None})
        if unknown:
            raise ValueError(f"`{argument}` refers to unknown models {unknown}. `models` contains: {names}.")


def _check_model(results, model):
    size = len(results.classes)
    if model.role not in ROLES:
        raise ValueError(f"The role of '{model.name}' must be one of {ROLES}. Received: '{model.role}'")
    if not model.runs:
        raise ValueError(f"'{model.name}' has no runs. Pass at least one `Run`.")
    others = [other.name for other in results.models if other is not model and other.role != "teacher"]
    unknown = sorted(set(model.baselines) - set(others))
    if unknown:
        raise ValueError(f"The baselines of '{model.name}' must be among {others}. Received: {unknown}")
    for run in model.runs:
        if run.confusion is not None and np.shape(run.confusion) != (size, size):
            raise ValueError(
                f"The confusion matrix of '{model.name}', seed {run.seed}, must have shape {(size, size)} "
                f"for {size} classes. Received: {np.shape(run.confusion)}"
            )
        if run.per_class is not None and np.shape(run.per_class) != (size,):
            raise ValueError(
                f"The scores per class of '{model.name}', seed {run.seed}, must have shape {(size,)}. Received: "
                f"{np.shape(run.per_class)}"
            )


def _check_example(results, number, example):
    size = len(results.classes)
    _check_image(example.image, f"image of example {number}")
    if not 0 <= example.label < size:
        raise ValueError(f"The label of example {number} must be >= 0 and < {size}. Received: {example.label}")
    for name, logits in example.logits.items():
        if name not in _roles(results) or np.shape(logits) != (size,):
            raise ValueError(
                f"The logits of example {number} must have shape {(size,)} and belong to one of "
                f"{list(_roles(results))}. Received: shape {np.shape(logits)} of '{name}'"
            )


def _check_picture(results, number, picture):
    unknown = sorted(set(picture.predictions) - set(_roles(results)))
    if unknown:
        raise ValueError(
            f"The predictions of picture {number} must belong to some of {list(_roles(results))}. Received: {unknown}"
        )
    images = {"image": picture.image, "label": picture.label}
    images |= {f"prediction of '{name}'": image for name, image in picture.predictions.items()}
    for name, image in images.items():
        _check_image(image, f"{name} of picture {number}")


def _check_image(image, what):
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)):
        raise ValueError(
            f"The {what} must be uint8, [height, width] or [height, width, 3]. Received: {image.dtype}, {image.shape}"
        )


def _roles(results):
    return {model.name: model.role for model in results.models}
