"""Adapters from the losses to the values that published code returns.

`ADAPTERS` has a function for each name of `golden/INDEX.json`. It takes the inputs of a case, `{name: tensor}`, and its
hyperparameters, `{name: number}`, and returns a scalar: the loss times the factor between the two reductions, which is
computed from the shapes. Where the reference adds the teacher's entropy to a divergence, a constant with respect to the
student, the adapter adds it too.

One file, because it is a single table with one entry for each published loss.
"""

import functools
import itertools
import math

import keras
from keras import ops

from keras_distill.compression import block_influence, unit_importance
from keras_distill.data.batch import Batch
from keras_distill.data.top_k import gather_top_k
from keras_distill.heads import MLP, Standardization
from keras_distill.heads.masking import kept
from keras_distill.losses import (
    DIST,
    AttentionRelation,
    CenteredKL,
    Hint,
    KLDivergence,
    LogitStandardization,
    RelationalKD,
)
from keras_distill.losses.acceptance_likelihood import acceptance_likelihood
from keras_distill.losses.activation_boundary import activation_boundary
from keras_distill.losses.adaptive_kl import adaptive_kl
from keras_distill.losses.affinity_mimicking import affinity_mimicking
from keras_distill.losses.attention_relation import attention_relation
from keras_distill.losses.attention_scores import attention_scores
from keras_distill.losses.attention_transfer import attention_transfer
from keras_distill.losses.binary_kd import binary_kd
from keras_distill.losses.channel_wise_kd import channel_wise_kd
from keras_distill.losses.contrastive_representation import contrastive_representation, log_mean_exp
from keras_distill.losses.correlation_congruence import correlation_congruence
from keras_distill.losses.cosine_similarity import cosine_similarity
from keras_distill.losses.decoupled_kd import decoupled_kd
from keras_distill.losses.distributions import acceptance_rate, sorted_distance
from keras_distill.losses.factor_transfer import factor_transfer
from keras_distill.losses.focal_global_kd import box_weights, focal_global_kd, global_context
from keras_distill.losses.fsp import fsp
from keras_distill.losses.hidden_state import hidden_state
from keras_distill.losses.hierarchical_context import hierarchical_context
from keras_distill.losses.hint import hint
from keras_distill.losses.hybrid_logit_distillation import hybrid_logit_distillation
from keras_distill.losses.inter_channel_correlation import inter_channel_correlation
from keras_distill.losses.jensen_shannon import jensen_shannon
from keras_distill.losses.kl_divergence import kl_divergence
from keras_distill.losses.koleo import koleo
from keras_distill.losses.logit_mse import logit_mse
from keras_distill.losses.margin_relu import margin_relu, negative_mean
from keras_distill.losses.masked_generative import masked_generative
from keras_distill.losses.maths import channels_first, enqueue, unit_vectors
from keras_distill.losses.multi_level_kd import batch_level, class_level
from keras_distill.losses.neuron_selectivity_transfer import neuron_selectivity_transfer
from keras_distill.losses.patient_kd import patient_kd
from keras_distill.losses.pearson_kd import pearson_kd
from keras_distill.losses.probabilistic_transfer import probabilistic_transfer
from keras_distill.losses.quality_focal import quality_focal
from keras_distill.losses.queue_similarity import queue_similarity
from keras_distill.losses.reverse_kl import reverse_kl
from keras_distill.losses.similarity_preserving import similarity_preserving
from keras_distill.losses.skew_kl import skew_kl
from keras_distill.losses.skew_reverse_kl import skew_reverse_kl
from keras_distill.losses.token_similarity import token_similarity
from keras_distill.losses.top_k import top_k
from keras_distill.losses.total_variation import total_variation
from keras_distill.losses.variational_information import regress, variational_information
from keras_distill.models.chunking import in_chunks
from keras_distill.models.masking import mean_over_positions
from keras_distill.models.resampling import adaptive_average_pool, resize_maps
from keras_distill.models.specs import Spec
from keras_distill.training.term import Term
from tests.support.token_alignment import aligned_rows

IGNORED = -100

NOT_COVERED = {
    "affinity": "not the formula of the paper it names",
    "cc": "not a correlation: products of differences between neighbors, which depend on the order of the batch",
    "dist_plus": "one of its terms has the opposite sign of all others, so training increases that distance",
    "hinge_rank": "loss of a single library, without a paper",
    "kdsvd": "its value depends on the arbitrary sign of singular vectors",
    "logistic_rank": "loss of a single library, without a paper",
    "mft": "corrects the teacher's distribution by the labels; not a comparison of two models",
    "pad_l2": "needs a second output of the student, a variance per entry; VID learns one per channel",
    "skd_direction": "too new: the authors' code and the one reimplementation differ",
    "srd": "the logarithm of a sum over the batch: not a loss per example",
    "tb_attention_ce": "removes scores after the softmax, so the teacher's probabilities do not sum to 1",
    "tb_attention_ce_mean": "as tb_attention_ce",
}


def adapter(name):
    """Return a decorator that registers a function under its golden name."""

    def register(function):
        ADAPTERS[name] = function
        return function

    return register


