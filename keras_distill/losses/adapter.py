"""Keras losses and plain functions as distillation losses."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _compat
from keras_distill.data.batch import Batch
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.checks import shapes_match
from keras_distill.models.masking import mean_over_positions
from keras_distill.models.specs import trace
from keras_distill.types import Tensor

# Losses of labels or probabilities, and the loss of this package to use instead. On logits they have
# wrong gradients and no lower bound, and their names suggest otherwise.
_OF_PROBABILITIES = {
    "BinaryCrossentropy": "BinaryKD",
    "BinaryFocalCrossentropy": "BinaryKD",
    "CategoricalCrossentropy": "KLDivergence",
    "CategoricalFocalCrossentropy": "KLDivergence",
    "CategoricalGeneralizedCrossEntropy": "KLDivergence",
    "CategoricalHinge": "KLDivergence",
    "CTC": "KLDivergence",
    "Circle": "RelationalKD",
    "Dice": "KLDivergence",
    "Hinge": "BinaryKD",
    "KLDivergence": "KLDivergence",
    "Poisson": "LogitMSE",
    "SparseCategoricalCrossentropy": "KLDivergence",
    "SquaredHinge": "BinaryKD",
    "Tversky": "KLDivergence",
}
_PARAMETERS = (("student", "teacher"), ("y_true", "y_pred"))


@keras.saving.register_keras_serializable("keras_distill")
class LossAdapter(DistillationLoss):
    """Keras loss of real values, or a plain function, as a distillation loss.

    `Term` makes it from its first argument: `Term(keras.losses.Huber())`, `Term("mse")`, `Term(function)`. A Keras loss
    is called with the teacher's activation as `y_true` and the student's as `y_pred`. Its `reduction` has no effect:
    each example gets the mean over its positions, as in every term.

    Args:
        loss: A `keras.losses.Loss` of real values (mean squared or absolute error, Huber, LogCosh, cosine similarity,
            or the user's own), the name of one, or a function with the parameters `student` and `teacher`, or `y_true`
            and `y_pred`, that returns one value per example or position, shape `[batch, ...]`. Register a function with
            `keras.saving.register_keras_serializable` if the distiller will be saved.
        arguments: Constructor arguments of a Keras loss that its own config leaves out, such as the `delta` of Huber.
            Set when a saved distiller is loaded. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: For a Keras loss of probabilities or labels; a function with other parameters; and anything that is
            not a loss.

    Example:
    >>> terms = [Term(keras.losses.Huber(delta=0.5), "features", "features", head="auto")]
    >>> distiller = Distiller(student=student, teacher=teacher, terms=terms)
    """

    def __init__(self, loss: Any, arguments: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        loss = _resolve(loss)
        self.wrapped = type(loss).from_config({**loss.get_config(), **arguments}) if arguments else loss
        self._compare = _by_keyword(self.wrapped)
        # It has no variables, so that distillers can share it and a function need not be registered.
        self.built = True

    @property
    def loss_name(self) -> str:
        """Name of the wrapped loss, for the logs."""
        name = getattr(self.wrapped, "name", None) or getattr(self.wrapped, "__name__", "function")
        return name.strip("<>").removesuffix("_loss")

    def comparable(self, student_shape: tuple, teacher_shape: tuple) -> bool:
        if not shapes_match(student_shape[1:], teacher_shape[1:]):
            return False
        pair = tf.TensorSpec(student_shape), tf.TensorSpec(teacher_shape)
        result = trace(lambda activations: self._compare(*activations), pair)
        if not result.shape:
            raise ValueError(
                f"'{self.loss_name}' must return one value per example, shape [batch] or [batch, positions...]. "
                "Received: a scalar. Leave out the mean over the first axis."
            )
        return True

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return mean_over_positions(self._compare(student, teacher), batch.position_weight)

    def get_config(self):
        config = {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.wrapped)}
        arguments = _arguments_without_config(self.wrapped)
        return {**config, "arguments": arguments} if arguments else config


def _resolve(loss):
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    class_name = _class_of_probabilities(loss)
    if class_name is not None:
        ours = _OF_PROBABILITIES[class_name]
        raise ValueError(
            f"keras.losses.{class_name} compares labels or probabilities, not the activations of two models. Use "
            f"keras_distill.losses.{ours}(), which compares {'embeddings' if ours == 'RelationalKD' else 'logits'}."
        )
    if not isinstance(loss, keras.losses.Loss) and not callable(loss):
        raise ValueError(
            "The loss of a Term must be a loss of keras_distill.losses, a keras.losses.Loss of real values, the name "
            f"of one, or a function (student, teacher). Received: {loss!r}"
        )
    return loss


def _class_of_probabilities(loss):
    """Return the name of the Keras loss of probabilities that a loss is, inherits from or is the function of."""
    if isinstance(loss, keras.losses.Loss):
        inherited = [cls for cls in type(loss).__mro__ if getattr(keras.losses, cls.__name__, None) is cls]
        return next((cls.__name__ for cls in inherited if cls.__name__ in _OF_PROBABILITIES), None)
    name = getattr(loss, "__name__", "")
    if getattr(keras.losses, name, None) is not loss:
        return None
    squeezed = name.replace("_", "").lower()
    return next((class_name for class_name in _OF_PROBABILITIES if class_name.lower() == squeezed), None)


def _arguments_without_config(loss):
    """Return constructor arguments that the config of a Keras loss leaves out: Keras 3.15 loses Huber's `delta`."""
    if not isinstance(loss, keras.losses.Loss):
        return {}
    given, config = _compat.loss_arguments(loss), loss.get_config()
    parameters = inspect.signature(type(loss)).parameters
    return {name: value for name, value in given.items() if name in parameters and name not in config}


def _by_keyword(loss) -> Callable:
    """Return a function of (student, teacher) that passes each to the right parameter."""
    if isinstance(loss, keras.losses.Loss):
        return lambda student, teacher: loss.call(y_true=teacher, y_pred=student)
    names = [
        parameter.name
        for parameter in inspect.signature(loss).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if set(names) == {"student", "teacher"}:
        return lambda student, teacher: loss(student=student, teacher=teacher)
    if set(names) == {"y_true", "y_pred"}:
        return lambda student, teacher: loss(y_true=teacher, y_pred=student)
    raise ValueError(
        f"A loss function must have the parameters (student, teacher) or (y_true, y_pred). Received: "
        f"{getattr(loss, '__name__', loss)}({', '.join(names)})"
    )
