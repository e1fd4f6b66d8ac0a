"""Model or function as the teacher."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.models.layers import find_layer
from keras_distill.models.lm_head import logits_layer
from keras_distill.models.taps import OUTPUT, Taps
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.checks import class_map, map_logits
from keras_distill.types import Structure


class ModelTeacher(Teacher):
    """Trained model, or any function of the inputs, as the teacher.

    The model runs in inference mode, outside the gradient tape, once per step; its weights, statistics and `trainable`
    flags are not changed. A `Distiller` wraps a model in a ModelTeacher by itself; make one for `inputs` or `classes`.

    With `classes`, the taps "output" and "output[...]" return logits of the student's classes; intermediate layers are
    not mapped. The probability of a student class is the sum over its teacher classes:

    ```
    z[c] = log sum_(k in classes[c]) exp(z_teacher[k])
    ```

    Teacher classes that are not used are removed, and the softmax over the others sums to 1 again. Sums are exact at
    temperature 1 and approximate at any other, because logits are mapped before they are divided by the temperature.

    Args:
        model: A `keras.Model`, any Keras layer (`keras.layers.TFSMLayer` for a SavedModel), or a function of the
            inputs, which can be tapped only at "output".
        inputs: Function from the inputs of the batch to the teacher's, for another resolution, other preprocessing, or
            a subset of several inputs. Defaults to None: the same inputs.
        classes: For each student class, the index of its teacher class, or a list of indices. Each teacher class may be
            used once. Defaults to None: both models have the same classes.

    Raises:
        ValueError: If `model` or `inputs` is not callable, or `classes` is not such a list; when the distiller is made,
            if the teacher has fewer classes than `classes` uses, or ends in a sigmoid.

    Example:
    >>> resized = ModelTeacher(teacher, inputs=lambda images: ops.image.resize(images, (8, 8)))
    >>> average = ModelTeacher(lambda images: (teacher(images) + teacher(images[:, :, ::-1])) / 2)
    >>> merged = ModelTeacher(teacher, classes=[2, [0, 1]])  # student class 0 is teacher class 2, class 1 is 0 or 1
    >>> distiller = Distiller(student=student, teacher=resized, terms=[Term(KLDivergence())])
    """

    def __init__(
        self,
        model: Callable[..., Structure],
        inputs: Callable[[Structure], Structure] | None = None,
        classes: Sequence[int | Sequence[int]] | None = None,
    ):
        if not callable(model):
            raise ValueError(
                "A teacher must be a keras.Model, a keras layer or a function of the inputs; for several teachers, use "
                "keras_distill.teachers.Ensemble([first, second]), and for a file keras.saving.load_model(path). "
                f"Received: {model!r}"
            )
        if inputs is not None and not callable(inputs):
            raise ValueError(f"`inputs` must be a function of the batch's inputs. Received: {inputs!r}")
        self.model = model
        self.inputs = inputs
        self.classes = None if classes is None else class_map(classes)

    @property
    def signature(self) -> str:
        # Part of the fingerprint of caches: their text must not change.
        parts = [] if self.classes is None else [f"classes {self.classes}"]
        if self.inputs is not None:
            parts.append(f"inputs {getattr(self.inputs, '__qualname__', type(self.inputs).__qualname__)}")
        return ", ".join(parts)

    @property
    def weights(self) -> tuple:
        return tuple(self.model.weights) if isinstance(self.model, keras.layers.Layer) else ()

    @property
    def models(self) -> tuple:
        return (self.model,) if self.inputs is None else ()

    @property
    def logits_layer(self) -> keras.layers.Layer | None:
        return logits_layer(self.model)

    def connect(self, taps: Sequence[str]) -> None:
        if isinstance(self.model, keras.layers.Layer):
            self._taps = Taps(self.model, taps)
            return
        layers = [tap for tap in taps if tap.partition("[")[0] != OUTPUT]
        if layers:
            raise ValueError(f"A function has no layers to tap. Received: taps {layers}. Pass the keras.Model itself.")
        self._taps = Taps(_Function(self.model), taps)

    def find_layer(self, name: str) -> keras.layers.Layer:
        if not isinstance(self.model, keras.layers.Layer):
            raise ValueError(f"A function has no layers. Pass the keras.Model itself. Received: layer '{name}'")
        return find_layer(self.model, name)

    def activations(self, batch: Batch) -> dict[str, Structure]:
        inputs = batch.inputs if self.inputs is None else self.inputs(batch.inputs)
        try:
            activations = self._taps(inputs, training=False)
        except (NotImplementedError, TypeError, AttributeError) as error:
            if isinstance(self.model, keras.layers.Layer):
                raise
            name = getattr(self.model, "__name__", type(self.model).__name__)
            raise ValueError(
                f"The teacher '{name}' failed for TensorFlow tensors: {error}. If it takes NumPy arrays, pass "
                "keras_distill.teachers.NumPyTeacher(function)."
            ) from error
        if self.classes is None:
            return activations
        return {tap: self._map_classes(tap, activation) for tap, activation in activations.items()}

    def _map_classes(self, tap, activation):
        # Several outputs at once pass: the term raises an error that says how to choose one.
        is_output = tap.partition("[")[0] == OUTPUT and not keras.tree.is_nested(activation)
        return map_logits(ops.convert_to_tensor(activation), self.classes) if is_output else activation


class _Function:
    """Function with the interface of a model that `Taps` needs."""

    def __init__(self, function):
        self.function = function
        self.name = getattr(function, "__name__", "teacher")

    def __call__(self, inputs, training):
        return self.function(inputs)
