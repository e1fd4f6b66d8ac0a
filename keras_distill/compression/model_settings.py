"""Integers in the configs of whole models that determine their width and depth."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_distill import _compat
from keras_distill.compression.width_groups import scaled_heads, scaled_width
from keras_distill.compression.width_settings import HEAD_COUNTS, HEAD_SIZES, WIDTHS

DEPTHS = ("num_layers", "num_blocks", "num_hidden_layers", "num_encoder_layers", "num_decoder_layers", "depth")

# Function from repeated blocks, each given by its layers, and a fraction to the indices of the blocks that are kept.
Choose = Callable[[list[tuple[keras.layers.Layer, ...]], float], list[int]]


def evenly_spaced(count: int, fraction: float) -> list[int]:
    """Return which of some repeated blocks are kept: the first one and others at equal distances.

    Args:
        count: Number of blocks.
        fraction: Fraction of them that is kept, in (0, 1].
    """
    kept = number_kept(count, fraction)
    return [math.ceil(index * count / kept) for index in range(kept)]


def number_kept(count: int, fraction: float) -> int:
    """Return how many of some repeated blocks are kept, at least 1; see `evenly_spaced`."""
    return max(1, math.floor(count * fraction + 0.5))


def has_settings(model: Any) -> bool:
    """Return whether a model is constructed from integers with the usual names, also by models inside.

    Args:
        model: A layer or model.
    """
    if not isinstance(model, keras.Model) or _compat.is_plain_graph(model):
        return False
    try:
        config = model.get_config()
    except NotImplementedError:
        return False
    names = (*DEPTHS, *WIDTHS, *HEAD_COUNTS)
    # The config of a functional model without its own `get_config` lists layers.
    own = "layers" not in config and any(_is_size(config.get(name)) for name in names)
    return own or any(has_settings(getattr(model, key, None)) for key in config)


def is_rebuilt(layer: Any) -> bool:
    """Return whether a model is rebuilt layer by layer, since it has a graph and no settings."""
    return _compat.has_graph(layer) and not has_settings(layer)


def scaled_settings(config: dict[str, Any], width: float, depth: float) -> dict[str, int]:
    """Return the scaled integers of the config of a model.

    The hidden size stays a multiple of the number of heads, and the size of a head even if it was.

    Args:
        config: Config of the model.
        width: Factor of the widths, in (0, 1].
        depth: Factor of the number of layers, in (0, 1].
    """
    scaled = {key: number_kept(config[key], depth) for key in DEPTHS if _is_size(config.get(key))}
    if width == 1:
        return scaled
    heads = [key for key in HEAD_COUNTS if _is_size(config.get(key))]
    sizes = [key for key in HEAD_SIZES if _is_size(config.get(key))]
    counts = scaled_heads([config[key] for key in heads], width) if heads else []
    if sizes and (not heads or math.gcd(*(config[key] for key in heads)) * width % 1):
        # Their number cannot be scaled exactly, so that their size is.
        counts = [config[key] for key in heads]
        scaled |= {key: scaled_width(config[key], width, 2 - config[key] % 2) for key in sizes}
    scaled |= dict(zip(heads, counts))
    for key in WIDTHS:
        if _is_size(config.get(key)):
            divisor = 1
            if heads and config[key] % config[heads[0]] == 0:
                divisor = counts[0] * (2 - config[key] // config[heads[0]] % 2)
            scaled[key] = scaled_width(config[key], width, divisor)
    return scaled


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
