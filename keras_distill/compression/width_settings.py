"""Integers in the configs of layers that determine widths."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_distill.compression.width_groups import scaled_heads

# Sizes of the last axis of an output, or of a hidden layer inside.
WIDTHS = (
    "units",
    "filters",
    "output_dim",
    "embedding_dim",
    "hidden_dim",
    "hidden_size",
    "intermediate_dim",
    "intermediate_size",
    "mlp_dim",
    "projection_dim",
)
HEAD_COUNTS = ("num_heads", "num_query_heads", "num_key_value_heads", "num_attention_heads")
HEAD_SIZES = ("key_dim", "value_dim", "head_dim", "head_size", "key_value_dim")
# Shapes whose entries may follow the width of the input.
SHAPES = ("target_shape", "newshape", "shape")

Path = tuple[str | int, ...]


def width_settings(config: Mapping[str, Any], factor: float) -> dict[Path, int | None]:
    """Return the integers of a config that may be widths, also of layers inside: `{path: new size or None}`.

    Of attention heads, either their number is scaled, which keeps their size, or else their size.

    Args:
        config: Config of a layer.
        factor: Factor of the widths, in (0, 1].

    Returns:
        The new size is None if it can be chosen.
    """
    found = {}
    for part, prefix in _parts(config, ()):
        heads = [key for key in HEAD_COUNTS if _is_width(part.get(key))]
        sizes = [key for key in HEAD_SIZES if _is_width(part.get(key))]
        exact = heads and math.gcd(*(part[key] for key in heads)) * factor % 1 == 0
        if heads and (exact or not sizes):
            counts = scaled_heads([part[key] for key in heads], factor)
            found |= {(*prefix, key): count for key, count in zip(heads, counts)}
            sizes = []
        names = [*(key for key in WIDTHS if _is_width(part.get(key))), *sizes]
        found |= {(*prefix, key): None for key in names}
        # EinsumDense and MultiHeadAttention have it. Axes before the last one, such as heads, are kept.
        found |= {(*prefix, *path): None for path in _entries(part, "output_shape")[-1:]}
    return found


def other_integers(config: Mapping[str, Any], factor: float) -> list[Path]:
    """Return the paths of the integers of a config that have none of the usual names of widths.

    Args:
        config: Config of a layer.
        factor: Factor of the widths, in (0, 1].
    """
    known = {*(path[0] for path in width_settings(config, factor)), *HEAD_COUNTS, *HEAD_SIZES, *SHAPES}
    return [(key,) for key, value in config.items() if key not in known and _is_width(value)]


def shape_entries(config: Mapping[str, Any]) -> list[Path]:
    """Return the paths of the sizes in a shape of a config, the last axis first."""
    return [path for key in SHAPES for path in reversed(_entries(config, key))]


def read_setting(config: Mapping[str, Any], path: Path) -> int:
    """Return the integer at a path."""
    for key in path:
        config = config[key]
    return config


def with_settings(config: Mapping[str, Any], values: Mapping[Path, int]) -> dict[str, Any]:
    """Return a copy of a config with other integers.

    Args:
        config: Config of a layer.
        values: `{path: integer}`.
    """
    config = copy.deepcopy(config)
    for path, value in values.items():
        part = config
        for key in path[:-1]:
            if isinstance(part[key], tuple):
                part[key] = list(part[key])
            part = part[key]
        part[path[-1]] = value
    return config


def _parts(config: Any, prefix: Path) -> Iterator[tuple[Mapping, Path]]:
    """Yield a config and those of the layers inside, with their paths."""
    if isinstance(config, dict):
        if not prefix or prefix[-1] == "config":
            yield config, prefix
        for key, value in config.items():
            yield from _parts(value, (*prefix, key))
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _parts(value, (*prefix, index))


def _entries(config, key):
    """Return the paths of the sizes in a shape, which may be an integer."""
    shape = config.get(key)
    if isinstance(shape, (list, tuple)):
        return [(key, axis) for axis, size in enumerate(shape) if _is_width(size)]
    return [(key,)] if _is_width(shape) else []


def _is_width(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 1
