"""Inspection of a model's taps."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_distill.models.specs import Spec, input_specs, trace
from keras_distill.models.taps import OUTPUT, layer_calls
from keras_distill.types import Structure


class Tappable(NamedTuple):
    """One activation of a model, as `tappable` lists it.

    Attributes:
        tap: Tap to pass to a `Term`.
        shape: Shape with the batch axis, None for unknown lengths; None if the activation cannot be tapped.
        dtype: Name of the dtype; None if the activation cannot be tapped.
        layer: Class of the layer.
        parameters: Number of parameters of the layer, including its sublayers.
        note: Reason why the activation cannot be tapped, "" if it can. Defaults to "".
        stage: Number of the stage from 1: of consecutive feature maps or volumes of one resolution. Defaults to None:
            of another rank, or of unknown size.
        last: Whether it is the last activation of its stage, which feature losses usually compare. Defaults to False.
    """

    tap: str
    shape: tuple | None
    dtype: str | None
    layer: str
    parameters: int
    note: str = ""
    stage: int | None = None
    last: bool = False


def tappable(model: keras.Model, inputs: Structure = None) -> list[Tappable]:
    """List all activations of a model that a `Term` can compare. The model is traced, not run.

    Example:
    >>> [entry.tap for entry in tappable(student)]
    ['block_1', 'block_2', 'features', 'logits', 'output']

    Args:
        model: A `keras.Model`.
        inputs: Example batch, `keras.Input` or `tf.TensorSpec`, or a structure of them. None takes the inputs that the
            model was built with. Defaults to None.

    Returns:
        List of `Tappable`: each layer before its sublayers, and the output of the model last. Activations that cannot
        be tapped have a `note`.

    Raises:
        ValueError: If the model is not built and `inputs` is None.
    """
    rows = []

    def run(x):
        outputs, calls = layer_calls(model, x)
        # Assigned in place, since TensorFlow traces a second time if the first trace created weights.
        rows[:] = [*calls, (OUTPUT, model, [outputs])]
        return [recorded for _, _, recorded in rows if not isinstance(recorded, str)]

    specs = iter(trace(run, input_specs(inputs, model)))
    entries = []
    for path, layer, recorded in rows:
        name, parameters = type(layer).__name__, layer.count_params() if layer.built else 0
        if isinstance(recorded, str):
            entries.append(Tappable(path, None, None, name, parameters, recorded))
        else:
            taps = _taps(path, next(specs))
            entries += [Tappable(tap, spec.shape, spec.dtype, name, parameters) for tap, spec in taps]
    return _staged(entries)


def _staged(entries: list[Tappable]) -> list[Tappable]:
    """Return the entries with `stage` and `last`. Maps of size 1, as of a squeeze, and padded ones end no stage."""
    stage, sizes, last = 0, (), {}
    for index, entry in enumerate(entries):
        size = entry.shape[1:-1] if entry.shape is not None else ()
        if len(size) < 2 or None in entry.shape[1:] or set(size) == {1} or entry.layer.startswith("ZeroPadding"):
            continue
        stage, sizes = (stage, sizes) if size == sizes else (stage + 1, size)
        entries[index] = entry._replace(stage=stage)
        last[stage] = index
    for index in last.values():
        entries[index] = entries[index]._replace(last=True)
    return entries


def _taps(path: str, calls: list[Any]) -> Iterator[tuple[str, Spec]]:
    """Yield `(tap, spec)` of every tensor that a layer returns in its calls."""
    for number, outputs in enumerate(calls):
        tap = path if len(calls) == 1 else f"{path}@{number}"
        if isinstance(outputs, Spec):
            yield tap, outputs
        else:
            entries = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
            yield from ((f"{tap}[{key}]", spec) for key, spec in entries if isinstance(spec, Spec))
