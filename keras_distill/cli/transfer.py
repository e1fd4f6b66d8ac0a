"""Transfer sets that a command line names."""

import argparse
from typing import Any

from keras_distill import data
from keras_distill.data import Augmentation, TransferSet

from .argument_types import name_and_settings
from .common import CommandError, did_you_mean
from .data import read_examples
from .reading import examples


def transfer_set(options: argparse.Namespace, *models: Any) -> TransferSet | None:
    """Return the transfer set of `--transfer`; None without one.

    Args:
        options: Options of the command.
        *models: Student and teacher.

    Raises:
        CommandError: If the text is neither an augmentation nor a dataset.
        ValueError: If the dataset cannot be opened.
    """
    if options.transfer is None:
        return None
    source = augmentation(options.transfer, "--transfer")
    if source is None:
        dataset = examples(options, *models, source=options.transfer)
        # The teacher labels these examples.
        source = read_examples(dataset, options.transfer).with_labels(None)
    return TransferSet(source, share=options.transfer_share, size=options.transfer_size)


def augmentation(text: str, option: str) -> Augmentation | None:
    """Return the augmentation that a text names; None for the name or path of a dataset.

    Args:
        text: Name of an augmentation, with settings in parentheses; or a dataset.
        option: The option, for errors.

    Raises:
        CommandError: If the augmentation does not take its settings, or has an unknown name with settings.
    """
    available = augmentations()
    try:
        name, settings = name_and_settings(text)
    except argparse.ArgumentTypeError as error:
        if text.split("(")[0].strip().lower() in available:
            raise CommandError(f"{option}={text} {error}") from None
        return None
    found = available.get(name.replace("_", "").lower())
    if found is None:
        if "(" in text:
            names = [each.__name__ for each in available.values()]
            raise CommandError(f"{option}: unknown augmentation '{name}'.{did_you_mean(name, names)}")
        return None
    try:
        return found(**settings)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{option}={text}: {error}") from error


def augmentations() -> dict[str, type[Augmentation]]:
    """Return the augmentations of `keras_distill.data`, `{name in lower case: class}`."""
    classes = [getattr(data, name) for name in data.__all__]
    return {
        value.__name__.lower(): value
        for value in classes
        if isinstance(value, type) and issubclass(value, Augmentation) and value is not Augmentation
    }