ADAPTERS = {}


def mean_over(values, valid):
    """Average over all valid tokens of the batch, as in the published code. A `Term` averages per example first."""
    valid = ops.cast(valid, "float32")
    return ops.divide_no_nan(ops.sum(values * valid), ops.sum(valid))


def entropy(logits, temperature=1.0):
    """Compute the entropy, which is soft cross-entropy minus divergence."""
    log = ops.log_softmax(logits / temperature, axis=-1)
    return -ops.sum(ops.exp(log) * log, axis=-1)


def cross_entropy(student, teacher, temperature=1.0):
    """Compute soft cross-entropy without T^2: the divergence over T^2 plus the teacher's entropy."""
    return kl_divergence(student, teacher, temperature) / temperature**2 + entropy(teacher, temperature)


def pooled(student, teacher):
    """Pool as in RepDistiller: if heights differ, pool the taller feature map to a square of the lower height."""
    height = min(student.shape[1], teacher.shape[1])
    if student.shape[1] == teacher.shape[1]:
        return student, teacher
    return tuple(
        x if x.shape[1] == height else adaptive_average_pool(adaptive_average_pool(x, 1, height), 2, height)
        for x in (student, teacher)
    )


# --- Logits


@adapter("kd_kl")
def _(inputs, settings):
    return ops.mean(kl_divergence(inputs["student"], inputs["teacher"], settings["temperature"]))


@adapter("kd_kl_map")
def _(inputs, settings):
    values = kl_divergence(inputs["student"], inputs["teacher"], settings["tau"])
    # The reference sums over positions.
    return ops.sum(values) / values.shape[0]


@adapter("skd_instance")
def _(inputs, settings):
    temperature = settings["temperature"]
    return ops.mean(kl_divergence(inputs["student"], inputs["teacher"], temperature)) / temperature**2


@adapter("soft_ce")
def _(inputs, settings):
    temperature = settings["temperature"]
    if temperature is None:
        temperature = ops.expand_dims(inputs["temperature_per_example"], -1)
    # Divided before the loss, because each example may have a different temperature.
    return ops.mean(cross_entropy(inputs["student"] / temperature, inputs["teacher"] / temperature))


@adapter("hard_label")
def _(inputs, settings):
    teacher = inputs["teacher"]
    # Logits with probability 1 for the teacher's top class.
    hard_targets = 1e4 * ops.one_hot(ops.argmax(teacher, axis=-1), teacher.shape[-1])
    return ops.mean(kl_divergence(inputs["student"], hard_targets, 1.0))


@adapter("wsld")
def _(inputs, settings):
    student, teacher, tau = inputs["student"], inputs["teacher"], settings["tau"]
    student_loss, teacher_loss = (
        keras.losses.sparse_categorical_crossentropy(inputs["labels"], x, from_logits=True) for x in (student, teacher)
    )
    # The sample weight depends on the ratio of the cross-entropies of both models.
    weight = ops.stop_gradient(1.0 - ops.exp(-student_loss / (teacher_loss + 1e-7)))
    return ops.mean(weight * tau**2 * cross_entropy(student, teacher, tau))


@adapter("token_kl")
def _(inputs, settings):
    temperature = settings["temperature"]
    values = kl_divergence(inputs["student"], inputs["teacher"], temperature) / temperature**2
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("reverse_kl")
def _(inputs, settings):
    temperature = settings["temperature"]
    values = reverse_kl(inputs["student"], inputs["teacher"], temperature) / temperature**2
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("jsd")
def _(inputs, settings):
    beta, temperature = settings["beta"], settings["temperature"]
    values = jensen_shannon(inputs["student"], inputs["teacher"], beta, temperature) / temperature**2
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("symmetric_kl")
def _(inputs, settings):
    student, teacher, ratio = inputs["student"], inputs["teacher"], settings["sym_kd_ratio"]
    values = ratio * cross_entropy(student, teacher) + (1.0 - ratio) * reverse_kl(student, teacher)
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("skew_kl")
def _(inputs, settings):
    student, teacher, share = inputs["student"], inputs["teacher"], settings["lam"]
    forward = settings["direction"] == "forward"
    # A plain divergence from the log-probabilities of a mixture with weight `share` on the second model.
    first, second = (student, teacher) if forward else (teacher, student)
    parts = [(1.0 - share, first), (share, second)]
    mixture = [ops.log_softmax(x, axis=-1) + ops.log(part) for part, x in parts if part > 0]
    mixture = mixture[0] if len(mixture) == 1 else ops.logaddexp(*mixture)
    values = cross_entropy(mixture, teacher) if forward else reverse_kl(student, mixture)
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("skew_reverse_kl")
def _(inputs, settings):
    values = skew_reverse_kl(inputs["student"], inputs["teacher"], settings["lam"])
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("skew_kl_token")
def _(inputs, settings):
    return _mean_of_texts(skew_kl(inputs["student"], inputs["teacher"], settings["alpha"]), inputs["labels"])


