"""Batches, labels, sample weights and datasets."""

from keras_distill.data.batch import Batch, on_inputs, with_activations, with_index
from keras_distill.data.datasets import open_dataset
from keras_distill.data.labels import UNLABELLED, label_mask

__all__ = ["UNLABELLED", "Batch", "label_mask", "on_inputs", "open_dataset", "with_activations", "with_index"]
