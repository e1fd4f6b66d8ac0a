"""Teacher activations computed by ONNX Runtime on the CPU."""

import os
import tempfile
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_distill.cache.packing import StoredTap
from keras_distill.data.batch import Batch
from keras_distill.models.layers import walk_layers
from keras_distill.models.softmax import as_logits
from keras_distill.teachers import Ensemble, ModelTeacher, Teacher
from keras_distill.types import Structure

# Largest difference between ONNX Runtime and Keras, in units of the standard deviation of an activation: of float32
# models, and of models with layers in half precision, which ONNX Runtime computes in float32 in part.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
_INPUT = "input_"
_ADVICE = '`engine="keras"` labels without ONNX.'


def onnx_activations(
    teacher: Teacher, taps: Mapping[str, StoredTap], inputs: Structure, sample: Structure | None
) -> Callable[[Structure], dict[str, np.ndarray]]:
    """Export a teacher to ONNX and return a function from the inputs of a batch to `{tap: array}`.

    Outputs of softmax and sigmoid are logits, as caches store them. ONNX Runtime uses as many threads as TensorFlow.

    Args:
        teacher: `ModelTeacher` of a Keras model, or an `Ensemble` of them; it is connected.
        taps: `{tap: StoredTap}` of the manifest.
        inputs: Structure of `tf.TensorSpec` of one example.
        sample: Inputs of a batch, on which the activations are compared with those of Keras. None skips that.

    Raises:
        ValueError: If the teacher is no Keras model, if it cannot be exported, if tf2onnx or onnxruntime is not
            installed, or if an activation differs from that of Keras.
    """
    _check_teacher(teacher)
    # Imported here, because a cache is usually read without them.
    from keras_distill.compression.onnx_files import write_onnx
    from keras_distill.compression.runtimes import onnx_session, silence_runtime

    # The names tell which inputs remain in the file: tf2onnx removes those that the teacher does not use.
    specs = [
        tf.TensorSpec((None, *spec.shape), spec.dtype, name=f"{_INPUT}{number}")
        for number, spec in enumerate(keras.tree.flatten(inputs))
    ]
    model = _Activations(teacher, taps, inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "teacher.onnx")
        try:
            with silence_runtime():
                write_onnx(model, path, specs)
            session = onnx_session(path, num_threads())
        except ValueError as error:
            raise ValueError(f"{error} {_ADVICE}") from error
    positions = {details.name: _position(details.name, model) for details in session.get_inputs()}

    def activations(inputs):
        leaves = keras.tree.flatten(inputs)
        arrays = {name: np.asarray(leaves[position]) for name, position in positions.items()}
        return dict(zip(taps, session.run(None, arrays), strict=True))

    if sample is not None:
        expected = tf.function(model)(keras.tree.flatten(sample))
        tolerance = _HALF_TOLERANCE if _in_half_precision(model) else _TOLERANCE
        for (tap, actual), tensor in zip(activations(sample).items(), expected):
            compare(tap, actual, tensor.numpy(), tolerance)
    return activations


class _Activations(keras.Model):
    """Model that returns the activations of a teacher as a list, from a list of inputs."""

    def __init__(self, teacher, taps, inputs):
        parts = [part.model for part in _parts(teacher)]
        # The models inside cast their inputs themselves.
        super().__init__(name=parts[0].name, autocast=False)
        self.parts = parts

        # A function, since Keras would wrap dictionaries.
        def compute(leaves):
            activations = teacher.activations(Batch(keras.tree.pack_sequence_as(inputs, leaves)))
            return [_to_store(activations[tap], stored) for tap, stored in taps.items()]

        self._compute = compute
        self.built = True

    def call(self, leaves):
        return self._compute(keras.tree.flatten(leaves))


def _to_store(activation, stored):
    """Return the activation that is stored, in a dtype that NumPy has."""
    if stored.function is not None:
        activation = as_logits(activation, stored.function.capitalize())
    activation = tf.convert_to_tensor(activation)
    return tf.cast(activation, "float32") if activation.dtype in (tf.float16, tf.bfloat16) else activation


def _check_teacher(teacher):
    for part in _parts(teacher):
        if not isinstance(part, ModelTeacher) or not isinstance(part.model, keras.layers.Layer):
            name = getattr(getattr(part, "model", part), "__name__", type(part).__name__)
            raise ValueError(f'`engine="onnx"` exports a keras.Model. Received: teacher {name}. {_ADVICE}')


def _parts(teacher):
    """Return the teacher, or the members of ensembles."""
    if not isinstance(teacher, Ensemble):
        return [teacher]
    return [part for member in teacher.members.values() for part in _parts(member)]


def _in_half_precision(model):
    return any(layer.compute_dtype in ("float16", "bfloat16") for _, layer in walk_layers(model))


def num_threads() -> int | None:
    """Return the number of threads: that of TensorFlow, or of the cores that this process may use."""
    configured = tf.config.threading.get_intra_op_parallelism_threads()
    # Without a number, ONNX Runtime would start threads for the cores that other processes are restricted to.
    return configured or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def _position(name, model):
    """Return the position of an input of the file among those of the examples."""
    number = name.removeprefix(_INPUT)
    if number == name:
        raise ValueError(
            f"'{model.name}' cannot be exported to ONNX, since it holds a tensor as a constant, '{name}'. Make it a "
            f"NumPy array or a weight. {_ADVICE}"
        )
    return int(number)


def compare(tap: str, actual: np.ndarray, expected: np.ndarray, tolerance: float = _TOLERANCE) -> None:
    """Compare the activations of ONNX Runtime with those of Keras.

    Args:
        tap: Name of the tap, for the error.
        actual: Activations of ONNX Runtime, shape `[batch, ...]`.
        expected: Activations of Keras.
        tolerance: Largest difference, in units of the standard deviation. Defaults to 0.001.

    Raises:
        ValueError: If they differ by more anywhere.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"ONNX Runtime returns shape {actual.shape} at '{tap}', but Keras {expected.shape}. {_ADVICE}")
    actual, expected = actual.astype("float64"), expected.astype("float64")
    finite = np.isfinite(expected)
    # Masked classes are -infinity. NaN raises an error that names the example when it is stored.
    same = np.array_equal(actual[~finite], expected[~finite], equal_nan=True)
    numbers = expected[finite]
    if same and numbers.size:
        # A constant activation has no deviation.
        scale = max(numbers.std(), 1e-3 * np.sqrt(np.mean(numbers**2)))
        difference = np.abs(actual[finite] - numbers).max()
        # Negated, so that NaN is an error.
        if not difference <= tolerance * scale:
            raise ValueError(
                f"The activations of ONNX Runtime at '{tap}' differ from those of Keras by up to {difference:.2g} in "
                f"the first batch ({tolerance * scale:.2g} allowed). {_ADVICE}"
            )
    if not same:
        raise ValueError(f"ONNX Runtime and Keras return infinity or NaN at different places of '{tap}'. {_ADVICE}")
