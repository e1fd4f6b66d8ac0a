"""Axes of kernels over which layers sum: those of the units that they read."""

import keras
from keras import layers

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


def summed_axes(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Return the axes of the kernel of a built layer that belong to the last axes of its inputs.

    Args:
        layer: A layer.

    Returns:
        One axis for Dense and convolutions; two for an EinsumDense that reads heads; none for other layers, and for
        convolutions whose channels are in groups or not in the last axis.
    """
    if isinstance(layer, layers.Dense):
        return (0,)
    if isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED)):
        # Transposed convolutions have no groups.
        plain = layer.get_config().get("groups", 1) == 1 and layer.data_format == "channels_last"
        rank = len(layer.kernel.shape)
        return ((rank - 1,) if isinstance(layer, _TRANSPOSED) else (rank - 2,)) if plain else ()
    if not isinstance(layer, layers.EinsumDense):
        return ()
    inputs, kernel, outputs = layer.equation.replace("->", ",").split(",")
    summed = "".join(letter for letter in inputs if letter in kernel and letter not in outputs)
    return tuple(kernel.index(letter) for letter in summed) if inputs.endswith(summed) else ()
