"""A teacher's activations on disk: written once, read in every epoch."""

from keras_distill.batch import on_inputs
from keras_distill.cache.indexing import indexed
from keras_distill.cache.joining import Cached, cached
from keras_distill.cache.labelling import label
from keras_distill.cache.views import Views