@adapter("skew_reverse_kl_detached")
def _(inputs, settings):
    values = skew_reverse_kl(inputs["student"], inputs["teacher"], settings["alpha"], detach=True)
    return _mean_of_texts(values, inputs["labels"])


@adapter("skew_kl_adaptive")
def _(inputs, settings):
    student, teacher, labels = inputs["student"], inputs["teacher"], inputs["labels"]
    # A skew per text, from the likelihoods of the text under both models.
    likelihoods = []
    for logits in (teacher, student):
        nats = keras.losses.sparse_categorical_crossentropy(ops.maximum(labels, 0), logits, from_logits=True)
        likelihoods.append(ops.exp(-mean_over_positions(nats, labels != IGNORED)))
    forward = settings["direction"] == "forward"
    difference = likelihoods[0] - likelihoods[1] if forward else likelihoods[1] - likelihoods[0]
    base = settings["base_alpha"]
    skew = ops.clip(1.0 - (1.0 - base) * settings["gap"] / (difference + 1e-5), 0.01, base)[:, None, None]
    loss = skew_kl if forward else functools.partial(skew_reverse_kl, detach=True)
    return _mean_of_texts(loss(student, teacher, skew), labels)


def _mean_of_texts(values, labels):
    """Average over the valid tokens of a text, then over the texts, as a `Term` does by default."""
    return ops.mean(mean_over_positions(values, labels != IGNORED))


@adapter("akl")
def _(inputs, settings):
    values = adaptive_kl(inputs["student"], inputs["teacher"], settings["mu"])
    return mean_over(values, inputs["labels"] != IGNORED)


@adapter("gkd_completion")
def _(inputs, settings):
    return _completion_mean(_jensen_shannon(inputs["student"], inputs["teacher"], settings), inputs, settings)


@adapter("gkd_completion_head")
def _(inputs, settings):
    def chunk_loss(hidden, weights, others):
        (hidden_teacher,) = others
        student = _capped_logits(hidden, *weights, settings, "student")
        weights = inputs["kernel_teacher"], inputs["bias_teacher"]
        return _jensen_shannon(student, _capped_logits(hidden_teacher, *weights, settings, "teacher"), settings)

    student, teacher = (ops.reshape(x, (-1, x.shape[-1])) for x in (inputs["hidden_student"], inputs["hidden_teacher"]))
    values = in_chunks(chunk_loss, student, [inputs["kernel_student"], inputs["bias_student"]], (teacher,), tokens=3)
    return _completion_mean(ops.reshape(values, inputs["mask"].shape), inputs, settings)


def _jensen_shannon(student, teacher, settings):
    temperature = settings["temperature"]
    return jensen_shannon(student, teacher, settings["beta"], temperature) / temperature**2


def _capped_logits(hidden, kernel, bias, settings, side):
    logits, cap = settings[f"{side}_logit_scale"] * (ops.matmul(hidden, kernel) + bias), settings[f"{side}_softcap"]
    return logits if cap is None else cap * ops.tanh(logits / cap)


def _completion_mean(values, inputs, settings):
    # The reference divides by the tokens of all accumulated batches, as `Term(over="tokens")` does.
    valid = ops.cast(inputs["mask"], "float32")
    return ops.sum(values * valid) / (settings["num_items_in_batch"] or ops.maximum(ops.sum(valid), 1.0))


@adapter("acceptance")
def _(inputs, settings):
    return mean_over(acceptance_rate(inputs["student"], inputs["teacher"]), inputs["mask"])


@adapter("neg_log_acceptance")
def _(inputs, settings):
    return mean_over(acceptance_likelihood(inputs["student"], inputs["teacher"]), inputs["mask"])


@adapter("uld")
def _(inputs, settings):
    pairs = zip(*(aligned_rows(inputs, settings, side) for side in ("student", "teacher")))
    return ops.mean(ops.stack([_mean_of_rows(lambda q, p: sorted_distance(ops.exp(q), ops.exp(p)), *x) for x in pairs]))


@adapter("uld_hybrid")
def _(inputs, settings):
    pairs = zip(*(aligned_rows(inputs, settings, side) for side in ("student", "teacher")))
    student_ids, teacher_ids = (inputs[f"matched_{side}"].numpy().tolist() for side in ("student", "teacher"))
    weights = settings["matched_weight"], settings["unmatched_weight"]
    # Two weights are a relative weight and a factor.
    factor = 1.0 if weights[0] is None else sum(weights)
    weight = len(student_ids) / inputs["teacher"].shape[-1] if weights[0] is None else weights[0] / factor

    def distance(student, teacher):
        student, teacher = _clipped(student, student_ids), _clipped(teacher, teacher_ids)
        shared = list(zip(student_ids, teacher_ids))
        value = hybrid_logit_distillation(student, teacher, shared, settings["beta"], weight)
        # At beta = 1 the reference omits the difference of the sums of the shared words.
        student_sum, teacher_sum = (
            ops.sum(ops.exp(ops.take(x, ids, axis=-1)), axis=-1)
            for x, ids in ((student, student_ids), (teacher, teacher_ids))
        )
        return factor * (value - weight * (settings["beta"] == 1) * (teacher_sum - student_sum))

    return ops.mean(ops.stack([_mean_of_rows(distance, *pair) for pair in pairs]))


