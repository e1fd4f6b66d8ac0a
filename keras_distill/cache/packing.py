"""Encoding of activations in cache files: in full, or as the top-k classes of the logits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill.data.top_k import gather_top_k
from keras_distill.models.masking import expand_to_rank
from keras_distill.models.softmax import as_logits
from keras_distill.models.specs import PROBABILITIES
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers import CachedTeacher
from keras_distill.types import Structure, Tensor
from keras_distill.utils.arguments import check_integer

DTYPES = ("float32", "float16", "bfloat16")
_FUNCTIONS = tuple(name.lower() for name in PROBABILITIES)
# Class indices below this number fit into two bytes.
_UINT16_CLASSES = 2**16
# Positions of an example whose length is unknown, for estimates of sizes.
_ASSUMED_LENGTH = 512
# A lower logarithm of a probability is that of a masked class.
_LOWEST = -1e29


@dataclasses.dataclass(frozen=True)
class StoredTap:
    """Storage format of the activations of one tap.

    Attributes:
        shape: Shape of the activation of one example, without the batch axis. The first length is None where the
            examples have different ones: the positions of all examples are stored one after another.
        dtype: Dtype of the stored floats, one of `DTYPES`.
        top_k: Number of classes that are stored, from 1 to `shape[-1] - 1`. None stores the whole activation.
        function: "softmax" or "sigmoid" for the output of a model that ends in one: its input is stored, which keeps
            more digits and which losses of logits compare. None stores the activation itself.
    """

    shape: tuple[int, ...]
    dtype: str
    top_k: int | None = None
    function: str | None = None

    @property
    def varies(self) -> bool:
        """True if the examples have different lengths."""
        return self.shape[:1] == (None,)

    @property
    def row_bytes(self) -> int:
        """Stored bytes per example, an estimate if the lengths differ."""
        sizes = [[_ASSUMED_LENGTH if size is None else size for size in spec.shape] for spec in self._specs()]
        return sum(int(np.prod(size)) * spec.dtype.size for size, spec in zip(sizes, self._specs()))

    def _specs(self):
        return list(self.fields("").values())

    def fields(self, tap: str) -> dict[str, tf.TensorSpec]:
        """Return the arrays that store the tap, `{name: tf.TensorSpec of one example}`.

        Args:
            tap: Name of the tap, which the names of the arrays begin with.
        """
        if self.top_k is None:
            return {tap: tf.TensorSpec(self.shape, self.dtype)}
        *positions, num_classes = self.shape
        index_dtype = "uint16" if num_classes <= _UINT16_CLASSES else "int32"
        return {
            f"{tap}.top": tf.TensorSpec([*positions, self.top_k + 1], self.dtype),
            f"{tap}.classes": tf.TensorSpec([*positions, self.top_k], index_dtype),
        }

    def encode(self, tap: str, activation: Tensor) -> dict[str, tf.Tensor]:
        """Convert a batch of activations to the tensors of `fields`.

        Logits of which only the top classes are stored are normalized first: log-probabilities fit into the range of
        half precision, and have the same softmax at any temperature.

        Args:
            tap: Name of the tap.
            activation: Shape `[batch, *shape]`.
        """
        return {
            name: tf.cast(values, self.fields(tap)[name].dtype) for name, values in self._exact(tap, activation).items()
        }

    def faults(self, tap: str, activation: Tensor, counted: Tensor | None = None) -> tf.Tensor:
        """Return which examples of a batch cannot be stored.

        -infinity, the logit of a masked class, can be stored.

        Args:
            tap: Name of the tap.
            activation: Shape `[batch, *shape]`.
            counted: Positions that are not padding, booleans of shape `[batch, positions]`. Defaults to None: all.

        Returns:
            Booleans, shape `[2, batch]`: whether the activation contains NaN or +infinity, and whether a finite value
            of it becomes infinite in `dtype`.
        """
        values = [values for values in self._exact(tap, activation).values() if values.dtype.is_floating]
        if counted is not None:
            values = [tf.where(expand_to_rank(counted, len(value.shape)), value, 0) for value in values]
        (values,) = [tf.reshape(values, (tf.shape(values)[0], -1)) for values in values]
        # Not `logical_not(values < inf)`: TensorFlow's graph optimizer rewrites it to `values >= inf`, False for NaN.
        unusable = tf.reduce_any(tf.logical_or(tf.math.is_nan(values), tf.equal(values, np.inf)), axis=1)
        stored = tf.cast(values, self.dtype)
        overflow = tf.logical_and(tf.math.is_finite(values), tf.logical_not(tf.math.is_finite(stored)))
        return tf.stack([unusable, tf.reduce_any(overflow, axis=1)])

    def _exact(self, tap, activation):
        """Return the tensors of `fields` before they are cast to their dtypes."""
        if self.function is not None:
            activation = as_logits(activation, self.function.capitalize())
        activation = tf.convert_to_tensor(activation)
        if self.top_k is None:
            return {tap: activation if activation.dtype.is_floating else tf.cast(activation, "float32")}
        logits = tf.nn.log_softmax(tf.cast(activation, "float32"))
        _, classes = tf.math.top_k(logits, self.top_k)
        top = gather_top_k(logits, classes)
        # The logit of all other classes is finite but too low for float16 where all of them are masked.
        return {f"{tap}.top": tf.where(top < _LOWEST, -np.inf, top), f"{tap}.classes": classes}

    def decode(self, tap: str, tensors: Mapping[str, Tensor]) -> Structure:
        """Convert the tensors of `fields` to the activation that a `CachedTeacher` takes.

        Args:
            tap: Name of the tap.
            tensors: `{name: tensor}`, those of other taps may be among them.

        Returns:
            A tensor, or with `top_k` a dictionary of `top` and `classes`.
        """
        if self.top_k is None:
            return tensors[tap]
        return {"top": tensors[f"{tap}.top"], "classes": tf.cast(tensors[f"{tap}.classes"], "int32")}

    def spec(self) -> Structure:
        """Return the `tf.TensorSpec`, or the dictionary of them, of a batch as `decode` returns it."""
        if self.top_k is None:
            return tf.TensorSpec((None, *self.shape), self.dtype)
        positions = self.shape[:-1]
        return {
            "top": tf.TensorSpec((None, *positions, self.top_k + 1), self.dtype),
            "classes": tf.TensorSpec((None, *positions, self.top_k), "int32"),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the format as JSON values: "shape", "dtype", "top", and "function" if there is one."""
        values = {"shape": list(self.shape), "dtype": self.dtype, "top": self.top_k}
        return values if self.function is None else {**values, "function": self.function}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StoredTap":
        """Return the `StoredTap` of the values that `to_json` returned.

        Raises:
            ValueError: If they cannot be those of a tap.
        """
        stored = cls(tuple(values["shape"]), values["dtype"], values["top"], values.get("function"))
        sizes = [*stored.shape[stored.varies :], *([] if stored.top_k is None else [stored.top_k])]
        if (
            stored.dtype not in DTYPES
            or stored.function not in (None, *_FUNCTIONS)
            or not all(isinstance(size, int) and size >= 0 for size in sizes)
            or (stored.top_k is not None and not 1 <= stored.top_k < stored.shape[-1])
        ):
            raise ValueError(f"not the format of a stored activation: {stored}")
        return stored


