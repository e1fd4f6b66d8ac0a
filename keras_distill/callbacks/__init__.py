"""Keras callbacks: fault-tolerant training, termination on NaN, and TensorBoard."""

from typing import Any

from keras_distill.callbacks.backup import Backup
from keras_distill.callbacks.preemption import EXIT_PREEMPTED
from keras_distill.callbacks.termination import NonFiniteError, TerminateOnNonFinite

__all__ = ["EXIT_PREEMPTED", "Backup", "NonFiniteError", "TensorBoard", "TerminateOnNonFinite"]


def __getattr__(name: str) -> Any:
    # Imported at first use, since its images need matplotlib and its files the package tensorboard.
    if name == "TensorBoard":
        from keras_distill.callbacks.tensorboard import TensorBoard

        return TensorBoard
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(__all__)
