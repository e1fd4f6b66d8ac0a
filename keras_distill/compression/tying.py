"""Layers that share one set of weights."""

import fnmatch

import keras

from keras_distill import mapping
from keras_distill.compression.folding import rebuild
from keras_distill.models.taps import find_layer, walk_layers


def tie_weights(model, blocks, own=()):
    """A model like the given one, in which several blocks use the weights of the first of them, as in ALBERT.

    ```python
    small = share(student, mapping.layers(student, "transformer_layer_*"))
    tiny = share(student, ["conv_1_*", "conv_2_*", "conv_3_*"], own=["*_bn"])
    ```

    The weights are counted, trained, saved and exported once; as much is computed as before. They start from those of
    the first block. A layer that is shared is called several times in a pass: taps read "block_1@0", "block_1@1" and so
    on.

    Args:
        model: A functional or Sequential `keras.Model`, which stays as it is.
        blocks: List of two blocks or more, in any order of the model. Each is the path of a layer or of a nested model,
            or a pattern as of `mapping.layers` for several layers, which stand for those of the first block in order.
        own: Patterns of paths of layers that every block keeps for itself. Layers that hold statistics belong there,
            such as BatchNormalization: each block sees other activations.

    Raises:
        ValueError: If the model is not functional, if there is one block only or one is not there, or if the layers of
            a block are not like those of the first.

    Reference:
        Lan et al., ICLR 2020, https://arxiv.org/abs/1909.11942
    """
    if len(blocks) < 2:
        raise ValueError(f"Weights are shared by two blocks or more. Received: {blocks!r}")
    first, *others = (_leaves(model, block, own) for block in blocks)
    stands_for = {}
    for block, leaves in zip(blocks[1:], others):
        _check_alike(blocks[0], first, block, leaves)
        stands_for |= {id(layer): one for (_, one), (_, layer) in zip(first, leaves)}
    made = {}

    def clone(layer):
        layer = stands_for.get(id(layer), layer)
        if id(layer) not in made:
            made[id(layer)] = layer, type(layer).from_config(layer.get_config())
        return made[id(layer)][1]

    shared = rebuild(model, clone)
    for layer, copy in made.values():
        # Operations such as `x + y` have none.
        if isinstance(layer, keras.layers.Layer):
            copy.set_weights(layer.get_weights())
    return shared


def _leaves(model, block, own):
    """`[(path, layer)]` of a block: its layers, or those inside where they are models, but those that it keeps."""
    paths = mapping.layers(model, block) if "*" in block else [block]
    leaves = []
    for path in paths:
        layer = find_layer(model, path)
        inside = walk_layers(layer, f"{path}/") if isinstance(layer, keras.Model) else [(path, layer)]
        leaves += [(path, leaf) for path, leaf in inside if _rebuilt(leaf)]
    return [(path, leaf) for path, leaf in leaves if not any(fnmatch.fnmatch(path, pattern) for pattern in own)]


def _rebuilt(layer):
    return not isinstance(layer, (keras.Model, keras.layers.InputLayer))


def _check_alike(first, leaves, block, others):
    kinds = [
        [(type(layer).__name__, [tuple(weight.shape) for weight in layer.weights]) for _, layer in each]
        for each in (leaves, others)
    ]
    if not leaves:
        raise ValueError(f"'{first}' has no layers to share.")
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"'{block}' cannot use the weights of '{first}': its layers and their weights are {kinds[1]}, those "
            f"of '{first}' {kinds[0]}. Name with `own=` what each block keeps for itself."
        )
