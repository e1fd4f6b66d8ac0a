"""Distillation losses: comparisons of a student activation with a teacher activation."""

from keras_distill.losses.acceptance_likelihood import AcceptanceLikelihood
from keras_distill.losses.activation_boundary import ActivationBoundary
from keras_distill.losses.adapter import LossAdapter
from keras_distill.losses.adaptive_kl import AdaptiveKL
from keras_distill.losses.affinity_mimicking import AffinityMimicking
from keras_distill.losses.attention_relation import AttentionRelation
from keras_distill.losses.attention_scores import AttentionScores
from keras_distill.losses.attention_transfer import AttentionTransfer
from keras_distill.losses.base import DistillationLoss
from keras_distill.losses.binary_kd import BinaryKD
from keras_distill.losses.centered_kl import CenteredKL
from keras_distill.losses.channel_wise_kd import ChannelWiseKD
from keras_distill.losses.chunked import Chunked
from keras_distill.losses.chunked_crossentropy import ChunkedCrossentropy
from keras_distill.losses.confidence_temperature import ConfidenceTemperature
from keras_distill.losses.contrastive_representation import ContrastiveRepresentation
from keras_distill.losses.correlation_congruence import CorrelationCongruence
from keras_distill.losses.cosine_similarity import CosineSimilarity
from keras_distill.losses.curriculum_temperature import CurriculumTemperature
from keras_distill.losses.decoupled_kd import DecoupledKD
from keras_distill.losses.dist import DIST
from keras_distill.losses.factor_transfer import FactorTransfer
from keras_distill.losses.focal_global_kd import FocalGlobalKD
from keras_distill.losses.focal_temperature import FocalTemperature
from keras_distill.losses.fsp import FSP
from keras_distill.losses.hidden_state import HiddenState
from keras_distill.losses.hierarchical_context import HierarchicalContext
from keras_distill.losses.hint import Hint
from keras_distill.losses.hybrid_logit_distillation import HybridLogitDistillation
from keras_distill.losses.inter_channel_correlation import InterChannelCorrelation
from keras_distill.losses.interactive_contrastive import InteractiveContrastive
from keras_distill.losses.jensen_shannon import JensenShannon
from keras_distill.losses.kl_divergence import KLDivergence
from keras_distill.losses.koleo import KoLeo
from keras_distill.losses.logit_mse import LogitMSE
from keras_distill.losses.logit_standardization import LogitStandardization
from keras_distill.losses.margin_relu import MarginReLU
from keras_distill.losses.masked_generative import MaskedGenerative
from keras_distill.losses.multi_level_kd import MultiLevelKD
from keras_distill.losses.neuron_selectivity_transfer import NeuronSelectivityTransfer
from keras_distill.losses.patient_kd import PatientKD
from keras_distill.losses.pearson_kd import PearsonKD
from keras_distill.losses.probabilistic_transfer import ProbabilisticTransfer
from keras_distill.losses.quality_focal import QualityFocal
from keras_distill.losses.queue_similarity import QueueSimilarity
from keras_distill.losses.relational_kd import RelationalKD
from keras_distill.losses.reverse_kl import ReverseKL
from keras_distill.losses.similarity_preserving import SimilarityPreserving
from keras_distill.losses.skew_kl import SkewKL
from keras_distill.losses.skew_reverse_kl import SkewReverseKL
from keras_distill.losses.token_similarity import TokenSimilarity
from keras_distill.losses.top_k import TopK
from keras_distill.losses.total_variation import TotalVariation
from keras_distill.losses.universal_logit_distillation import UniversalLogitDistillation
from keras_distill.losses.variational_information import VariationalInformation

__all__ = [
    "AcceptanceLikelihood",
    "ActivationBoundary",
    "AdaptiveKL",
    "AffinityMimicking",
    "AttentionRelation",
    "AttentionScores",
    "AttentionTransfer",
    "BinaryKD",
    "CenteredKL",
    "ChannelWiseKD",
    "Chunked",
    "ChunkedCrossentropy",
    "ConfidenceTemperature",
    "ContrastiveRepresentation",
    "CorrelationCongruence",
    "CosineSimilarity",
    "CurriculumTemperature",
    "DIST",
    "DecoupledKD",
    "DistillationLoss",
    "FSP",
    "FactorTransfer",
    "FocalGlobalKD",
    "FocalTemperature",
    "HiddenState",
    "HierarchicalContext",
    "Hint",
    "HybridLogitDistillation",
    "InterChannelCorrelation",
    "InteractiveContrastive",
    "JensenShannon",
    "KLDivergence",
    "KoLeo",
    "LogitMSE",
    "LogitStandardization",
    "MarginReLU",
    "MaskedGenerative",
    "MultiLevelKD",
    "NeuronSelectivityTransfer",
    "PatientKD",
    "PearsonKD",
    "ProbabilisticTransfer",
    "QualityFocal",
    "QueueSimilarity",
    "RelationalKD",
    "ReverseKL",
    "SimilarityPreserving",
    "SkewKL",
    "SkewReverseKL",
    "TokenSimilarity",
    "TopK",
    "TotalVariation",
    "UniversalLogitDistillation",
    "VariationalInformation",
]