def stored_taps(
    specs: Mapping[str, Any],
    dtype: str | Mapping[str, str],
    top_k: int | Mapping[str, int | None] | None,
    lengths: bool = False,
) -> dict[str, StoredTap]:
    """Return the storage format of every tap, `{tap: StoredTap}`.

    Args:
        specs: `{tap: spec}`, where the `shape` of a spec has a batch axis.
        dtype: One of `DTYPES`, or one for each tap in a dictionary.
        top_k: Number of classes of the output that are stored, or one number for each tap in a dictionary. None
            stores all.
        lengths: Whether the first axis of an activation may have another length for each example. Defaults to False.

    Raises:
        ValueError: For another dtype, a shape that is not fully known, or a `top_k` that does not fit its tap
            or belongs to an output that ends in a sigmoid.
    """
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(specs, dtype)
    invalid = {tap: dtypes.get(tap) for tap in specs if dtypes.get(tap) not in DTYPES}
    if invalid:
        raise ValueError(f"`dtype` must be one of {DTYPES} for every tap. Received: {invalid}")
    shapes = {tap: tuple(spec.shape)[1:] for tap, spec in specs.items()}
    variable = {tap: shape for tap, shape in shapes.items() if None in shape[lengths and len(shape) > 1 :]}
    if variable:
        raise ValueError(
            f"A cache stores activations of fixed shape. Pad the examples to one length. Received: taps {variable}"
        )
    top_ks = _check_top_k(top_k if isinstance(top_k, Mapping) else {OUTPUT: top_k}, shapes)
    functions = {tap: _function_of_output(tap, spec) for tap, spec in specs.items()}
    sigmoid = [tap for tap, k in top_ks.items() if k is not None and functions[tap] == "sigmoid"]
    if sigmoid:
        raise ValueError(
            f"`top_k` requires the logits of a softmax, but '{sigmoid[0]}' ends in a sigmoid. Pass `top_k=None` to "
            "store all classes."
        )
    return {tap: StoredTap(shape, dtypes[tap], top_ks.get(tap), functions[tap]) for tap, shape in shapes.items()}


