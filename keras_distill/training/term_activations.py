"""Activations and layers of a term that may be one or several."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.data.top_k import TopKLogits
from keras_distill.distribution import replicas
from keras_distill.heads import Head
from keras_distill.types import Structure, Tensor


def gather(student: Structure, teacher: Structure, batch: Batch) -> tuple[Structure, Structure, Batch]:
    """Return activations and batch with the examples of all replicas."""
    student, teacher, labels, position_weight, index = replicas.all_gather(
        (student, teacher, batch.labels, batch.position_weight, batch.index)
    )
    gathered = {"labels": labels, "position_weight": position_weight, "index": index, "example_weight": None}
    return student, teacher, batch._replace(**gathered)


def each_of(specs: Any) -> tuple:
    """Return one `Spec` or several as a tuple; a `Spec` is a tuple, too."""
    return specs if type(specs) is tuple else (specs,)


def first_of(activations: Structure) -> Any:
    """Return the first of several activations, or the only one."""
    return activations[0] if isinstance(activations, tuple) else activations


def shape_of(specs: Any) -> tuple:
    """Return the shape of a spec, or a tuple of the shapes of several."""
    return tuple(tuple(spec.shape) for spec in specs) if type(specs) in (tuple, list) else tuple(specs.shape)


def symbolic_of(shape: tuple) -> Any:
    """Return symbolic tensors of one shape or of several, from which a head infers its output shape."""
    several = isinstance(shape[0], tuple)
    return tuple(symbolic_of(one) for one in shape) if several else keras.KerasTensor(shape, "float32")


def takes_several(head: Any) -> bool:
    """Return whether a head maps several activations."""
    return isinstance(head, Head) and head.takes_several


def map_activations(function: Callable[[Tensor], Tensor], activations: Structure) -> Structure:
    """Return one activation or several with a function applied to each, and to the logits of `TopKLogits`."""
    return keras.tree.map_structure(
        lambda x: x.map(function) if isinstance(x, TopKLogits) else function(x), activations
    )


def float32(activations: Structure) -> Structure:
    """Return activations cast to float32."""
    return map_activations(lambda x: ops.cast(x, "float32"), activations)


def first_words(logits: Tensor | TopKLogits, words: int | None) -> Tensor | TopKLogits:
    """Return the logits of the first words, or all if `words` is None."""
    if words is None:
        return logits
    return logits.first(words) if isinstance(logits, TopKLogits) else logits[..., :words]


def copy_unless_built(layer: Any) -> Any:
    """Return the layer if it already has variables, else a new one with the same configuration."""
    return layer if layer is None or layer.built else type(layer).from_config(layer.get_config())
