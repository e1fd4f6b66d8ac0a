"""How an activation lies in the files: as it is, or as its most probable classes."""

import numpy as np
import tensorflow as tf

from keras_distill.data.top_k import gather_top_k
from keras_distill.models.taps import OUTPUT

DTYPES = ("float32", "float16", "bfloat16")
# So many classes have numbers of two bytes.
_SHORT = 2**16


def stored_taps(specs, dtype, top_k):
    """How each tap is kept, `{tap: {"shape", "dtype", "top"}}`.

    Args:
        specs: `{tap: spec}` of batches.
        dtype: One of `DTYPES`, or one for each tap in a dictionary.
        top_k: How many classes of the output are kept, or one number for each tap in a dictionary; None keeps all.

    Raises:
        ValueError: For another dtype, a shape that is not known, or a number of classes that does not fit.
    """
    dtypes = dtype if isinstance(dtype, dict) else dict.fromkeys(specs, dtype)
    wrong = {tap: dtypes.get(tap) for tap in specs if dtypes.get(tap) not in DTYPES}
    if wrong:
        raise ValueError(f"Activations are kept in one of {DTYPES}. Received: {wrong}")
    unknown = [tap for tap, spec in specs.items() if None in tuple(spec.shape)[1:]]
    if unknown:
        raise ValueError(
            f"The taps {unknown} have lengths that are not known before they run: "
            f"{[tuple(specs[tap].shape) for tap in unknown]}. Give the examples a fixed length."
        )
    tops = top_k if isinstance(top_k, dict) else {OUTPUT: top_k}
    for tap, k in tops.items():
        shape = list(specs[tap].shape)[1:] if tap in specs else None
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or not shape or not 1 <= k < shape[-1]):
            raise ValueError(
                f"`top_k` keeps 1 class or more, and less than there are, of a tap that is kept. Received: {k!r} for "
                f"'{tap}', where an example has the shape {shape}."
            )
    return {
        tap: {"shape": list(spec.shape)[1:], "dtype": dtypes[tap], "top": tops.get(tap)} for tap, spec in specs.items()
    }


def fields(tap, about):
    """The arrays that one tap is kept in: `{name: tf.TensorSpec of one example}`.

    Args:
        tap: Its name.
        about: Its entry in the manifest: `shape` of one example, `dtype`, and `top`, how many classes are kept, or None
            for all.
    """
    *positions, count = about["shape"] or [1]
    if about["top"] is None:
        return {tap: tf.TensorSpec(about["shape"], about["dtype"])}
    return {
        f"{tap}.top": tf.TensorSpec([*positions, about["top"] + 1], about["dtype"]),
        f"{tap}.classes": tf.TensorSpec([*positions, about["top"]], "uint16" if count <= _SHORT else "int32"),
    }


def pack(tap, activation, about):
    """A batch of an activation as the tensors of its `fields`.

    Logits of which only the top is kept are normalised first: a logarithm of a softmax stays in the range of half
    precision, and says the same at any temperature.
    """
    if about["top"] is None:
        return {tap: tf.cast(activation, about["dtype"])}
    logits = tf.nn.log_softmax(tf.cast(activation, "float32"))
    _, classes = tf.math.top_k(logits, about["top"])
    top, numbers = fields(tap, about).items()
    return {
        top[0]: tf.cast(gather_top_k(logits, classes), top[1].dtype),
        numbers[0]: tf.cast(classes, numbers[1].dtype),
    }


def unpack(tap, tensors, about):
    """What a `CachedTeacher` takes, of the tensors of a tap's `fields`."""
    if about["top"] is None:
        return tensors[tap]
    return {"top": tensors[f"{tap}.top"], "classes": tf.cast(tensors[f"{tap}.classes"], "int32")}


def unpacked(tap, about):
    """The `tf.TensorSpec`s of what `unpack` makes of a batch."""
    specs = {name: tf.TensorSpec((None, *spec.shape), spec.dtype) for name, spec in fields(tap, about).items()}
    if about["top"] is None:
        return specs[tap]
    return {"top": specs[f"{tap}.top"], "classes": tf.TensorSpec(specs[f"{tap}.classes"].shape, "int32")}


def bits(activation):
    """A tensor as NumPy can write it: a bfloat16 as the integer of its bits."""
    return (tf.bitcast(activation, tf.uint16) if activation.dtype == tf.bfloat16 else activation).numpy()


def row_bytes(taps):
    """Bytes of one example, by the manifest's `taps`; its fingerprint is not among them."""
    specs = (spec for tap, about in taps.items() for spec in fields(tap, about).values())
    return sum(int(np.prod(spec.shape, dtype=int)) * spec.dtype.size for spec in specs)


def print_dtype(taps):
    """The integers that examples' fingerprints are kept in.

    Eight bytes where they are few beside the activations, and fewer where those are small: one byte still tells 255 of
    256 wrong examples, and there is seldom a single wrong one.
    """
    room = row_bytes(taps) * 0.08
    return next((dtype for dtype, size in (("uint64", 8), ("uint32", 4), ("uint16", 2)) if size <= room), "uint8")
