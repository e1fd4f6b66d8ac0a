"""Cross-layer parameter sharing."""

from collections.abc import Sequence

import keras

from keras_distill import mapping
from keras_distill.compression.folding import rebuild
from keras_distill.models.layers import find_layer, matches_pattern, walk_layers
from keras_distill.utils.arguments import check_model


def tie_weights(model: keras.Model, blocks: Sequence[str], exclude: Sequence[str] = ()) -> keras.Model:
    """Return a copy of a model with cross-layer parameter sharing: several blocks use the same weights, as in ALBERT.

    The tied weights are counted, trained, saved and exported once; the number of operations stays the same. They are
    initialized from the first block. A tied layer is called several times per forward pass, so its taps carry the
    number of the call: "block_1@0", "block_1@1" and so on.

    Args:
        model: A functional or Sequential `keras.Model`. It is not modified.
        blocks: Two or more blocks of the model, in any order. Each is the path of a layer or nested model, or a pattern
            in the syntax of `mapping.layers` that selects several layers, e.g. "block_1_*". The layers of all blocks
            are matched in order.
        exclude: Patterns of layers whose weights are not tied, e.g. `["*_bn"]`: paths or ends of paths, in which a `*`
            stands for any characters. Exclude layers with statistics
            such as BatchNormalization, because the activations of each block differ. Defaults to none.

    Returns:
        A new model. Its weights are copies of those of `model`.

    Raises:
        ValueError: If `model` is not functional, if there are fewer than two blocks, if a block does not exist or has
            no layers, or if the layers of a block differ from those of the first in class or weight shapes.

    Example:

    >>> layers = [keras.layers.Dense(8, name=f"block_{number}") for number in range(3)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> tied = tie_weights(model, ["block_0", "block_1", "block_2"])
    >>> model.count_params(), tied.count_params()
    (216, 72)

    Reference:
        Lan et al., ICLR 2020, https://arxiv.org/abs/1909.11942
    """
    check_model(model, "model")
    if len(blocks) < 2:
        raise ValueError(f"`blocks` must name two or more blocks. Received: {blocks!r}")
    first, *others = (_leaf_layers(model, block, exclude) for block in blocks)
    replacements = {}
    for block, leaves in zip(blocks[1:], others):
        _check_same_layers(blocks[0], first, block, leaves)
        replacements |= {id(layer): tied for (_, tied), (_, layer) in zip(first, leaves)}
    copies = {}

    def clone(layer):
        layer = replacements.get(id(layer), layer)
        if id(layer) not in copies:
            copies[id(layer)] = layer, type(layer).from_config(layer.get_config())
        return copies[id(layer)][1]

    tied_model = rebuild(model, clone)
    for layer, copy in copies.values():
        # `rebuild` also clones operations such as `x + y`, which have no weights.
        if isinstance(layer, keras.layers.Layer):
            copy.set_weights(layer.get_weights())
    return tied_model


def _leaf_layers(model, block, exclude):
    """Return `[(path, layer)]` of a block: nested models are replaced by their layers, excluded paths dropped."""
    paths = mapping.layers(model, block) if "*" in block else [block]
    leaves = []
    for path in paths:
        layer = find_layer(model, path)
        inside = walk_layers(layer, f"{path}/") if isinstance(layer, keras.Model) else [(path, layer)]
        leaves += [
            (path, leaf) for path, leaf in inside if not isinstance(leaf, (keras.Model, keras.layers.InputLayer))
        ]
    return [(path, leaf) for path, leaf in leaves if not any(matches_pattern(path, pattern) for pattern in exclude)]


def _check_same_layers(first, first_leaves, block, leaves):
    if not first_leaves:
        raise ValueError(f"'{first}' has no layers whose weights can be tied.")
    expected, received = _classes_and_shapes(first_leaves), _classes_and_shapes(leaves)
    if expected != received:
        raise ValueError(
            f"'{block}' cannot share the weights of '{first}': the layers and weight shapes of '{block}' are "
            f"{received}, those of '{first}' are {expected}. Pass patterns of layers that must keep their own weights "
            "as `exclude=`, e.g. exclude=['*_bn']."
        )


def _classes_and_shapes(leaves):
    return [(type(layer).__name__, [tuple(weight.shape) for weight in layer.weights]) for _, layer in leaves]
