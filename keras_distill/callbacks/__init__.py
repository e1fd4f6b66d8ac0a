"""Keras callbacks: fault-tolerant training and TensorBoard."""

from keras_distill.callbacks.backup import EXIT_PREEMPTED, Backup

__all__ = ["EXIT_PREEMPTED", "Backup"]