def _clipped(log, ids):
    """Raise the probabilities of the shared words to 1e-8, as the reference does."""
    shared = ops.sum(ops.one_hot(ids, log.shape[-1]), axis=0) > 0
    return ops.where(shared, ops.maximum(log, math.log(1e-8)), log)


def _mean_of_rows(distance, student, teacher):
    count = min(len(student), len(teacher))
    return ops.mean(distance(ops.stack(student[:count]), ops.stack(teacher[:count])))


@adapter("distilbert_ce")
def _(inputs, settings):
    return mean_over(kl_divergence(inputs["student"], inputs["teacher"], settings["temperature"]), inputs["mask"])


@adapter("tvd")
def _(inputs, settings):
    temperature = settings["temperature"]
    # The reference multiplies by T^2 instead of T.
    values = temperature * total_variation(inputs["student"], inputs["teacher"], temperature)
    return mean_over(values, inputs["mask"])


@adapter("logit_mse")
def _(inputs, settings):
    return ops.mean(logit_mse(inputs["student"], inputs["teacher"])) / settings["temperature"] ** 2


@adapter("soft_bce")
def _(inputs, settings):
    student, teacher, temperature = inputs["student"], inputs["teacher"], settings["temperature"]
    divergence = ops.mean(binary_kd(student, teacher, temperature)) / temperature**2
    both = ops.stack([teacher, ops.zeros_like(teacher)], axis=-1)
    mean = divergence + ops.mean(entropy(both, temperature))
    return mean * student.shape[-1] if settings["sum_classes"] else mean


@adapter("dkd")
def _(inputs, settings):
    settings = settings["alpha"], settings["beta"], settings["temperature"]
    return ops.mean(decoupled_kd(inputs["student"], inputs["teacher"], inputs["labels"], *settings))


@adapter("dist")
def _(inputs, settings):
    loss = DIST(settings["beta"], settings["gamma"], settings["tau"])
    return ops.mean(loss.compare(inputs["student"], inputs["teacher"], Batch(None)))


@adapter("logit_std_kd")
def _(inputs, settings):
    loss = LogitStandardization(KLDivergence(settings["temperature"]))
    return ops.mean(loss.compare(inputs["student"], inputs["teacher"], Batch(None)))


@adapter("mlkd_batch")
def _(inputs, settings):
    return ops.mean(batch_level(inputs["student"], inputs["teacher"], settings["temperature"]))


@adapter("mlkd_class")
def _(inputs, settings):
    return ops.mean(class_level(inputs["student"], inputs["teacher"], settings["temperature"]))


@adapter("mlkd_full")
def _(inputs, settings):
    weak, strong = ([inputs[f"{side}_{view}"] for side in ("student", "teacher")] for view in ("weak", "strong"))
    confidence = ops.softmax(weak[1], axis=-1)
    of_examples, of_classes = (_share_below_median(x) for x in (ops.max(confidence, -1), ops.sum(confidence, 0)))
    total = 0.0
    for temperature in (settings["temperature"], 3.0, 5.0, 2.0, 6.0):
        # At its last two temperatures the code uses the weak view instead of the strong one.
        total += of_examples * ops.mean(kl_divergence(*weak, temperature))
        total += of_classes * ops.mean(class_level(*weak, temperature))
        total += of_examples * ops.mean(batch_level(*weak, temperature))
    for temperature in (settings["temperature"], 3.0, 5.0):
        total += ops.mean(kl_divergence(*strong, temperature))
    for temperature in (2.0, 6.0):
        total += ops.mean(kl_divergence(*weak, temperature))
    return settings["kd_weight"] * total


def _share_below_median(numbers):
    return ops.mean(ops.cast(numbers <= ops.quantile(numbers, 0.5), "float32"))


@adapter("topk_kl")
def _(inputs, settings):
    student, teacher, temperature = inputs["student"], inputs["teacher"], settings["temperature"]
    k = min(settings["top_k"], teacher.shape[-1])
    if not settings["reverse"]:
        return ops.mean(top_k(student, teacher, k, temperature, tail=False)) / temperature**2
    _, classes = ops.top_k(teacher, k)
    ends = (gather_top_k(x, classes, tail=False) for x in (student, teacher))
    return ops.mean(reverse_kl(*ends, temperature)) / temperature**2


@adapter("tail_topk_kl")
def _(inputs, settings):
    tail = settings["add_tail"]
    student, teacher = gather_top_k(inputs["student"], inputs["teacher_ids"], tail=tail), inputs["teacher_values"]
    if tail:
        # The reference clips both buckets to this minimum.
        minimum = ops.logsumexp(student, axis=-1, keepdims=True) + math.log(1e-7)
        student = ops.concatenate([student[..., :-1], ops.maximum(student[..., -1:], minimum)], axis=-1)
        teacher = _with_tail(teacher)
    return mean_over(kl_divergence(student, teacher, 1.0), inputs["mask"])


