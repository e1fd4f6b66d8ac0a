"""Weights of positions from the class scores of the teacher."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_distill.data.batch import Batch
from keras_distill.types import Tensor

_ACTIVATIONS = {
    "sigmoid": ops.sigmoid,
    "softmax": lambda logits: ops.softmax(logits, axis=-1),
    None: lambda probabilities: probabilities,
}


@keras.saving.register_keras_serializable("keras_distill")
class Confidence:
    """Weights of positions for `Term(positions=)`: the teacher's largest class probability at each position.

    Detectors have objects at few positions. Weighted by the scores of the teacher's classes, a feature loss compares
    these. With `over="tokens"`, the loss is divided by the sum of the weights of the whole batch, as in Ultralytics.

    Args:
        tap: Tap of the teacher with class scores, shape `[batch, positions..., classes]`, at any resolution.
        activation: Activation from scores to probabilities: "sigmoid" for detectors, "softmax" for classes that exclude
            each other, None if the tap returns probabilities. Defaults to "sigmoid".

    Raises:
        ValueError: If `tap` is not a string, or for another activation.

    Example:
    >>> term = Term(Hint(), "block_2", "block_4", head=MLP(), positions=Confidence("block_4"), over="tokens")
    """

    def __init__(self, tap: str, activation: str | None = "sigmoid"):
        if not isinstance(tap, str):
            raise ValueError(f"`tap` must be a tap of the teacher. Received: {tap!r}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"`activation` must be one of {list(_ACTIVATIONS)}. Received: {activation!r}")
        self.tap = tap
        self.activation = activation

    @property
    def taps(self) -> tuple[str, ...]:
        """Taps of the teacher that the weights are computed from."""
        return (self.tap,)

    def __call__(self, batch: Batch, teacher: Mapping[str, Any]) -> Tensor:
        """Return the weights, float32 of shape `[batch, positions...]`.

        Args:
            batch: The `Batch`. Not used.
            teacher: `{tap: activation}` of the teacher.
        """
        scores = ops.cast(teacher[self.tap], "float32")
        return ops.max(_ACTIVATIONS[self.activation](scores), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"tap": self.tap, "activation": self.activation}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Confidence":
        return cls(**config)
