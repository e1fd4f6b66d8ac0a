"""Teacher cache: teacher outputs on disk, computed once and reused in every epoch."""

from keras_distill.cache.indexing import indexed
from keras_distill.cache.joining import TeacherCache, open_cache
from keras_distill.cache.labelling import label
from keras_distill.cache.views import Views
from keras_distill.data.batch import on_inputs

__all__ = ["TeacherCache", "Views", "indexed", "label", "on_inputs", "open_cache"]
