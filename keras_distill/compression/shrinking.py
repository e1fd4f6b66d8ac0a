"""Students made from a teacher: the same architecture, narrower and with fewer blocks."""

import functools
import warnings

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.compression.config_scaling import pair_numbered_layers, scale_config
from keras_distill.compression.importance import Importance, measure_importance
from keras_distill.compression.initialization import copy_weights
from keras_distill.compression.model_settings import DEPTHS, Choose, evenly_spaced, has_settings, number_kept
from keras_distill.compression.narrowing import narrow
from keras_distill.compression.repeated_blocks import leave_out_blocks
from keras_distill.compression.unit_choice import choose_units
from keras_distill.compression.width_settings import WIDTHS
from keras_distill.models.layers import walk_layers
from keras_distill.models.specs import input_specs
from keras_distill.types import Structure
from keras_distill.utils.arguments import check_model, check_number
from keras_distill.utils.ranking import largest

_NO_BLOCKS = (
    "there are no repeated blocks, which are consecutive parts of the model with the same layers and an output of the "
    "shape of their input."
)
_NO_WIDTHS = "make the outputs or are joined with inputs, so that their widths are kept."


def shrink(
    model: keras.Model,
    width: float = 1.0,
    depth: float = 1.0,
    copy: bool = False,
    importance: Structure | Importance | None = None,
) -> keras.Model:
    """Return a student of the same architecture as a teacher, with narrower layers and fewer blocks.

    The number of weights shrinks to about `width**2 * depth` of the teacher's. Widths that depend on each other stay
    equal, as in a residual sum. The inputs, the outputs, the names of layers and the preprocessing stay the same, so
    that taps of both models correspond.

    - `width` scales the units, filters, channels and attention heads of all layers but those that make the outputs or
      are added to the inputs. Multiples of 8 stay multiples of 8.
    - `depth` keeps a fraction of each run of repeated blocks: the first one and others at equal distances; 0.5 leaves
      out every second one. With `importance`, the blocks that change their inputs most are kept. Repeated blocks are
      consecutive parts of the model that have the same layers and whose outputs have the shape of their inputs. If the
      model has none, a warning is issued.

    A model of KerasHub, or of your class whose `get_config` returns such integers as `num_layers`, `hidden_dim`,
    `num_heads` or `units`, is constructed again from scaled integers. Other functional and Sequential models are
    rebuilt layer by layer, models inside of them included. All layers of the student are trainable.

    Args:
        model: The teacher, a built `keras.Model`. It is not modified.
        width: Factor of the widths, in (0, 1]. 0.25 to 0.75 is typical. Defaults to 1.
        depth: Fraction of the repeated blocks that is kept, in (0, 1]. 0.25 to 0.75 is typical. Defaults to 1.
        copy: Whether to initialize the student from the teacher by `copy_weights`: from the blocks that are kept, and
            from the first units of each layer, or with `importance` from the most important ones. Of inputs joined by
            Concatenate or flattened by Flatten, the first units are others than those that feed them. Defaults to
            False, random weights. The statistics of preprocessing layers are always copied.
        importance: Model inputs from the training set, some hundreds of examples, or an `Importance` that
            `measure_importance` returned for them. The blocks with the largest influence are kept, in their order, and
            with `copy` the units with the largest importance: channels, feed-forward units and whole attention heads,
            in grouped-query attention those of the best key-value heads. Axes with the same units get the same ones,
            such as a residual stream with its normalizations and tied embeddings. The first units are still taken
            after Flatten and Concatenate, in recurrent layers, in layers with groups of channels, of the size of a
            head, and of what a model of KerasHub returns to layers around it. Defaults to None: evenly spaced blocks
            and the first units.

    Returns:
        A new model. It is saved and loaded like the teacher.

    Raises:
        ValueError: If nothing gets smaller, if an argument is out of range, if `importance` lacks a block, or if a
            layer cannot be adapted, such as Lambda; the error names the layer.

    Example:

    >>> blocks = [keras.layers.Dense(64, activation="relu", name=f"block_{number}") for number in range(4)]
    >>> teacher = keras.Sequential([keras.Input((64,)), *blocks, keras.layers.Dense(10, name="logits")])
    >>> small = shrink(teacher, width=0.5, depth=0.5)
    >>> [(layer.name, layer.units) for layer in small.layers]
    [('block_0', 32), ('block_2', 32), ('logits', 10)]
    """
    check_model(model, "model")
    width = check_number(width, "width", above=0, at_most=1)
    depth = check_number(depth, "depth", above=0, at_most=1)
    if width == depth == 1:
        raise ValueError("`width` and `depth` are both 1, so that nothing gets smaller. Pass e.g. `width=0.5`.")
    if isinstance(model, keras.Sequential) and not _compat.has_graph(model):
        raise ValueError(f"'{model.name}' is not built. Call it on data, or begin it with a keras.Input.")
    if importance is not None and not isinstance(importance, Importance):
        importance = measure_importance(model, importance)
    choose = _choice(model, importance)
    shallow = _scale(model, 1.0, depth, choose)
    student = _scale(shallow, width, 1.0, choose)
    reasons = [
        *([f"`depth` has no effect: {_NO_BLOCKS}"] if depth < 1 and shallow is model else []),
        *(
            [f"`width` has no effect: the layers {_names(model)} {_NO_WIDTHS}"]
            if width < 1 and student is shallow
            else []
        ),
    ]
    if student is model:
        raise ValueError(f"Nothing of '{model.name}' gets smaller. {' '.join(reasons)} Construct the student by hand.")
    for reason in reasons:
        warnings.warn(f"'{model.name}': {reason}", stacklevel=2)
    # Random weights must be trained, also where those of the teacher are frozen.
    for layer in _compat.flatten_layers(student):
        layer.trainable = True
    _check_runs(model, student)
    if copy:
        pairs, units = pair_numbered_layers(student, model, choose), {}
        if importance is not None and width < 1:
            scale = functools.partial(_scale, width=width, depth=1.0, choose=choose)
            units = choose_units(shallow, student, width, scale, importance.units, pairs)
        copy_weights(student, model, pairs, units=units)
    return student


