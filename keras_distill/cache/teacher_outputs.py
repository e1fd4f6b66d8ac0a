"""Arrays that a cache stores of a batch, computed by the teacher."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from keras_distill.cache import packing
from keras_distill.cache.lengths import token_mask
from keras_distill.cache.packing import StoredTap
from keras_distill.data.batch import Batch
from keras_distill.teachers import Teacher
from keras_distill.types import Structure


def teacher_function(
    teacher: Teacher,
    taps: Mapping[str, StoredTap],
    activations: Callable[[Structure], Mapping[str, np.ndarray]] | None = None,
) -> Callable[..., dict[str, np.ndarray]]:
    """Return a function from inputs, indices and lengths of a batch of examples to the arrays to store.

    The function returns `{name: array}`, and raises ValueError for an activation that cannot be stored.

    Args:
        teacher: A `Teacher` that is connected.
        taps: `{tap: StoredTap}` of the manifest.
        activations: Another runtime of the teacher, as `onnx_engine.onnx_activations` returns it: a function from
            inputs to `{tap: array}`, with logits for outputs of softmax and sigmoid. None runs the teacher itself.
            Defaults to None.
    """
    formats = taps
    if activations is not None:
        formats = {tap: dataclasses.replace(stored, function=None) for tap, stored in taps.items()}

    @tf.function(reduce_retracing=True)
    def encode(batch, lengths):
        computed = teacher.activations(Batch(batch)) if activations is None else batch
        encoded, faults = {}, {}
        for tap, stored in formats.items():
            counted = token_mask(computed[tap], lengths) if stored.varies else None
            faults[tap] = stored.faults(tap, computed[tap], counted)
            for name, tensor in stored.encode(tap, computed[tap]).items():
                encoded[name] = tensor if counted is None else tf.boolean_mask(tensor, counted)
        return encoded, faults

    def arrays(inputs, indices, lengths=None):
        if activations is not None:
            computed = activations(inputs)
            plain = _plain_arrays(computed, taps)
            if plain is not None:
                return plain
            inputs = {tap: tf.constant(array) for tap, array in computed.items()}
        tensors, faults = encode(inputs, lengths)
        for tap, fault in faults.items():
            # Unpacking the tensor itself would take longer than the step of a small teacher.
            unusable, overflow = fault.numpy()
            _check_storable(tap, taps[tap].dtype, indices[unusable], indices[overflow])
        return {name: packing.to_numpy(tensor) for name, tensor in tensors.items()}

    return arrays


def _plain_arrays(arrays, taps):
    """Return arrays in their stored dtypes; None if they need more than a cast, or hold numbers that are not finite."""
    # Half of the time of a small teacher in ONNX Runtime would be that of TensorFlow's call.
    if any(stored.top_k is not None or stored.varies or stored.dtype == "bfloat16" for stored in taps.values()):
        return None
    with np.errstate(over="ignore"):
        cast = {tap: array.astype(taps[tap].dtype, copy=False) for tap, array in arrays.items()}
    return cast if all(np.isfinite(array).all() for array in cast.values()) else None


def _check_storable(tap, dtype, unusable, overflow):
    if len(unusable):
        raise ValueError(
            f"The teacher outputs NaN or infinity at '{tap}' for example {unusable[0]}. Check the inputs of the "
            "example, and how the teacher was trained and loaded."
        )
    if len(overflow):
        advice = "Store it as bfloat16 or float32." if dtype == "float16" else "Scale the activation down."
        raise ValueError(
            f"The activation at '{tap}' of example {overflow[0]} exceeds the largest {dtype}, "
            f"{tf.as_dtype(dtype).max:,.5g}. {advice}"
        )