@adapter("sparse_topk_kl")
def _(inputs, settings):
    values = kl_divergence(*_stored(inputs, settings), settings["temperature"])
    return mean_over(values, inputs["mask"])


@adapter("sparse_topk_jsd")
def _(inputs, settings):
    values = jensen_shannon(*_stored(inputs, settings), 0.5, settings["temperature"])
    return mean_over(values, inputs["mask"])


@adapter("sparse_topk_tvd")
def _(inputs, settings):
    temperature = settings["temperature"]
    # The reference multiplies by T^2 instead of T.
    values = temperature * total_variation(*_stored(inputs, settings), temperature)
    return mean_over(values, inputs["mask"])


def _stored(inputs, settings):
    """Return logits of both models over the stored classes and one bucket for all other classes."""
    student = gather_top_k(inputs["student"], inputs["teacher_ids"], settings["temperature"])
    values = inputs["teacher_values"]
    if settings["missing"] == "zero":
        teacher = ops.concatenate([values, ops.full_like(values[..., :1], -1e30)], axis=-1)
    else:
        teacher = _with_tail(values)
    return student, settings["generation_temperature"] * teacher


def _with_tail(values):
    """Append the log-probability of all other classes."""
    total = ops.minimum(ops.logsumexp(values, axis=-1, keepdims=True), -1e-7)
    return ops.concatenate([values, ops.log(-ops.expm1(total))], axis=-1)


# --- Features


@adapter("fitnet_mse")
def _(inputs, settings):
    return ops.mean(hint(inputs["student"], inputs["teacher"]))


@adapter("at")
def _(inputs, settings):
    return ops.mean(attention_transfer(*pooled(inputs["student"], inputs["teacher"]), settings["p"]))


@adapter("at_paper")
def _(inputs, settings):
    values = attention_transfer(inputs["student"], inputs["teacher"], 2)
    # The reference uses the norm instead of the mean of squares.
    return ops.mean(ops.sqrt(ops.sum(ops.reshape(values, (values.shape[0], -1)), axis=-1)))


@adapter("ft_repdistiller")
def _(inputs, settings):
    # The reference raises the difference of attention maps to the power p2 instead of 2.
    values = attention_transfer(*pooled(inputs["student"], inputs["teacher"]), settings["p1"])
    nonzero = values > 0
    return ops.mean(ops.where(nonzero, ops.power(ops.where(nonzero, values, 1.0), settings["p2"] / 2), 0.0))


@adapter("sp")
def _(inputs, settings):
    return ops.mean(similarity_preserving(inputs["student"], inputs["teacher"]))


@adapter("rkd")
def _(inputs, settings):
    loss = RelationalKD(settings["w_distance"], settings["w_angle"])
    return ops.mean(loss.compare(inputs["student"], inputs["teacher"], Batch(None)))


@adapter("cckd")
def _(inputs, settings):
    kernel = (settings["gamma"], settings["max_p"]) if settings["kernel"] == "gaussian" else (None, 1)
    values = correlation_congruence(inputs["student"], inputs["teacher"], *kernel)
    # The reference is not squared: the root of the sum over all pairs, divided by the squared batch size.
    return ops.sqrt(ops.mean(values)) / values.shape[0]


@adapter("pkt")
def _(inputs, settings):
    values = probabilistic_transfer(inputs["student"], inputs["teacher"])
    return ops.mean(values) / values.shape[0]


@adapter("nst")
def _(inputs, settings):
    return ops.mean(neuron_selectivity_transfer(*pooled(inputs["student"], inputs["teacher"])))


@adapter("ickd")
def _(inputs, settings):
    values = inter_channel_correlation(inputs["student"], inputs["teacher"])
    # The reference divides by the number of channels only once, and by the batch size once more.
    return ops.mean(values) * inputs["student"].shape[-1] / values.shape[0]


@adapter("cwd")
def _(inputs, settings):
    return ops.mean(channel_wise_kd(inputs["student"], inputs["teacher"], settings["tau"]))


@adapter("pkd_pearson")
def _(inputs, settings):
    student, teacher = inputs["student"], inputs["teacher"]
    if student.shape[1] != teacher.shape[1]:
        if settings["resize_student"]:
            student = resize_maps(student, teacher.shape[1:3])
        else:
            teacher = resize_maps(teacher, student.shape[1:3])
    return ops.mean(pearson_kd(student, teacher))


@adapter("fsp")
def _(inputs, settings):
    layers = sum(name.startswith("student_") for name in inputs)
    total = 0.0
    for i in range(layers - 1):
        pairs = (pooled(inputs[f"{side}_{i}"], inputs[f"{side}_{i + 1}"]) for side in ("student", "teacher"))
        total += ops.mean(fsp(*itertools.chain(*pairs)))
    return total


@adapter("tb_gram")
def _(inputs, settings):
    return ops.mean(fsp(*_two_layers(inputs), position_weight=inputs.get("mask")))


