"""Language models with fewer words."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_distill import _compat
from keras_distill.compression.config_scaling import construct
from keras_distill.compression.graph_rebuilding import config_of, from_config, rebuild_graph, tensors_in
from keras_distill.compression.model_settings import is_rebuilt
from keras_distill.models.layers import walk_layers

_SETTING = "vocabulary_size"


class TrimmedVocabulary(NamedTuple):
    """Result of `trim_vocabulary`.

    Attributes:
        model: The smaller model.
        ids: New index of each word of the original vocabulary, int32, shape `[original words]`; -1 for removed words.
    """

    model: keras.Model
    ids: np.ndarray


def trim_vocabulary(model: keras.Model, words: Sequence[int]) -> TrimmedVocabulary:
    """Return a copy of a language model with some of its words only.

    The rows of the token embedding and the columns of the layer that computes the logits are selected, tied or not;
    all other weights are copied. For the words that are left, the logits are those of the original model. Two uses:
    removing the padding of a vocabulary, `words=range(32_000)`, so that student and teacher have the same words; and a
    smaller student for a language or domain.

    Models of KerasHub, and of your class whose `get_config` returns `vocabulary_size`, are constructed again. A
    preprocessor is left out, because its tokenizer has the original indices. Other functional and Sequential models are
    rebuilt: they must end in a `Dense` layer or a tied embedding, with or without a softmax; every embedding of as many
    words as there are logits is trimmed.

    Args:
        model: A built `keras.Model`: a language model, or a KerasHub backbone. It is not modified.
        words: Indices of the words to keep, in the new order. Keep the special tokens. If an embedding has
            `mask_zero=True`, the first word must be 0.

    Returns:
        A `TrimmedVocabulary`: the model, and the new index of each original word.

    Raises:
        ValueError: If the model has no vocabulary that can be trimmed, or `words` are not different indices of some,
            but not all, of its words.

    Example:

    >>> tokens = keras.Input((None,), dtype="int32")
    >>> hidden = keras.layers.Embedding(6, 4)(tokens)
    >>> model = keras.Model(tokens, keras.layers.Dense(6, name="logits")(hidden))
    >>> small, ids = trim_vocabulary(model, [0, 2, 5])
    >>> small.output.shape
    (None, None, 3)
    >>> ids.tolist()
    [0, -1, 1, -1, -1, 2]
    >>> logits = small(ids[np.array([[5, 2]])])
    """
    size = _vocabulary_size(model)
    words = _checked_words(words, size, model)
    pairs = []
    smaller = _trim(model, size, words, pairs)
    for layer, copy in pairs:
        _copy_weights(layer, copy, size, words)
    ids = np.full(size, -1, "int32")
    ids[words] = np.arange(len(words))
    return TrimmedVocabulary(smaller, ids)


def _vocabulary_size(model):
    if isinstance(model, keras.Model) and is_rebuilt(model):
        return _head(model).shape[-1]
    sizes = set(_settings(model)) if isinstance(model, keras.Model) and model.built else set()
    if len(sizes) != 1:
        raise ValueError(
            "`model` must be a built functional or Sequential language model, or a model whose `get_config`, or that "
            f"of a model inside, returns one `{_SETTING}`. Received: {model!r} with the sizes {sorted(sizes)}"
        )
    return sizes.pop()


def _settings(model):
    """Yield the sizes of vocabularies in the config of a model and of the models inside."""
    config = model.get_config()
    if isinstance(config.get(_SETTING), int):
        yield config[_SETTING]
    for part in _parts(model, config).values():
        yield from _settings(part)


def _parts(model, config):
    parts = {key: getattr(model, key, None) for key in config}
    return {key: part for key, part in parts.items() if isinstance(part, keras.Model)}


def _head(model):
    """Return the tensor of the logits: the output, or the input of the operations without weights that follow."""
    if len(model.outputs) != 1:
        raise ValueError(f"'{model.name}' must have one output, the logits. It has {len(model.outputs)}.")
    tensor = model.outputs[0]
    while True:
        layer, inputs = _compat.producing_call(tensor)
        if isinstance(layer, (keras.layers.Dense, keras.layers.Embedding)):
            return tensor
        same = [x for x in inputs if x.shape[-1] == tensor.shape[-1]]
        if getattr(layer, "weights", ()) or not same:
            raise ValueError(
                f"'{model.name}' must end in a Dense layer or in an embedding that is called with `reverse=True`. It "
                f"ends in layer '{layer.name}' ({type(layer).__name__})."
            )
        tensor = same[0]


def _checked_words(words, size, model):
    array = np.asarray(words)
    if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`words` must be a list of indices of words. Received: {words!r}")
    outside = array[(array < 0) | (array >= size)]
    if len(outside):
        raise ValueError(f"`words` has the index {outside[0]}, but '{model.name}' has the words 0 to {size - 1}.")
    unique, counts = np.unique(array, return_counts=True)
    if len(unique) < len(array):
        raise ValueError(f"`words` has the index {unique[counts > 1][0]} more than once.")
    if len(array) == size:
        raise ValueError(f"`words` keeps all {size} words of '{model.name}', so that nothing gets smaller.")
    masked = [layer.name for _, layer in walk_layers(model) if getattr(layer, "mask_zero", False)]
    if masked and array[0] != 0:
        raise ValueError(
            f"Layer '{masked[0]}' masks the word 0 (`mask_zero=True`), so that the first of `words` must be 0. "
            f"Received: {array[0]}"
        )
    return array


def _trim(model, size, words, pairs):
    """Return a model of fewer words with new weights, and append `(layer, copy)` of all weights to `pairs`."""
    if not is_rebuilt(model):
        config = model.get_config()
        parts = {key: _trim(part, size, words, []) for key, part in _parts(model, config).items()}
        if "preprocessor" in config:
            parts["preprocessor"] = None
        settings = {_SETTING: len(words)} if config.get(_SETTING) == size else {}
        smaller = construct(model, settings, parts)
        pairs.append((model, smaller))
        return smaller
    logits = _head(model)
    head, _ = _compat.producing_call(logits)
    changed = {id(logits)}
    for call in _compat.graph_calls(model):
        if any(id(tensor) in changed for tensor in tensors_in((call.args, call.kwargs))):
            changed |= {id(tensor) for tensor in call.outputs}

    def make(layer):
        if isinstance(layer, keras.Model) and not _compat.is_plain_graph(layer) and size in set(_settings(layer)):
            return _trim(layer, size, words, pairs)
        copy = from_config(layer, config_of(layer) | _smaller(layer, head, size, len(words)))
        pairs.append((layer, copy))
        return copy

    def shape_of(tensor):
        shape = tuple(tensor.shape)
        return (*shape[:-1], len(words)) if id(tensor) in changed and shape[-1] == size else shape

    return rebuild_graph(model, make, shape_of)


def _smaller(layer, head, size, count):
    """Return the settings of a layer that change."""
    if layer is head and isinstance(layer, keras.layers.Dense):
        return {"units": count}
    if isinstance(layer, keras.layers.Embedding) and layer.input_dim == size:
        return {"input_dim": count}
    return {_SETTING: count} if getattr(layer, _SETTING, None) == size else {}


def _copy_weights(layer, copy, size, words):
    # Operations such as `x + y` have no weights. Layers inside may have other automatic names, but the same order.
    for weight, target in zip(getattr(layer, "weights", ()), getattr(copy, "weights", ()), strict=True):
        value = weight.numpy()
        for axis, lengths in enumerate(zip(weight.shape, target.shape, strict=True)):
            # Only axes of the vocabulary have another length.
            if lengths == (size, len(words)):
                value = np.take(value, words, axis=axis)
        target.assign(value)