def all_fields(taps: Mapping[str, StoredTap]) -> dict[str, tf.TensorSpec]:
    """Return the arrays that store the taps, `{name: tf.TensorSpec of one example}`."""
    return {name: spec for tap, stored in taps.items() for name, spec in stored.fields(tap).items()}


def cached_teacher(taps: Mapping[str, StoredTap]) -> CachedTeacher:
    """Return the `CachedTeacher` of activations that `StoredTap.decode` returns."""
    num_classes = {tap: stored.shape[-1] for tap, stored in taps.items() if stored.top_k is not None}
    functions = {tap: stored.function for tap, stored in taps.items() if stored.function is not None}
    return CachedTeacher({tap: stored.spec() for tap, stored in taps.items()}, num_classes, functions)


def to_numpy(tensor: tf.Tensor) -> np.ndarray:
    """Convert a tensor to a dtype of plain NumPy: bfloat16 becomes the uint16 of the same bits."""
    return (tf.bitcast(tensor, tf.uint16) if tensor.dtype == tf.bfloat16 else tensor).numpy()


def row_bytes(taps: Mapping[str, StoredTap]) -> int:
    """Return the stored bytes per example, without its fingerprint."""
    return sum(stored.row_bytes for stored in taps.values())


def fingerprint_dtype(taps: Mapping[str, StoredTap]) -> str:
    """Return the integer dtype in which the fingerprints of the examples are stored.

    A fingerprint takes up to 8 % of the bytes of the activations, and at least one byte. One byte still detects 255 of
    256 wrong examples, and a wrong order or wrong preprocessing rarely affects a single example.
    """
    limit = row_bytes(taps) * 0.08
    return next((dtype for dtype, size in (("uint64", 8), ("uint32", 4), ("uint16", 2)) if size <= limit), "uint8")


def _function_of_output(tap, spec):
    """Return the function in which the graph of a model's output ends, or None."""
    source = getattr(spec, "source", None)
    return source.lower() if tap.partition("[")[0] == OUTPUT and source in PROBABILITIES else None


def _check_top_k(top_ks: Mapping[str, int | None], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int | None]:
    missing = [tap for tap, k in top_ks.items() if k is not None and tap not in shapes]
    if missing:
        raise ValueError(
            f"`top_k` applies to the tap '{missing[0]}', which is not among the cached taps {list(shapes)}. Add it to "
            f"`taps`, or pass `top_k={{tap: k}}` with one of these taps. Received: {dict(top_ks)}"
        )
    checked = {tap: check_integer(k, "top_k", optional=True) for tap, k in top_ks.items()}
    for tap, k in checked.items():
        num_classes = shapes[tap][-1] if shapes.get(tap) else 0
        if k is not None and k >= num_classes:
            raise ValueError(
                f"`top_k` must be less than the number of classes at '{tap}', which is {num_classes}. `top_k=None` "
                f"stores all classes. Received: {k}"
            )
    return checked
