"""Losses that compare a student's activation with a teacher's."""

from keras_distill.losses.attention_transfer import AttentionTransfer
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.decoupled_kd import DecoupledKD
from keras_distill.losses.hint import Hint
from keras_distill.losses.kullback_leibler import KullbackLeibler
from keras_distill.losses.relational_kd import RelationalKD
from keras_distill.losses.similarity_preserving import SimilarityPreserving
