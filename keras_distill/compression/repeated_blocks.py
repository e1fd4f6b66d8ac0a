"""Repeated blocks of functional models, and models with fewer of them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_distill import _compat
from keras_distill.compression.graph_rebuilding import (
    active_calls,
    config_of,
    from_config,
    map_tensors,
    rebuild_graph,
    tensors_in,
)
from keras_distill.compression.model_settings import Choose, has_settings, is_rebuilt
from keras_distill.models.layers import walk_layers
from keras_distill.models.specs import symbolic_inputs

# Entries of a config that differ between blocks of the same structure.
_IGNORED = {"name", "seed", "rate", "drop_rate", "drop_path_rate", "build_config"}
_EXIT = -1


class Block(NamedTuple):
    """One of the repeated blocks of a model.

    Attributes:
        inputs: Symbolic tensor that it reads.
        outputs: Symbolic tensor that it returns, of the same shape.
        layers: Its layers that have weights.
    """

    inputs: keras.KerasTensor
    outputs: keras.KerasTensor
    layers: tuple[keras.layers.Layer, ...]


class Run(NamedTuple):
    """Repeated blocks that follow each other.

    Attributes:
        model: The functional model whose graph has the blocks.
        blocks: Two or more, in the order of execution.
    """

    model: keras.Model
    blocks: tuple[Block, ...]


def leave_out_blocks(
    model: keras.Model, depth: float, scale: Callable[[keras.Model], keras.Model], choose: Choose
) -> keras.Model:
    """Return a model with a fraction of the blocks of each run of repeated blocks; the model itself without any.

    Args:
        model: A functional model or built Sequential. It is not modified.
        depth: Fraction of the blocks that is kept, in (0, 1].
        scale: Function that scales models inside that have their own constructors.
        choose: Function that chooses the blocks to keep.

    Raises:
        ValueError: If a layer cannot be copied.
    """
    skipped = {}
    for run in repeated_blocks(model):
        if run.model is model or is_rebuilt(run.model):
            kept = choose([block.layers for block in run.blocks], depth)
            left_out = [block for number, block in enumerate(run.blocks) if number not in kept]
            skipped |= {id(block.outputs): block.inputs for block in left_out}
    scaled = {id(layer): scale(layer) for _, layer in walk_layers(model) if has_settings(layer)}
    if not skipped and all(scaled.get(id(layer), layer) is layer for _, layer in walk_layers(model)):
        return model

    def make(layer):
        smaller = scaled.get(id(layer), layer)
        return smaller if smaller is not layer else from_config(layer, config_of(layer))

    return rebuild_graph(model, make, skipped=skipped)


def repeated_blocks(model: keras.Model) -> list[Run]:
    """Return the runs of repeated blocks of a model, with those of nested models.

    Blocks are consecutive parts of the graph with the same layers, in which nothing but names, seeds and dropout rates
    differs, and an output of the same shape as the input. They have one input that differs; others, such as an
    attention mask, are the same tensors for all blocks. Blocks inside of repeated blocks do not count.

    In a model that its own constructor makes, blocks are alike if their classes and the shapes of their weights are.

    Args:
        model: A functional model or built Sequential.
    """
    graph = _Graph(model)
    runs, covered = [], set()
    for chain in graph.chains():
        pieces = [chain]
        while pieces:
            piece = pieces.pop()
            best = graph.best_run(piece, covered)
            if best is None:
                continue
            start, period, count = best
            end = start + period * count
            blocks = [graph.block(piece[first : first + period + 1]) for first in range(start, end, period)]
            runs.append(Run(model, tuple(blocks)))
            for one, other in zip(piece[start:end], piece[start + 1 : end + 1]):
                covered |= set(graph.segment(one, other))
            pieces += [piece[: start + 1], piece[end:]]
    for index, call in enumerate(graph.calls):
        if index not in covered and _compat.has_graph(call.operation):
            runs += repeated_blocks(call.operation)
    return runs


class _Graph:
    """Calls of a model as a graph. The inputs are calls with negative indices below `_EXIT`."""

    def __init__(self, model):
        self.calls = active_calls(model)
        inputs = keras.tree.flatten(symbolic_inputs(model))
        producers = {id(tensor): _EXIT - 1 - index for index, tensor in enumerate(inputs)}
        self._outputs = {_EXIT - 1 - index: [tensor] for index, tensor in enumerate(inputs)}
        self._sources, self._consumers = {}, {index: set() for index in self._outputs}
        for index, call in enumerate(self.calls):
            self._outputs[index], self._consumers[index] = call.outputs, set()
            self._sources[index] = [producers[id(tensor)] for tensor in tensors_in((call.args, call.kwargs))]
            for source in self._sources[index]:
                self._consumers[source].add(index)
            producers |= {id(tensor): index for tensor in call.outputs}
        for tensor in keras.tree.flatten(_compat.graph_outputs(model)):
            self._consumers[producers[id(tensor)]].add(_EXIT)
        self._next, self._levels = self._post_dominators()
        self._keys, self._segments = {}, {}
        self._constructed = has_settings(model)

    def block(self, ends):
        """Return the block between the first and the last of some calls in a chain."""
        segments = [self.segment(*pair) for pair in zip(ends, ends[1:])]
        operations = [self.calls[index].operation for segment in segments for index in segment]
        layers = tuple(operation for operation in operations if getattr(operation, "weights", []))
        return Block(self._output(ends[0]), self._output(ends[-1]), layers)

    def _output(self, index):
        return self._outputs[index][0]

    def chains(self):
        """Return lists of calls through each of which everything passes that depends on the one before it.

        The first one is the longest from an input, rather than that of an attention mask. Others end where they join
        one before them.
        """
        visited, chains = set(), []
        inputs = [index for index in self._outputs if index < _EXIT]
        for start in [*sorted(inputs, key=self._levels.get, reverse=True), *range(len(self.calls))]:
            # Another branch may begin at the call before, too.
            chain, index = self._single_source(start), start
            while index != _EXIT and len(self._outputs[index]) == 1:
                chain.append(index)
                if index in visited:
                    break
                index = self._next[index]
            visited |= set(chain)
            if len(chain) > 2:
                chains.append(chain)
        return chains

    def _single_source(self, index):
        sources = set(self._sources.get(index, ()))
        return [source for source in sources if len(sources) == len(self._outputs[source]) == 1]

    def segment(self, start, end):
        """Return the calls between two calls, the second one included: those that depend on one and feed the other."""
        if (start, end) not in self._segments:
            after = self._reachable(start, self._consumers, end)
            self._segments[start, end] = sorted({end} | after & self._reachable(end, self._sources, start))
        return self._segments[start, end]

    def _reachable(self, start, neighbors, end):
        found, pending = set(), [start]
        while pending:
            for index in neighbors.get(pending.pop(), ()):
                if index not in found and index != end:
                    found.add(index)
                    pending.append(index)
        return found

    def best_run(self, chain, covered):
        """Return `(start, period, count)` of the run of repeated blocks that has the most segments, or None."""
        keys = [self._key(one, other, covered) for one, other in zip(chain, chain[1:])]
        best, best_rank = None, None
        for period in range(1, len(keys) // 2 + 1):
            for start in range(len(keys) - 2 * period + 1):
                block, count = keys[start : start + period], 1
                while keys[start + count * period : start + (count + 1) * period] == block:
                    count += 1
                if count < 2 or not self._is_block(chain, start, period):
                    continue
                rank = count * period, -period, self._kernel_size(chain, start), -start
                if best is None or rank > best_rank:
                    best, best_rank = (start, period, count), rank
        return best

    def _is_block(self, chain, start, period):
        segments = [
            self.segment(one, other) for one, other in zip(chain[start:], chain[start + 1 : start + period + 1])
        ]
        weights = any(getattr(self.calls[index].operation, "weights", []) for segment in segments for index in segment)
        return weights and self._output(chain[start]).shape == self._output(chain[start + period]).shape

    def _kernel_size(self, chain, start):
        """Return the size of the kernels in the first segment, so that a block begins with a convolution."""
        operations = [self.calls[index].operation for index in self.segment(chain[start], chain[start + 1])]
        weights = [weight for operation in operations for weight in getattr(operation, "weights", [])]
        return sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1)

    def _key(self, start, end, covered):
        """Return what two segments have in common if one can stand for the other; unique for one in a known run."""
        if (start, end) not in self._keys:
            indices = self.segment(start, end)
            places = {index: place for place, index in enumerate(indices)} | {start: "input"}
            self._keys[start, end] = repr([self._call_key(index, places) for index in indices])
        return (start, end) if covered.intersection(self.segment(start, end)) else self._keys[start, end]

    def _call_key(self, index, places):
        call = self.calls[index]
        sources = iter(self._sources[index])

        def tensor_key(tensor):
            source = next(sources)
            place = places.get(source, ("outside", id(tensor)))
            return "tensor", place, self._position(source, tensor), tuple(tensor.shape), str(tensor.dtype)

        arguments = map_tensors(tensor_key, (call.args, call.kwargs))
        return (
            _layer_key(call.operation, self._constructed),
            repr(arguments),
            [tuple(tensor.shape) for tensor in call.outputs],
        )

    def _position(self, index, tensor):
        return [id(output) for output in self._outputs[index]].index(id(tensor))

    def _post_dominators(self):
        """Return `{call: first call through which everything passes that depends on it}`, and the steps to the exit."""
        following, levels = {}, {_EXIT: 0}
        for index in [*reversed(range(len(self.calls))), *(i for i in self._outputs if i < _EXIT)]:
            # An input that nothing uses is followed by the exit.
            common, *others = self._consumers[index] or {_EXIT}
            for other in others:
                while common != other:
                    if levels[common] >= levels[other]:
                        common = following[common]
                    else:
                        other = following[other]
            following[index], levels[index] = common, levels[common] + 1
        return following, levels


def _layer_key(layer: Any, constructed: bool) -> Any:
    """Return what two layers have in common if one can stand for the other.

    Layers of a model that its own constructor makes are not copied, and the config of some cannot be read, such as the
    decoder of Llama 3 in KerasHub 0.32. They are alike if their weights are.
    """
    if is_rebuilt(layer):
        graph = _Graph(layer)
        places = {index: index for index in range(_EXIT - len(layer.inputs), len(graph.calls))}
        return type(layer).__name__, [graph._call_key(index, places) for index in range(len(graph.calls))]
    if constructed:
        return type(layer).__name__, [tuple(weight.shape) for weight in getattr(layer, "weights", [])]
    return type(layer).__name__, _without_names(config_of(layer))


def _without_names(config):
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in sorted(config.items()) if key not in _IGNORED}
    if isinstance(config, (list, tuple)):
        return [_without_names(value) for value in config]
    return config
