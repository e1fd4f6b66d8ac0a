"""Importance of the blocks and units of a model, measured on examples."""

import dataclasses
import operator
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill import _compat
from keras_distill.compression.repeated_blocks import repeated_blocks
from keras_distill.compression.unit_axes import summed_axes
from keras_distill.models.layers import walk_layers
from keras_distill.models.masking import mask_fits, mean_over_positions
from keras_distill.models.recording import recording
from keras_distill.models.specs import own_inputs, symbolic_inputs
from keras_distill.types import Structure, Tensor
from keras_distill.utils.arguments import check_integer, check_model

_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class Importance:
    """Importance of the blocks and units of a model.

    Attributes:
        blocks: Block influence of each repeated block, 0 to 2, by the paths of its layers that have weights.
        units: Importance of the units that a layer reads, arrays by the path of the layer: shape `[units]`, or `[heads,
            size of a head]` for the output projection of an attention. Defaults to none.

    Example:

    >>> blocks = [keras.layers.Dense(8, activation="relu", name=f"block_{number}") for number in range(3)]
    >>> deep = keras.Sequential([keras.Input((8,)), *blocks, keras.layers.Dense(10, name="logits")])
    >>> small = shrink(deep, depth=2 / 3, importance=Importance({"block_0": 0.4, "block_1": 0.02, "block_2": 0.1}))
    >>> [layer.name for layer in small.layers]
    ['block_0', 'block_2', 'logits']
    """

    blocks: Mapping[str, float]
    units: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def block_influence(inputs: Tensor, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute how much a block changes its input (block influence, BI).

    ```
    influence_i = mean over positions of (1 - x . y / (max(|x|, 1e-8) max(|y|, 1e-8)))
    ```

    Args:
        inputs: Input x of the block, shape `[batch, positions..., channels]`.
        outputs: Output y of the block, of the same shape.
        mask: Shape `[batch, positions...]`, 0 for padding. Defaults to None, all positions count.

    Returns:
        Between 0 and 2, shape `[batch]`. 0 for a block that returns its input.

    Reference:
        Men et al. 2024, https://arxiv.org/abs/2403.03853 (ShortGPT)
    """
    inputs, outputs = ops.cast(inputs, "float32"), ops.cast(outputs, "float32")
    lengths = [ops.maximum(ops.norm(x, axis=-1), _EPSILON) for x in (inputs, outputs)]
    cosine = ops.sum(inputs * outputs, axis=-1) / (lengths[0] * lengths[1])
    return mean_over_positions(1 - cosine, mask)


def unit_importance(activations: Tensor, mask: Tensor | None = None, unit_axes: int = 1) -> Tensor:
    """Compute the importance of units from their activations.

    ```
    importance_u = sqrt(sum over examples of (mean over positions of |a_u|)^2)
    ```

    Args:
        activations: Shape `[batch, positions..., units]`.
        mask: Shape `[batch, positions...]`, 0 for padding. Defaults to None, all positions count.
        unit_axes: Number of the last axes that count as units: 2 for `[heads, size of a head]`. Defaults to 1.

    Returns:
        Shape `[units]`, or that of the last axes.

    Reference:
        Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679 (Minitron)
    """
    sizes = ops.cast(ops.abs(activations), "float32")
    positions = tuple(range(1, len(sizes.shape) - unit_axes))
    if mask is None:
        means = ops.mean(sizes, axis=positions)
    else:
        weight = ops.reshape(ops.cast(mask, "float32"), (*ops.shape(mask), *[1] * unit_axes))
        means = ops.divide_no_nan(ops.sum(sizes * weight, axis=positions), ops.sum(weight, axis=positions))
    return ops.sqrt(ops.sum(ops.square(means), axis=0))


def measure_importance(model: keras.Model, examples: Structure, batch_size: int = 32) -> Importance:
    """Measure the importance of the repeated blocks and the units of a model.

    Blocks are those that `shrink` leaves out. Units are measured where Dense, EinsumDense and convolutions read them,
    after the activation function; a tensor that several layers read is measured once, at the first of them. Positions
    at which the input "padding_mask" is 0, or which the Keras mask of a block masks, do not count.

    Args:
        model: The teacher, a built `keras.Model`.
        examples: Model inputs from the training set, some hundreds of examples: an array, a dictionary or other
            structure of arrays, or a `tf.data.Dataset` of batches, whose labels are not used.
        batch_size: Batch size for arrays. Defaults to 32.

    Returns:
        An `Importance`, for `shrink(importance=)` and `mapping.by_importance`.

    Raises:
        ValueError: If `examples` is empty, or leads to NaN or infinity.

    Example:

    >>> blocks = [keras.layers.Dense(8, activation="relu", name=f"block_{number}") for number in range(3)]
    >>> deep = keras.Sequential([keras.Input((8,)), *blocks, keras.layers.Dense(10, name="logits")])
    >>> measured = measure_importance(deep, np.ones((32, 8)))
    >>> list(measured.blocks), measured.units["logits"].shape
    (['block_0', 'block_1', 'block_2'], (8,))
    >>> pairs = mapping.by_importance(["block_0", "block_1"], list(measured.blocks), measured.blocks)
    """
    check_model(model, "model")
    check_integer(batch_size, "batch_size")
    measure = _Measurement(model)
    blocks, squares, count = np.zeros(len(measure.blocks)), {}, 0
    for inputs in _batches(examples, batch_size):
        influences, units = measure(own_inputs(model, inputs))
        blocks = blocks + np.array([np.sum(np.asarray(each, "float64")) for each in influences])
        squares = {path: squares.get(path, 0) + np.square(np.asarray(a, "float64")) for path, a in units.items()}
        count += len(keras.tree.flatten(inputs)[0])
    if not count:
        raise ValueError("`examples` is empty. Pass some hundreds of inputs of the model.")
    blocks, units = blocks / count, {path: np.sqrt(total) for path, total in squares.items()}
    if not all(np.isfinite(scores).all() for scores in (blocks, *units.values())):
        raise ValueError(
            f"'{model.name}' returns NaN or infinity inside on these `examples`. Check its weights and the range of "
            "the inputs."
        )
    scores = {path: float(score) for paths, score in zip(measure.blocks, blocks) for path in paths}
    return Importance(scores, units)


class _Measurement:
    """Function from a batch to `(influence of each block, {path: importance of units})`.

    Args:
        model: The model.

    Attributes:
        blocks: Paths of the layers of each block.
    """

    def __init__(self, model):
        # Reversed: of several paths of a layer, the first is kept.
        paths = {id(layer): path for path, layer in reversed(list(walk_layers(model)))}
        self._model = model
        self._readers = {
            path: (layer, len(axes))
            for path, layer in walk_layers(model)
            if layer.built and (axes := summed_axes(layer))
        }
        runs = repeated_blocks(model) if _compat.has_graph(model) else []
        self.blocks = [[paths[id(layer)] for layer in block.layers] for run in runs for block in run.blocks]
        self._boundaries = [(run.model, self._boundary_model(run)) for run in runs]
        self._run = tf.function(self._scores, autograph=False, reduce_retracing=True)

    def __call__(self, inputs):
        return self._run(keras.tree.map_structure(tf.convert_to_tensor, inputs))

    def _boundary_model(self, run):
        tensors = [run.blocks[0].inputs, *(block.outputs for block in run.blocks)]
        return keras.Model(symbolic_inputs(run.model), tensors)

    def _scores(self, inputs):
        nested = [model for model, _ in self._boundaries if model is not self._model]
        with recording([*nested, *(layer for layer, _ in self._readers.values())], inputs=True) as calls:
            self._model(inputs, training=False)
        padding = inputs.get("padding_mask") if isinstance(inputs, dict) else None
        influences = []
        for model, boundaries in self._boundaries:
            own = inputs if model is self._model else calls[id(model)][0]
            tensors = boundaries(own, training=False)
            for before, after in zip(tensors, tensors[1:]):
                influences.append(block_influence(before, after, _mask(padding, after)))
        units, measured = {}, set()
        for path, (layer, axes) in self._readers.items():
            # A layer that is called several times is measured in its first call.
            for tensor in calls[id(layer)][:1]:
                if id(tensor) not in measured:
                    measured.add(id(tensor))
                    units[path] = unit_importance(tensor, _mask(padding, tensor, axes), axes)
        return influences, units


def _mask(padding, tensor, unit_axes=1):
    """Return the mask of the positions of a tensor, or None."""
    mask = _compat.keras_mask(tensor) if padding is None else padding
    fits = mask is not None and mask_fits(mask, tensor) and len(mask.shape) == len(tensor.shape) - unit_axes
    return mask if fits else None


def _batches(examples: Structure, batch_size: int) -> Iterator[Structure]:
    if isinstance(examples, tf.data.Dataset):
        for element in examples:
            yield keras.utils.unpack_x_y_sample_weight(element)[0]
        return
    arrays = keras.tree.map_structure(np.asarray, examples)
    for start in range(0, len(keras.tree.flatten(arrays)[0]), batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(operator.itemgetter(part), arrays)
