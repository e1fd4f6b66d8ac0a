"""Making a student small: start it from its teacher, let its layers share weights, quantise it, export it, weigh it."""

from keras_distill.compression.exporting import Exported, export
from keras_distill.compression.folding import fold
from keras_distill.compression.footprint import Footprint, weigh
from keras_distill.compression.initialization import copy_weights
from keras_distill.compression.post_training import keras_quantized
from keras_distill.compression.quantization import Bits, quantized, rounded
from keras_distill.compression.sharing import share
