"""Function of NumPy arrays as the teacher: scikit-learn, PyTorch, ONNX Runtime, LiteRT."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.models.taps import OUTPUT
from keras_distill.teachers.base import Teacher
from keras_distill.types import Structure


class NumPyTeacher(Teacher):
    """Function of NumPy arrays as the teacher, such as a model of another library.

    TensorFlow calls the function once per step, outside of its graph: it runs on the CPU, one step at a time, and not
    with `jit_compile=True`, nor in a saved pipeline. `label` calls it batch by batch; a cache of its outputs is faster
    from the second epoch on. Methods called `predict_proba` of scikit-learn and others need no NumPyTeacher: a
    `Distiller` and `label` take them as they are.

    ```
    NumPyTeacher(forest.predict_proba, from_probabilities=True)                        scikit-learn, XGBoost
    NumPyTeacher(lambda x: session.run(None, {"input": x})[0])                         ONNX Runtime
    NumPyTeacher(lambda x: model(torch.from_numpy(x)).detach().numpy())                PyTorch
    NumPyTeacher(lambda x: model(torch.from_numpy(x)).logits.detach().numpy())         Hugging Face
    ```

    Args:
        function: Function of the batch's inputs, an array or a structure of arrays, that returns an array of shape
            `[batch, ...]`, or a dictionary of such arrays, tapped as "output[key]".
        from_probabilities: Whether the function returns class probabilities, of which the teacher takes the logarithm:
            logits up to a constant, -inf for a probability of 0. Defaults to False.
        name: Name for errors. Defaults to the name of the function.

    Raises:
        ValueError: If `function` is not callable; when the distiller is made, if the function fails for a batch of
            zeros (of empty texts), returns anything but arrays with a row for each example, or returns class
            probabilities without `from_probabilities`.

    Example:
    >>> teacher = NumPyTeacher(lambda images: images.mean(axis=(1, 2)), name="means")
    >>> distiller = Distiller(student=student, teacher=teacher, terms=[Term(KLDivergence())])
    """

    def __init__(self, function: Callable[..., Any], from_probabilities: bool = False, name: str | None = None):
        if not callable(function):
            raise ValueError(f"`function` must be a function of NumPy arrays. Received: {function!r}")
        self.function = function
        self.from_probabilities = from_probabilities
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._specs = None

    @property
    def signature(self) -> str:
        return f"numpy {self.name}{' from probabilities' if self.from_probabilities else ''}"

    def connect(self, taps: Sequence[str]) -> None:
        layers = [tap for tap in taps if tap.partition("[")[0] != OUTPUT]
        if layers:
            raise ValueError(f"The teacher '{self.name}' is a function, which has no layers to tap. Received: {layers}")
        self._taps = list(taps)

    def activations(self, batch: Batch) -> dict[str, Structure]:
        leaves = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(batch.inputs)]
        if self._specs is None:
            self._specs = self._probe(batch.inputs)
        outputs = tf.numpy_function(
            lambda *arrays: self._outputs(keras.tree.pack_sequence_as(batch.inputs, arrays)),
            leaves,
            [spec.dtype for spec in self._specs.values()],
        )
        # In eager execution, TensorFlow returns a single tensor as it is.
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        named = {}
        for (key, spec), output in zip(self._specs.items(), outputs, strict=True):
            output.set_shape(spec.shape)
            named[key] = ops.log(output) if self.from_probabilities else output
        return {tap: self._select(tap, named) for tap in self._taps}

    def _outputs(self, inputs):
        """Return the function's outputs as a list of arrays."""
        outputs = self.function(inputs)
        return [np.asarray(value) for value in (outputs.values() if isinstance(outputs, Mapping) else [outputs])]

    def _probe(self, inputs):
        """Return `{key: tf.TensorSpec}` of the outputs, from a batch of zeros; None is the key of a single array."""

        def zeros(leaf):
            shape, dtype = [2, *(length or 1 for length in leaf.shape[1:])], tf.as_dtype(leaf.dtype)
            # Texts arrive as bytes.
            return np.full(shape, b"", object) if dtype == tf.string else np.zeros(shape, dtype.as_numpy_dtype)

        with tf.init_scope():
            try:
                outputs = self.function(keras.tree.map_structure(zeros, inputs))
            except Exception as error:
                shapes = keras.tree.map_structure(lambda leaf: tuple(leaf.shape), inputs)
                raise ValueError(
                    f"The teacher '{self.name}' failed for a batch of two examples of zeros. Inputs of the batch: "
                    f"{shapes}. {type(error).__name__}: {error}"
                ) from error
        outputs = dict(outputs) if isinstance(outputs, Mapping) else {None: outputs}
        specs = {}
        for key, value in outputs.items():
            several = isinstance(value, (list, tuple)) and any(np.ndim(part) > 1 for part in value)
            value = value if several else np.asarray(value)
            if several or value.ndim == 0 or len(value) != 2:
                received = f"{len(value)} arrays" if several else f"shape {value.shape}"
                raise ValueError(
                    f"The teacher '{self.name}' must return one array with a row for each example, or a dictionary of "
                    "such arrays; for ONNX Runtime, `session.run(...)[0]`. Received for a batch of two examples: "
                    f"{received}"
                )
            if not self.from_probabilities and _are_probabilities(value):
                raise ValueError(
                    f"The teacher '{self.name}' returns class probabilities: values from 0 to 1 with a sum of 1. Pass "
                    "NumPyTeacher(function, from_probabilities=True), or a function that returns logits."
                )
            # Lengths that follow an unknown length of the inputs are unknown.
            known = all(None not in leaf.shape[1:] for leaf in keras.tree.flatten(inputs))
            shape = value.shape[1:] if known or value.ndim == 2 else (*[None] * (value.ndim - 2), value.shape[-1])
            specs[key] = tf.TensorSpec((None, *shape), value.dtype)
        return specs

    def _select(self, tap, named):
        key = tap.partition("[")[2].strip("]'\"")
        if not key:
            return named.get(None, named)
        if key not in named:
            raise ValueError(f"Tap '{tap}' matches no output of '{self.name}'. Available: {list(named)}.")
        return named[key]


def _are_probabilities(values):
    is_class_axis = values.ndim > 1 and values.shape[-1] > 1 and np.issubdtype(values.dtype, np.floating)
    return is_class_axis and values.min() >= 0 and np.allclose(values.sum(-1), 1, atol=1e-3)
