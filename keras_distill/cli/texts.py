"""Language models and texts that a command line names."""

import argparse
import json
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data.labels import UNLABELLED

from .common import CommandError

SUFFIXES = (".txt", ".jsonl")
# Files of a directory that KerasHub's `save_to_preset` wrote.
_PRESET = ("config.json", "model.weights.h5")


def is_preset(path: pathlib.Path) -> bool:
    """Return whether a path is a directory that KerasHub's `save_to_preset` wrote."""
    return path.is_dir() and all((path / name).exists() for name in _PRESET)


def load_preset(path: pathlib.Path) -> keras.Model:
    """Load a causal language model of KerasHub without its preprocessor, which only its own `fit` would apply.

    Args:
        path: Directory of the preset.

    Raises:
        CommandError: If KerasHub is not installed, or the preset is of another kind.
    """
    return _load(path, preprocessor=None)


def text_examples(source: str, options: argparse.Namespace) -> tf.data.Dataset:
    """Return the texts of a file as single examples `(x, y, sample_weight)`.

    Tokens that do not count, of prompts and padding, have the label -1 for the score, and the weight 0 for all losses.

    Args:
        source: `.txt` file with a text in each line; or `.jsonl` file with an object in each line, of "prompt" and
            "response", or of "text".
        options: Options of the command, of which a model is a preset.

    Raises:
        CommandError: If no model is a preset, or the file cannot be read.
    """
    from keras_distill.language import completions

    models = [getattr(options, name, None) for name in ("student", "teacher", "model")]
    preset = next((path for path in map(pathlib.Path, filter(None, models)) if is_preset(path)), None)
    if preset is None:
        raise CommandError(
            f"{source} contains texts, but no model has a tokenizer. Pass the directory of a preset of KerasHub, as "
            "`CausalLM.save_to_preset` writes it."
        )
    preprocessor = _load(preset).preprocessor
    if options.sequence_length is not None:
        preprocessor.sequence_length = options.sequence_length
    prompts, responses = _read(pathlib.Path(source).expanduser())
    try:
        x, y, weight = completions(preprocessor)(prompts, responses)
    except ValueError as error:
        raise CommandError(f"{source}: {error}") from error
    weight = np.asarray(weight, "float32")
    labels = np.where(weight > 0, np.asarray(y), UNLABELLED)
    return tf.data.Dataset.from_tensor_slices((x, labels.astype("int32"), weight))


def save_preset(preset: pathlib.Path, out: pathlib.Path) -> None:
    """Write the student of an experiment as a preset of KerasHub.

    Args:
        preset: Preset of the student before training.
        out: Directory of the results, which contains student.keras. The preset is written to its subdirectory student.
    """
    model = _load(preset)
    model.set_weights(keras.saving.load_model(out / "student.keras", compile=False).get_weights())
    model.save_to_preset(str(out / "student"))
    print(f"Wrote the preset {out / 'student'}")


def _load(path: pathlib.Path, **arguments: Any) -> keras.Model:
    try:
        import keras_hub
    except ImportError as error:
        raise CommandError(f"{path} is a preset of KerasHub. Run `pip install keras-hub`.") from error
    try:
        return keras_hub.models.CausalLM.from_preset(str(path), **arguments)
    except (ValueError, OSError) as error:
        raise CommandError(f"cannot read {path} as a causal language model: {' '.join(str(error).split())}") from error


def _read(path: pathlib.Path) -> tuple[list[str], list[str]]:
    """Return the prompts and the responses of a file."""
    if not path.is_file():
        raise CommandError(f"{path} not found.")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not a text file in UTF-8: {error}") from error
    if not lines:
        raise CommandError(f"{path} holds no texts.")
    if path.suffix == ".txt":
        return [""] * len(lines), lines
    pairs = [_pair(path, number, line) for number, line in enumerate(lines, 1)]
    return [prompt for prompt, _ in pairs], [response for _, response in pairs]


def _pair(path: pathlib.Path, number: int, line: str) -> tuple[str, str]:
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise CommandError(f"line {number} of {path} is not JSON: {error}") from error
    keys = ("prompt", "response") if isinstance(entry, dict) and "response" in entry else ("", "text")
    texts = [entry.get(key, "") if isinstance(entry, dict) and key else "" for key in keys]
    if not all(isinstance(text, str) for text in texts) or not texts[1]:
        raise CommandError(
            f'line {number} of {path} must be an object such as {{"prompt": "...", "response": "..."}} or '
            f'{{"text": "..."}}, with a response or text that is not empty. Received: {line[:80]}'
        )
    return texts[0], texts[1]