@adapter("tb_mmd")
def _(inputs, settings):
    layers, (_, length, _) = _two_layers(inputs), inputs["student_0"].shape
    valid = ops.cast(inputs.get("mask", ops.ones(layers[0].shape[:2])), "float32")
    # FSP with tokens and features swapped. The mean is over the pairs of valid tokens.
    values = fsp(*(ops.swapaxes(x * valid[..., None], 1, 2) for x in layers))
    return ops.sum(values) * length**2 / ops.sum(ops.square(ops.sum(valid, axis=1)))


def _two_layers(inputs):
    return [inputs[f"{side}_{i}"] for side in ("student", "teacher") for i in (0, 1)]


@adapter("pairwise_affinity")
def _(inputs, settings):
    feature_maps = []
    for features in (inputs["student"], inputs["teacher"]):
        length = ops.norm(features, axis=-1, keepdims=True) + 1e-8
        pixels = channels_first(features / ops.stop_gradient(length))
        # FSP with pixels and channels swapped, scaled so that the mean over channels becomes the cosine.
        feature_maps += 2 * [pixels * pixels.shape[1] ** 0.5]
    return ops.mean(fsp(*feature_maps))


@adapter("distilbert_cos")
def _(inputs, settings):
    return mean_over(cosine_similarity(inputs["student"], inputs["teacher"]), inputs["mask"])


@adapter("tb_cos")
def _(inputs, settings):
    values = cosine_similarity(inputs["student"], inputs["teacher"])
    return mean_over(values, inputs["mask"]) if "mask" in inputs else ops.mean(values)


@adapter("ab")
def _(inputs, settings):
    layers = _layers(inputs)
    # The reference sums over all entries, and multiplies by a weight of each layer.
    return sum(
        2.0 ** (i - len(layers) + 1)
        * 3e-3
        * _entries(student)
        * ops.mean(activation_boundary(student, teacher, margin))
        for margin in [settings["margin"]]
        for i, (student, teacher) in enumerate(layers)
    )


@adapter("ofd")
def _(inputs, settings):
    layers, total = _layers(inputs), 0.0
    for i, (student, teacher) in enumerate(layers):
        for axis in (1, 2):
            teacher = adaptive_average_pool(teacher, axis, student.shape[axis])
        margin = negative_mean(inputs[f"bn_gamma_{i}"], inputs[f"bn_beta_{i}"])
        # The reference sums over all entries.
        values = _entries(student) * ops.mean(margin_relu(student, teacher, margin))
        total += 2.0 ** (i - len(layers) + 1) * values
    return total


def _layers(inputs):
    count = sum(name.startswith("student_") for name in inputs)
    return [(inputs[f"student_{i}"], inputs[f"teacher_{i}"]) for i in range(count)]


def _entries(features):
    """Return the number of entries per example."""
    return math.prod(features.shape[1:])


@adapter("ft")
def _(inputs, settings):
    return _factors(inputs, settings["p"], 2)


@adapter("kta")
def _(inputs, settings):
    # Factor transfer with another order of the norm that scales each factor.
    return _factors(inputs, settings["p"], settings["q"])


def _factors(inputs, p, q):
    loss = ops.mean(factor_transfer(inputs["student"], inputs["teacher"], p, q))
    # At p = 1, the reference uses a mean instead of the sum.
    return loss / _entries(inputs["student"]) if p == 1 else loss


@adapter("vid")
def _(inputs, settings):
    student, teacher = pooled(inputs["student"], inputs["teacher"])
    mean = regress(student, [inputs[f"kernel_{i}"][0, 0] for i in range(3)])
    return ops.mean(variational_information(mean, inputs["log_scale"], teacher, settings["eps"]))


@adapter("reviewkd_hcl")
def _(inputs, settings):
    return sum(ops.mean(hierarchical_context(*layer)) for layer in _layers(inputs))


@adapter("mgd_loss")
def _(inputs, settings):
    return _masked_generative(inputs["student"], inputs["teacher"], settings["alpha"])


@adapter("mgd_full")
def _(inputs, settings):
    feature_maps = inputs["student"]
    if "kernel_align" in inputs:
        feature_maps = _convolved(feature_maps, inputs, "align")
    feature_maps = feature_maps * kept(inputs["uniform"], settings["lambda"], settings["mask_on"] == "channel")
    feature_maps = _convolved(ops.relu(_convolved(feature_maps, inputs, "gen0")), inputs, "gen1")
    return _masked_generative(feature_maps, inputs["teacher"], settings["alpha"])


def _convolved(feature_maps, inputs, name):
    return ops.conv(feature_maps, inputs[f"kernel_{name}"], padding="same") + inputs[f"bias_{name}"]


def _masked_generative(student, teacher, alpha):
    return alpha * ops.sum(masked_generative(student, teacher)) / student.shape[0]


# --- Detection


