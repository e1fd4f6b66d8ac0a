"""Base class of all teachers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras

from keras_distill.data.batch import Batch
from keras_distill.types import Structure


class Teacher:
    """Source of activations for a batch. Abstract.

    Not a layer: a teacher is not trained by the distiller, not modified, and not saved with the student.

    Attributes:
        state: Variables that change during training and are saved with the distiller, such as those of a moving
            average. Defaults to none.
        weights: All variables that the teacher computes with. The distiller checks that the student does not share
            them; caches and checkpoints identify the teacher by their values. Defaults to none.
        models: Keras models that the teacher calls with the unchanged inputs of the batch. The distiller reads the
            shapes of the inputs from them if the student does not define them. Defaults to none.
        stored: `{tap: tf.TensorSpec}` of the activations that come with the batch, in `batch.cached`, batch axis
            included as None; a structure of `tf.TensorSpec` for a tap stored as several arrays. Empty, the default, if
            the teacher computes its activations.
        signature: Settings that change the activations but not `weights`, as a string. Caches identify the teacher by
            it together with `weights`. Defaults to "".

    Example:
    >>> class Noisy(Teacher):
    ...     def connect(self, taps):
    ...         self.taps = taps
    ...
    ...     def activations(self, batch):
    ...         logits = teacher(batch.inputs) + keras.random.normal((3,), stddev=0.1)
    ...         return {tap: logits for tap in self.taps}
    >>> distiller = Distiller(student=student, teacher=Noisy(), terms=[Term(KLDivergence())])
    """

    state: Sequence[Any] = ()
    weights: Sequence[Any] = ()
    models: Sequence[keras.layers.Layer] = ()
    stored: Mapping[str, Structure] = MappingProxyType({})
    signature: str = ""

    @property
    def logits_layer(self) -> keras.layers.Layer | None:
        """Layer that maps the output to logits, for a model of hidden states; None, the default, for any other."""
        return None

    def connect(self, taps: Sequence[str]) -> None:
        """Set the activations that `activations` must return.

        Called when the distiller is made, and again if metrics given to `compile` need other taps; the last call
        counts. Make one `Teacher` per distiller.

        Args:
            taps: Layer paths, as `Term` takes them.

        Raises:
            ValueError: If the teacher does not have one of them.
        """
        raise NotImplementedError

    def activations(self, batch: Batch) -> Mapping[str, Structure]:
        """Return the activations of a batch.

        Args:
            batch: The `Batch`.

        Returns:
            `{tap: tensor of shape [batch, ...]}` for every connected tap.
        """
        raise NotImplementedError

    def find_layer(self, name: str) -> keras.layers.Layer:
        """Return the layer at a path, for losses that read the weights of a teacher's layer.

        Args:
            name: Path of the layer, as `Term` takes it.

        Raises:
            ValueError: If the teacher has no such layer.
        """
        raise ValueError(
            f"{type(self).__name__} does not give access to layers. Use a loss that compares activations, or pass the "
            f"keras.Model as the teacher. Received: layer '{name}'"
        )

    def after_step(self, student: keras.Model) -> None:
        """Update `state` after an optimizer step of the student. Does nothing by default.

        Args:
            student: The student.
        """
