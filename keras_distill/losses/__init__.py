"""Losses that compare a student's activation with a teacher's."""

from keras_distill.losses.attention_transfer import AttentionTransfer
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.channel_wise import ChannelWise
from keras_distill.losses.correlation_congruence import CorrelationCongruence
from keras_distill.losses.cosine import Cosine
from keras_distill.losses.decoupled_kd import DecoupledKD
from keras_distill.losses.dist import Dist
from keras_distill.losses.flow_of_solution import FlowOfSolution
from keras_distill.losses.hint import Hint
from keras_distill.losses.inter_channel import InterChannel
from keras_distill.losses.jensen_shannon import JensenShannon
from keras_distill.losses.kullback_leibler import KullbackLeibler
from keras_distill.losses.logit_mse import LogitMSE
from keras_distill.losses.logit_standardization import LogitStandardization
from keras_distill.losses.multi_level import MultiLevel
from keras_distill.losses.neuron_selectivity import NeuronSelectivity
from keras_distill.losses.pearson import Pearson
from keras_distill.losses.probabilistic_transfer import ProbabilisticTransfer
from keras_distill.losses.relational_kd import RelationalKD
from keras_distill.losses.reverse_kl import ReverseKL
from keras_distill.losses.similarity_preserving import SimilarityPreserving
from keras_distill.losses.soft_binary import SoftBinary
from keras_distill.losses.top_k import TopK
from keras_distill.losses.total_variation import TotalVariation