@adapter("fgd")
def _(inputs, settings):
    student, teacher = inputs["student"], inputs["teacher"]
    # Rows after the first `num_boxes` are padding. Boxes as fractions of the image instead of its pixels.
    real = ops.arange(inputs["boxes"].shape[1]) < ops.cast(inputs["num_boxes"], "int32")[:, None]
    height, width = (ops.cast(inputs["image"][:, i], "float32")[:, None, None] for i in (0, 1))
    boxes = inputs["boxes"] / ops.concatenate([width, height, width, height], axis=-1)
    weights = box_weights(ops.where(real[..., None], boxes, -1.0), student.shape[1:3])
    parts = [settings[name] for name in ("alpha", "beta", "gamma")]
    focal = focal_global_kd(student, teacher, weights, settings["temp"], *parts)
    contexts = []
    for side, features in (("s", student), ("t", teacher)):
        names = ("mask_kernel", "add_kernel_1", "add_bias_1", "add_gamma", "add_beta", "add_kernel_2", "add_bias_2")
        # A bias of the scores has no effect: `mask_bias` is left out.
        arrays = [inputs[f"{name}_{side}"] for name in names]
        arrays = [array[0, 0] if len(array.shape) == 4 else array for array in arrays]
        contexts.append(global_context(features, arrays))
    relation = ops.sum(ops.square(contexts[0] - contexts[1])) / student.shape[0]
    return ops.mean(focal) + settings["lambda"] * relation


@adapter("ld_kl")
def _(inputs, settings):
    student, teacher = inputs["student"], inputs["teacher"]
    # The reference takes the mean over bins.
    values = kl_divergence(student, teacher, float(settings["temperature"])) / student.shape[-1]
    return _divided(values * inputs["weight"], settings)


@adapter("crosskd_cls")
def _(inputs, settings):
    values = quality_focal(inputs["student"], inputs["teacher"], settings["beta"]) * inputs["weight"]
    # With a divisor, the reference takes the sum over classes.
    classes = 1 if settings["avg_factor"] is None else inputs["student"].shape[-1]
    return _divided(classes * values, settings)


def _divided(values, settings):
    """Divide by the number of objects, as detectors do, or take the mean."""
    factor = settings["avg_factor"]
    return settings["loss_weight"] * (ops.mean(values) if factor is None else ops.sum(values) / factor)


@adapter("rtmdet_norm_cwd")
def _(inputs, settings):
    student, standardize = inputs["student"], Standardization()
    if "kernel" in inputs:
        student = ops.conv(student, inputs["kernel"])
    values = channel_wise_kd(standardize(student), standardize(inputs["teacher"]), settings["tau"])
    return settings["loss_weight"] * ops.mean(values)


@adapter("ultralytics_score_l2")
def _(inputs, settings):
    return _score_weighted(inputs["student"], inputs["teacher"], inputs["score"])


@adapter("ultralytics_distill")
def _(inputs, settings):
    logits = (inputs["scores_one2many"] + inputs["scores_one2one"]) / 2
    scores = ops.max(ops.sigmoid(logits), axis=-1)
    total, start = 0.0, 0
    for i in range(sum(name.startswith("student_") for name in inputs)):
        student, teacher = inputs[f"student_{i}"], inputs[f"teacher_{i}"]
        batch, height, width, _ = student.shape
        score = ops.reshape(scores[:, start : start + height * width], (batch, height, width))
        start += height * width
        head = MLP()
        head.build(student.shape, teacher.shape)
        weights = [inputs[f"{kind}_{layer}_{i}"] for layer in (1, 2) for kind in ("kernel", "bias")]
        # The gradient reaches the tensors that replace the weights of the head.
        with keras.StatelessScope(state_mapping=list(zip(head.trainable_variables, weights, strict=True))):
            total += _score_weighted(student, teacher, score, head)
    # The reference multiplies by the batch size, as the other losses of its detectors do.
    return batch * settings["dis"] * total


def _score_weighted(student, teacher, score, head=None):
    specs = [Spec((None, *x.shape[1:]), "float32", "") for x in (student, teacher)]
    term = Term(Hint(), head=head, positions="score", over="tokens").build(*specs)
    return ops.mean(term.compare(student, teacher, Batch(None), activations={"score": score}))


# --- Features without labels


@adapter("lightly_v3_global")
def _(inputs, settings):
    queue = enqueue(inputs["queue"], unit_vectors(inputs["teacher"]))
    student = _projected(inputs)
    return ops.mean(queue_similarity(student, inputs["teacher"], queue, settings["temperature"]))


@adapter("lightly_v3_local")
def _(inputs, settings):
    teacher = inputs["teacher"]
    student = resize_maps(_projected(inputs), teacher.shape[1:3])
    return ops.mean(token_similarity(student, teacher, settings["temperature"]))


def _projected(inputs):
    student = inputs["student"]
    return ops.matmul(student, inputs["kernel"]) + inputs["bias"] if "kernel" in inputs else student


@adapter("tinyclip_affinity")
def _(inputs, settings):
    pairs = [inputs[f"{side}_{kind}"] for side in ("student", "teacher") for kind in ("image", "text")]
    scale = settings["teacher_logit_scale"]
    image, text = (unit_vectors(x) for x in pairs[2:])
    scores = scale * ops.matmul(image, ops.transpose(text))
    entropies = [ops.mean(entropy(x)) for x in (scores, ops.transpose(scores))]
    values = affinity_mimicking(*pairs, 1.0 / inputs["logit_scale"], 1.0 / scale)
    return ops.mean(values) + sum(entropies) / 2


