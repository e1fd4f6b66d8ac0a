"""Batches, labels, sample weights, datasets and transfer sets."""

from keras_distill.data.augmentation import Augmentation, augment, augment_dataset
from keras_distill.data.batch import Batch, on_inputs, with_activations, with_index
from keras_distill.data.crops import Crops, Shifts
from keras_distill.data.datasets import open_dataset
from keras_distill.data.labels import UNLABELLED, label_mask
from keras_distill.data.mixtures import CutMix, Mixup
from keras_distill.data.munge import Munge
from keras_distill.data.texts import Recombination, WordDrop
from keras_distill.data.transfer import TransferSet

__all__ = [
    "UNLABELLED",
    "Augmentation",
    "Batch",
    "Crops",
    "CutMix",
    "Mixup",
    "Munge",
    "Recombination",
    "Shifts",
    "TransferSet",
    "WordDrop",
    "augment",
    "augment_dataset",
    "label_mask",
    "on_inputs",
    "open_dataset",
    "with_activations",
    "with_index",
]