def _choice(model: keras.Model, importance: Importance | None) -> Choose:
    """Return the function that chooses which repeated blocks are kept."""
    if importance is None:
        return lambda blocks, fraction: evenly_spaced(len(blocks), fraction)
    # Reversed: of several paths of a layer, the first is kept.
    paths = {id(layer): path for path, layer in reversed(list(walk_layers(model)))}

    def choose(blocks, fraction):
        names = [[paths[id(layer)] for layer in block] for block in blocks]
        missing = [block for block in names if not any(name in importance.blocks for name in block)]
        if missing:
            raise ValueError(
                f"`importance` has no score for the repeated block of '{model.name}' with the layers {missing[0]}. "
                "Measure it on this model, by `measure_importance(model, examples)`, or pass "
                "`Importance({path: score})` with a path of each block."
            )
        scores = [next(importance.blocks[name] for name in block if name in importance.blocks) for block in names]
        return largest(scores, number_kept(len(blocks), fraction))

    return choose


def _check_runs(model, student):
    """Trace the student, since some layers declare output shapes without a look at their inputs."""
    try:
        tf.function(lambda x: student(x, training=False)).get_concrete_function(input_specs(None, student))
    except Exception as error:
        raise ValueError(
            f"A narrower '{model.name}' does not run: {' '.join(str(error).split())} Let the layers of this message "
            "compute their shapes from those of their inputs, or construct the student by hand."
        ) from error


def _names(model):
    """Return the names of the layers that have weights, up to 10 of them."""
    names = [layer.name for layer in model.layers if layer.weights]
    return ", ".join(repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")


def _scale(model: keras.Model, width: float, depth: float, choose: Choose) -> keras.Model:
    """Return a narrower or shallower model; the model itself if nothing can be scaled or both factors are 1."""
    if width == depth == 1:
        return model
    if has_settings(model):
        return scale_config(model, width, depth, functools.partial(_scale, choose=choose))
    if not _compat.has_graph(model):
        raise ValueError(
            f"'{model.name}' ({type(model).__name__}) has no graph of layers, and its config has no integers that "
            f"determine its size, such as {', '.join((*DEPTHS[:1], *WIDTHS[:3]))}. Let its `get_config` return them, "
            "or construct the student by hand."
        )

    def scale_nested(nested):
        return _scale(nested, width, depth, choose)

    return narrow(model, width, scale_nested) if depth == 1 else leave_out_blocks(model, depth, scale_nested, choose)
