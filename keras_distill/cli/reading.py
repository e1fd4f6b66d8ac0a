"""Loading of the models and datasets that a command line names."""

import argparse
import importlib
import os
import pathlib
import re
import sys
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any

import absl.logging
import keras
import numpy as np
import tensorflow as tf

from keras_distill.data.datasets import has_splits, open_dataset
from keras_distill.models.layers import walk_layers
from keras_distill.models.specs import input_specs

from .common import CommandError, as_command_error
from .texts import SUFFIXES, is_preset, load_preset, text_examples

# TensorFlow warns about the number of functions that are traced for each new model, Keras (by absl) about saving.
tf.get_logger().setLevel("ERROR")
absl.logging.set_verbosity(absl.logging.ERROR)

# Factors below it turn pixel values from 0 to 255 into small numbers.
_PIXEL_SCALE = 1 / 32


def load(path: str, modules: Sequence[str] = ()) -> keras.Model:
    """Load a `.keras` file in safe mode, or a causal language model from a preset of KerasHub.

    Args:
        path: The file, or the directory of the preset.
        modules: Modules to import first, which register custom layers. Defaults to none.

    Returns:
        The model, not compiled.

    Raises:
        CommandError: If a module cannot be imported, or the file cannot be loaded.
    """
    with as_command_error(f"cannot read {path}"):
        for module in modules:
            _import(module)
        if is_preset(pathlib.Path(path)):
            return load_preset(pathlib.Path(path))
        _check_file(pathlib.Path(path))
        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise CommandError(f"cannot read {path}: {_load_error(str(error))}") from error
        if not isinstance(model, keras.Model):
            raise CommandError(f"cannot read {path}: it contains a {type(model).__name__}, not a model.")
        student = getattr(model, "student", None)
        if isinstance(student, keras.Model) and isinstance(getattr(model, "teacher", None), keras.Model):
            warnings.warn(f"{path} contains a distiller. Its student '{student.name}' is used.", stacklevel=2)
            return student
        return model


def _import(module: str) -> None:
    """Import a module of the user, also from the current directory, which nothing else is imported from."""
    # Last, so that the module's own imports of installed packages find these.
    paths, sys.path = sys.path, [*sys.path, os.getcwd()]
    try:
        importlib.import_module(module)
    finally:
        sys.path = paths


def examples(
    options: argparse.Namespace, *models: keras.Model, source: str | None = None, split: str | None = None
) -> tf.data.Dataset:
    """Open the dataset that the options name, and check that its examples fit the models.

    Args:
        options: Options of the command.
        *models: At least one model.
        source: Dataset to open instead of `--dataset`. Defaults to None.
        split: Split to open instead of `--split`. Defaults to None.

    Returns:
        Single examples, `x` or `(x, y)`.

    Raises:
        ValueError: If the dataset cannot be opened, or does not fit a model.
    """
    choices = {"scale": options.scale, "data_dir": options.data_dir}
    # `--split` and `--feature` are meant for `--dataset`; another source may have neither.
    if source is None or has_splits(source):
        choices |= {"split": split or options.split, "feature": options.feature}
    source = options.dataset if source is None else source
    if pathlib.Path(source).suffix in SUFFIXES:
        return text_examples(source, options)
    dataset = open_dataset(source, **choices, like=models[0])
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else spec
    for model in models:
        _check_inputs(source, inputs, model)
        _warn_of_scaling_twice(options.scale, model)
    return dataset


def _warn_of_scaling_twice(scale, model):
    """Warn if small inputs enter a model whose own preprocessing takes pixel values."""
    if abs(scale) > _PIXEL_SCALE:
        return
    for _, layer in walk_layers(model):
        if isinstance(layer, keras.layers.Rescaling):
            scales_pixels = np.max(np.abs(layer.scale)) <= _PIXEL_SCALE
        elif isinstance(layer, keras.layers.Normalization) and layer.built:
            scales_pixels = np.max(np.abs(layer.mean)) > 2
        else:
            continue
        if scales_pixels:
            warnings.warn(
                f"'{model.name}' rescales its inputs itself, in the layer '{layer.name}', and --scale does so before. "
                "Drop --scale if the model takes pixel values from 0 to 255.",
                stacklevel=2,
            )


def _load_error(message: str) -> str:
    """Return the reason in an error of Keras, without the configuration of all layers that Keras puts around it."""
    if "safe_mode" in message:
        return (
            "it contains code, e.g. of a Lambda layer, which is not run. Replace it with a layer class, save the model "
            "again, and pass the module of the class: --import MODULE."
        )
    unknown = re.search(r"Could not locate (?:class|function) '(.*?)'", message)
    if unknown:
        return f"its class or function '{unknown[1]}' is unknown. Pass the module that registers it: --import MODULE."
    return message.rpartition("Exception encountered:")[2]


def _check_file(path: pathlib.Path) -> None:
    if path.is_dir():
        raise CommandError(
            f"cannot read {path}: it is a directory, and no preset of KerasHub. Pass a .keras file, as written by "
            "`model.save`."
        )
    if not path.exists():
        raise CommandError(f"cannot read {path}: file not found.")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        # Raises OSError if the file cannot be read at all.
        with path.open("rb"):
            pass
        raise CommandError(
            f"cannot read {path}: not a .keras file, or an incomplete one. Save the model again with "
            "`model.save('NAME.keras')`."
        )
    with zipfile.ZipFile(path) as file:
        missing = {"config.json", "model.weights.h5"} - set(file.namelist())
        if missing:
            raise CommandError(
                f"cannot read {path}: not a Keras model, since {min(missing)} is missing in the archive."
            )
        # Keras does not verify checksums.
        if file.testzip() is not None:
            raise CommandError(f"cannot read {path}: the file is corrupted. Copy it again, or save the model again.")


def _check_inputs(source: str, inputs: Any, model: keras.Model) -> None:
    """Raise an error for examples that do not fit the model, where both have a single input."""
    try:
        expected = input_specs(None, model)
    except ValueError:
        return
    if not isinstance(inputs, tf.TensorSpec) or not isinstance(expected, tf.TensorSpec):
        return
    shape = expected.shape[1:]
    # Keras adds or removes a last axis of length 1.
    shapes = [shape, shape[:-1] if shape.rank and shape[-1] == 1 else shape, shape.concatenate([1])]
    if not any(each.is_compatible_with(inputs.shape) for each in shapes):
        raise ValueError(
            f"examples of '{source}' have shape {tuple(inputs.shape)}, but '{model.name}' takes {tuple(shape)}. Choose "
            "another dataset or model."
        )
    if inputs.dtype.is_complex and not expected.dtype.is_complex:
        raise ValueError(
            f"examples of '{source}' have dtype {inputs.dtype.name}, but '{model.name}' takes {expected.dtype.name}. "
            "Save real and imaginary parts, or the magnitudes, as channels of real numbers."
        )
    if (inputs.dtype == tf.string) != (expected.dtype == tf.string):
        raise ValueError(
            f"examples of '{source}' have dtype {inputs.dtype.name}, but '{model.name}' takes {expected.dtype.name}. "
            "Choose another dataset or model."
        )
