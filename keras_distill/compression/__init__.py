"""Student compression: initialization from the teacher, weight tying, quantization, export and profiling."""

from keras_distill.compression.exporting import Exported, export
from keras_distill.compression.folding import fold_batch_norm
from keras_distill.compression.importance import Importance, block_influence, measure_importance, unit_importance
from keras_distill.compression.initialization import copy_weights
from keras_distill.compression.post_training import quantize_post_training
from keras_distill.compression.profiling import Profile, profile
from keras_distill.compression.quantization import BitWidths, bake_quantization, quantize_aware
from keras_distill.compression.shrinking import shrink
from keras_distill.compression.tying import tie_weights
from keras_distill.compression.vocabulary import TrimmedVocabulary, trim_vocabulary

__all__ = [
    "BitWidths",
    "Exported",
    "Importance",
    "Profile",
    "TrimmedVocabulary",
    "bake_quantization",
    "block_influence",
    "copy_weights",
    "export",
    "fold_batch_norm",
    "measure_importance",
    "profile",
    "quantize_aware",
    "quantize_post_training",
    "shrink",
    "tie_weights",
    "trim_vocabulary",
    "unit_importance",
]
