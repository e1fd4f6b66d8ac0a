"""A model as the teacher."""

import keras
from keras import ops

from keras_distill.models.taps import OUTPUT, Taps, find_layer
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.checks import class_map, map_logits


class ModelTeacher(Teacher):
    """A trained model, or any function of the inputs, as the teacher.

    It runs in inference mode, outside the gradient tape, once a step; its weights, statistics and `trainable` flags
    stay as they are. A `Distiller` that is given a model makes this of it.

    ```python
    ModelTeacher(teacher, inputs=lambda images: keras.ops.image.resize(images, (224, 224)))
    ModelTeacher(lambda images: (first(images) + second(images)) / 2)
    ModelTeacher(teacher, classes=[3, 7, [0, 1, 2]])      # three student classes; the last is any of three of its own
    ```

    With `classes`, the taps "output" and "output[...]" give logits of the student's classes; inner layers stay as they
    are. What a class is made of adds up in probability:

    ```
    z[c] = log sum_(k in classes[c]) exp(z_teacher[k])
    ```

    Teacher classes that are named nowhere drop out, and the softmax of the others adds up to 1 again. Sums are exact at
    temperature 1. At another temperature they are an approximation: activations are taken before any temperature, and
    softening a sum is not summing what was softened.

    Args:
        model: A `keras.Model`, any Keras layer (`keras.layers.TFSMLayer` for a SavedModel), or a function, which can be
            tapped at "output" alone.
        inputs: A function from the batch's inputs to the teacher's, where they differ: another resolution, other
            preprocessing, some of several inputs. None if both models take the same.
        classes: For each student class, the number of the teacher's class that it is, or a list of those that it is
            made of. None if both models have the same classes.

    Raises:
        ValueError: If `model` or `inputs` cannot be called, or `classes` has a class twice or an empty list; when the
            distiller is made, if the teacher has fewer classes than that, or ends in a softmax.
    """

    def __init__(self, model, inputs=None, classes=None):
        if not callable(model):
            raise ValueError(
                "A teacher must be a keras.Model, a keras layer or a function of the inputs; to learn from several, "
                f"write a function that averages them. Received: {model!r}"
            )
        if inputs is not None and not callable(inputs):
            raise ValueError(f"`inputs` must be a function of the batch's inputs. Received: {inputs!r}")
        self.model = model
        self.inputs = inputs
        self.classes = None if classes is None else class_map(classes)

    @property
    def signature(self):
        return "" if self.classes is None else f"classes {self.classes}"

    @property
    def weights(self):
        return tuple(self.model.weights) if isinstance(self.model, keras.layers.Layer) else ()

    @property
    def models(self):
        return (self.model,) if self.inputs is None else ()

    def connect(self, taps):
        if isinstance(self.model, keras.layers.Layer):
            self._taps = Taps(self.model, taps)
            return
        inner = [tap for tap in taps if tap.partition("[")[0] != OUTPUT]
        if inner:
            raise ValueError(f"A function has no layers to tap. Received: taps {inner}. Pass the keras.Model itself.")
        self._taps = Taps(_Function(self.model), taps)

    def find_layer(self, name):
        if not isinstance(self.model, keras.layers.Layer):
            raise ValueError(f"A function has no layers, so none called '{name}'. Pass the keras.Model itself.")
        return find_layer(self.model, name)

    def activations(self, batch):
        inputs = batch.inputs if self.inputs is None else self.inputs(batch.inputs)
        found = self._taps(inputs, training=False)
        return found if self.classes is None else {tap: self._mapped(tap, value) for tap, value in found.items()}

    def _mapped(self, tap, activation):
        # Several outputs at once are refused by the term, which says how to choose one.
        output = tap.partition("[")[0] == OUTPUT and not keras.tree.is_nested(activation)
        return map_logits(ops.convert_to_tensor(activation), self.classes) if output else activation


def as_teacher(teacher):
    """A `Teacher` as it is, and a `ModelTeacher` of anything else."""
    return teacher if isinstance(teacher, Teacher) else ModelTeacher(teacher)


class _Function:
    """A function under the interface that `Taps` asks of a model."""

    def __init__(self, function):
        self.function = function
        self.name = getattr(function, "__name__", "teacher")

    def __call__(self, inputs, training):
        return self.function(inputs)
