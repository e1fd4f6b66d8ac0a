"""What of a model can be tapped."""

from typing import NamedTuple

from keras_distill.models.specs import Spec, input_specs, trace
from keras_distill.models.taps import OUTPUT, layer_calls


class Tappable(NamedTuple):
    """One activation of a model.

    Attributes:
        tap: How a `Term` names it.
        shape: Its shape, the batch axis included; None for what cannot be tapped.
        dtype: Its dtype's name, or None.
        layer: The class of the layer.
        parameters: Number of the layer's weights, those of layers inside included.
        note: Why it cannot be tapped; empty if it can.
    """

    tap: str
    shape: tuple | None
    dtype: str | None
    layer: str
    parameters: int
    note: str = ""


def tappable(model, inputs=None):
    """Every activation of a model that a `Term` can name, found without computing anything.

    Args:
        model: A `keras.Model`.
        inputs: As for `Distiller`; needed if the model was not built on its inputs yet.

    Returns:
        List of `Tappable`, layers before the layers inside them, the model's own output last. What runs but cannot be
        tapped comes with a note.

    Raises:
        ValueError: If the shapes of the inputs are not known.
    """
    rows = []

    def run(x):
        outputs, calls = layer_calls(model, x)
        # In place: TensorFlow traces a second time where the first pass made weights.
        rows[:] = [*calls, (OUTPUT, model, [outputs])]
        return [seen for _, _, seen in rows if not isinstance(seen, str)]

    specs = iter(trace(run, input_specs(inputs, model)))
    found = []
    for path, layer, seen in rows:
        about = type(layer).__name__, layer.count_params() if layer.built else 0
        if isinstance(seen, str):
            found.append(Tappable(path, None, None, *about, seen))
        else:
            found += [Tappable(tap, spec.shape, spec.dtype, *about) for tap, spec in _taps(path, next(specs))]
    return found


def _taps(path, calls):
    """How each tensor is tapped that a layer returns in its calls, with its `Spec`."""
    for number, outputs in enumerate(calls):
        tap = path if len(calls) == 1 else f"{path}@{number}"
        if isinstance(outputs, Spec):
            yield tap, outputs
        else:
            entries = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
            yield from ((f"{tap}[{key}]", spec) for key, spec in entries if isinstance(spec, Spec))
