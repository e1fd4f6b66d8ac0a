"""What the arguments of a command stand for: models and data sets."""

import importlib
import pathlib
import re
import sys
import zipfile

import absl.logging
import keras
import tensorflow as tf

from keras_distill.data.datasets import open_dataset
from keras_distill.models.specs import input_specs

from .common import CommandError, as_command_error

# TensorFlow warns of the functions that each new model needs, Keras by absl of what it saves.
tf.get_logger().setLevel("ERROR")
absl.logging.set_verbosity(absl.logging.ERROR)


def load(path, modules=()):
    """A `keras.Model` from a `.keras` file, in safe mode, after the modules that its layers need."""
    with as_command_error(f"cannot read {path}"):
        # A command, unlike `python -m`, does not find the modules of the folder it is started in.
        if "" not in sys.path:
            sys.path.insert(0, "")
        for module in modules:
            importlib.import_module(module)
        _check_file(pathlib.Path(path))
        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise CommandError(f"cannot read {path}: {_why(str(error))}") from error
        if not isinstance(model, keras.Model):
            raise CommandError(f"cannot read {path}: it holds a {type(model).__name__}, not a model.")
        return model


def examples(options, *models, source=None, split=None):
    """The data set that the options name, whose examples fit the models: a `tf.data.Dataset`, one by one."""
    source = options.dataset if source is None else source
    named = {"feature": options.feature, "scale": options.scale, "data_dir": options.data_dir}
    dataset = open_dataset(source, split or options.split, **named, like=models[0])
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple) else spec
    for model in models:
        _check_inputs(source, inputs, model)
    return dataset


def _why(said):
    """What Keras says of a file that it cannot read, without the configuration of all layers around the one."""
    if "safe_mode" in said:
        return (
            "it holds code of its own, such as a Lambda layer's, which is not run. Save the model with a layer class "
            "in its place, and name its module with --import."
        )
    strange = re.search(r"Could not locate (?:class|function) '(.*?)'", said)
    if strange:
        return f"'{strange[1]}' in it is unknown. Name the module that registers it with --import."
    return said.rpartition("Exception encountered:")[2]


def _check_file(path):
    if path.is_dir():
        raise CommandError(f"cannot read {path}: it is a folder. Give a .keras file, as `model.save` writes it.")
    if not path.exists():
        raise CommandError(f"cannot read {path}: it is not there.")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        with path.open("rb"):
            pass
        raise CommandError(f"cannot read {path}: it is no .keras file, or not a whole one. Save the model anew.")
    with zipfile.ZipFile(path) as file:
        missing = {"config.json", "model.weights.h5"} - set(file.namelist())
        if missing:
            raise CommandError(f"cannot read {path}: it is no Keras model, since it holds no {sorted(missing)[0]}.")
        # Keras does not notice.
        if file.testzip() is not None:
            raise CommandError(f"cannot read {path}: it is damaged. Save the model anew, or copy the file once more.")


def _check_inputs(source, given, model):
    """Refuses examples of another shape than the model takes, where both have one input."""
    try:
        takes = input_specs(None, model)
    except ValueError:
        return
    if not isinstance(given, tf.TensorSpec) or not isinstance(takes, tf.TensorSpec):
        return
    shape = takes.shape[1:]
    # Keras adds or removes a last axis of 1.
    shapes = [shape, shape[:-1] if shape.rank and shape[-1] == 1 else shape, shape.concatenate([1])]
    if not any(each.is_compatible_with(given.shape) for each in shapes):
        raise ValueError(
            f"the examples of '{source}' have the shape {tuple(given.shape)}, but '{model.name}' takes "
            f"{tuple(shape)}. Choose other data, or a model that takes them."
        )
    if (given.dtype == tf.string) != (takes.dtype == tf.string):
        raise ValueError(
            f"the examples of '{source}' are {given.dtype.name}, but '{model.name}' takes {takes.dtype.name}. Choose "
            "other data, or a model that takes them."
        )
