"""Gates of recurrent layers that are copied to a student with fewer units."""

from collections.abc import Callable

import keras

from keras_distill.models.layers import direct_weights, walk_layers


def gate_indices(
    student: keras.Model, source_of: Callable[[keras.Variable], keras.Variable | None]
) -> dict[int, tuple[int, list[int]]]:
    """Return which columns of the teacher's recurrent layers a student gets.

    The last axis of the weights of an LSTM or GRU holds the units of one gate after the other. A student with fewer
    units gets the first ones of each gate.

    Args:
        student: The student.
        source_of: Function that returns the teacher's weight from which a weight of the student is copied, or None.

    Returns:
        `{id(student weight): (axis, indices)}` for weights of several gates that are narrower than the teacher's.
    """
    indices = {}
    for _, layer in [("", student), *walk_layers(student)]:
        if getattr(layer, "recurrent_kernel", None) is None:
            continue
        units = getattr(layer, "units", None) or layer.filters
        gates = layer.recurrent_kernel.shape[-1] // units
        for weight in direct_weights(layer):
            source = source_of(weight)
            if gates > 1 and source is not None and source.shape[-1] > weight.shape[-1]:
                size = source.shape[-1] // gates
                columns = [gate * size + unit for gate in range(gates) for unit in range(units)]
                indices[id(weight)] = len(weight.shape) - 1, columns
    return indices
