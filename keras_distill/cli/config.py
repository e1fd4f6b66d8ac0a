"""Options of a command as a YAML file, by name."""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from .common import CommandError, Parser, did_you_mean

# Names of options that differ from the names of their values.
_NAMES = {"losses": "loss", "modules": "import"}
_INTERNAL = ("run", "error", "resumable", "command", "config", "quiet", "verbose", "force")
_POSITIONAL = ("teacher", "student")


def values(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options as plain values, `{name: value}`, without those that are not set.

    Args:
        options: Options of a command.
    """
    listed = {_NAMES.get(name, name): value for name, value in vars(options).items() if name not in _INTERNAL}
    plain = {name: _plain(value) for name, value in listed.items() if value not in (None, [])}
    return plain | ({"classes": ",".join(plain["classes"])} if "classes" in plain else {})


def write(options: argparse.Namespace, path: str | os.PathLike) -> None:
    """Write the options to a file that `--config` reads.

    Args:
        options: Options of a command.
        path: The file.
    """
    import yaml

    from keras_distill.utils.files import atomic_write

    with atomic_write(path) as file:
        file.write(yaml.safe_dump(values(options), sort_keys=False, allow_unicode=True).encode())


def expand(arguments: Sequence[str], parser: Parser) -> list[str]:
    """Return the arguments of a command with those of its `--config` file, which explicit arguments override.

    Args:
        arguments: Arguments after the name of the command.
        parser: Parser of the command.

    Raises:
        CommandError: If the file cannot be read, or holds an unknown name.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    found, rest = finder.parse_known_args(arguments)
    if found.config is None:
        return list(arguments)
    content = _read(found.config)
    known = parser.option_names()
    positional = [str(content.pop(name)) for name in _POSITIONAL if name in content]
    tokens = []
    for name, value in content.items():
        option = "--" + str(name).replace("_", "-")
        if option not in known:
            raise CommandError(f"{found.config}: unknown name '{name}'.{did_you_mean(option, known).replace('--', '')}")
        tokens += _tokens(option, value, known)
    # Positional arguments come first on a command line.
    given = bool(rest) and not rest[0].startswith("-")
    return [*([] if given else positional), *(rest[: len(positional)] if given else []), *tokens] + (
        rest[len(positional) :] if given else rest
    )


def _tokens(option, value, known):
    if value is None:
        return []
    if isinstance(value, bool):
        negated = option.replace("--", "--no-", 1)
        return [option] if value else [negated] if negated in known else []
    return [f"{option}={item}" for item in (value if isinstance(value, list) else [value])]


def _read(path):
    try:
        import yaml

        content = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except Exception as error:
        raise CommandError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise CommandError(f"cannot read {path}: it must hold options by name, such as `temperature: 2`.")
    return content


def _plain(value):
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