@adapter("dino_loss")
def _(inputs, settings):
    tau = settings["teacher_temperature"]
    # The reference has all images of the first crop, then those of the next.
    student, teacher = (
        ops.stack(ops.split(inputs[side], crops), axis=1)
        for side, crops in (("student", settings["crops"]), ("teacher", 2))
    )
    loss = CenteredKL(settings["student_temperature"], tau, pairs="crops")
    loss.build(student.shape, teacher.shape)
    loss.center.assign(inputs["center"][0])
    return ops.mean(loss.compare(student, teacher, Batch(None))) + ops.mean(entropy(teacher - inputs["center"], tau))


@adapter("dinov2_koleo")
def _(inputs, settings):
    return ops.mean(koleo(inputs["student"])) - math.log(2.0)


@adapter("crd")
def _(inputs, settings):
    total, (examples, _) = 0.0, inputs["memory_student"].shape
    for anchor, other in (("student", "teacher"), ("teacher", "student")):
        embedding = unit_vectors(ops.matmul(inputs[anchor], inputs[f"dense_{anchor}"]) + inputs[f"bias_{anchor}"])
        # The contrasts come from the memory bank of the other model.
        contrasts = ops.take(inputs[f"memory_{other}"], inputs["contrast_index"], axis=0)
        scores = ops.einsum("bd,bkd->bk", embedding, contrasts) / settings["temperature"]
        # The prior in the denominators of the code is larger than K/N by 1e-7.
        noise = scores.shape[1] - 1
        prior = noise + 1e-7 * examples
        values = contrastive_representation(scores, log_mean_exp(scores), prior)
        total += ops.mean(values) + noise * math.log(prior / noise)
    return total


# --- Transformers


@adapter("tb_hidden_mse")
def _(inputs, settings):
    values = hidden_state(inputs["student"], inputs["teacher"])
    return mean_over(values, inputs["mask"]) if "mask" in inputs else ops.mean(values)


@adapter("tb_attention_mse")
def _(inputs, settings):
    return _scores(inputs["student"], inputs["teacher"], inputs.get("mask"))


@adapter("tb_attention_mse_sum")
def _(inputs, settings):
    student, teacher = (ops.sum(inputs[side], axis=1, keepdims=True) for side in ("student", "teacher"))
    return _scores(student, teacher, inputs.get("mask"))


def _scores(student, teacher, mask):
    if mask is None:
        # The reference treats negative scores as padding.
        return ops.mean(attention_scores(*(ops.where(x <= -1e-3, 0.0, x) for x in (student, teacher))))
    pairs = ops.square(ops.sum(ops.cast(mask, "float32"), axis=1))
    return ops.sum(attention_scores(student, teacher, mask) * pairs) / ops.sum(pairs)


@adapter("tinybert")
def _(inputs, settings):
    layers, teacher_layers = (
        sum(name.startswith(f"{side}_att_") for name in inputs) for side in ("student", "teacher")
    )
    every = teacher_layers // layers
    total = 0.0
    for i in range(layers):
        scores = inputs[f"student_att_{i}"], inputs[f"teacher_att_{(i + 1) * every - 1}"]
        total += ops.mean(attention_scores(*(ops.where(x <= -100.0, 0.0, x) for x in scores)))
    for i in range(layers + 1):
        total += ops.mean(hidden_state(inputs[f"student_rep_{i}"], inputs[f"teacher_rep_{i * every}"]))
    return total


@adapter("minilm_attention")
def _(inputs, settings):
    return ops.mean(attention_relation(inputs["student"], inputs["teacher"], inputs["mask"]))


@adapter("minilm")
def _(inputs, settings):
    batch = Batch(None, position_weight=inputs["mask"])
    total = 0.0
    for parts in (("query", "key"), ("value", "value")):
        # The reference has the head axis before the token axis.
        sides = (tuple(ops.swapaxes(inputs[f"{side}_{x}"], 1, 2) for x in parts) for side in ("student", "teacher"))
        total += ops.mean(AttentionRelation().compare(*sides, batch))
    return total


@adapter("tb_pkd")
def _(inputs, settings):
    return ops.mean(patient_kd(inputs["student"], inputs["teacher"]))


@adapter("minitron_depth")
def _(inputs, settings):
    # The reference adds up the calibration batches.
    return sum(
        ops.mean(block_influence(before, after))
        for batch in zip(inputs["inputs"], inputs["outputs"])
        for before, after in zip(*batch)
    )


@adapter("minitron_ffn")
def _(inputs, settings):
    activations = inputs["activations"]
    return ops.sum(unit_importance(ops.reshape(activations, (-1, *activations.shape[2:]))))


@adapter("minitron_hidden")
def _(inputs, settings):
    norms = ops.moveaxis(inputs["activations"], 1, 0)
    return sum(ops.sum(unit_importance(ops.reshape(norm, (-1, *norm.shape[2:])))) for norm in norms)
