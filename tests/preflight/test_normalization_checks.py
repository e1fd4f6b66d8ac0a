"""Divisors of the supervised loss and of terms, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term
from keras_distill.losses import Hint, KLDivergence
from keras_distill.preflight import check
from keras_distill.preflight.normalization_checks import check_normalization
from keras_distill.preflight.probe import Probe
from tests.support.checked_models import only_finding

EXAMPLES, LENGTH, WORDS = 6, 8, 5
# 20 of 48 tokens.
PADDING_MASK = (np.arange(LENGTH) < np.array([[1], [2], [3], [3], [4], [7]])).astype("int32")
TOKENS = np.random.default_rng(0).integers(1, WORDS, (EXAMPLES, LENGTH)).astype("int32") * PADDING_MASK


def tagger(name, mask_zero=False):
    inputs = {key: keras.Input((LENGTH,), dtype="int32", name=key) for key in ("token_ids", "padding_mask")}
    hidden = keras.layers.Embedding(WORDS, 4, mask_zero=mask_zero)(inputs["token_ids"])
    return keras.Model(inputs, keras.layers.Dense(WORDS, name="tags")(hidden), name=name)


def found(labels=TOKENS, weights=None, mask_zero=False, loss=None, supervised_weight=1.0, term=None, **options):
    """Return the findings for one batch."""
    terms = [term or Term(KLDivergence(), name="kd", **options)]
    models = {side: tagger(side, mask_zero) for side in ("student", "teacher")}
    distiller = Distiller(**models, terms=terms, supervised_weight=supervised_weight)
    distiller.compile("sgd", crossentropy() if loss is None else loss, run_eagerly=True)
    inputs = {"token_ids": TOKENS, "padding_mask": PADDING_MASK}
    parts = (inputs, labels) if weights is None else (inputs, labels, np.asarray(weights, "float32"))
    return check_normalization(Probe(distiller, [keras.tree.map_structure(keras.ops.convert_to_tensor, parts)]))


def crossentropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


WEIGHTED_MEAN = crossentropy(reduction="mean_with_sample_weight")
MISSING = np.where(PADDING_MASK, TOKENS, -1)
UNLABELED = np.where(np.arange(EXAMPLES)[:, None] < 2, TOKENS, -1)


def test_the_numbers_and_the_advice():
    finding = only_finding(found(weights=PADDING_MASK, over="tokens"), "different normalization", "2.4 times")
    assert finding.seen == (
        "In a batch of 6 examples, the supervised loss divides by 48 tokens, term 'kd' by 20 tokens with weight."
    )
    assert finding.advice == (
        'Pass `over="examples"` to term \'kd\', or `reduction="mean_with_sample_weight"` to the loss of `compile`.'
    )
    assert found(weights=PADDING_MASK, over="examples") == []
    assert found(weights=PADDING_MASK, over="tokens", loss=WEIGHTED_MEAN) == []


def test_a_weighted_mean_and_over_examples():
    finding = only_finding(found(weights=PADDING_MASK, loss=WEIGHTED_MEAN), "different normalization")
    assert "divides by 20 tokens, term 'kd' by 48 tokens" in finding.seen
    assert "2.4 times as much in the supervised loss" in finding.what


def test_a_mask_of_the_term_alone():
    finding = only_finding(
        found(mask="padding_mask", over="tokens"), "different normalization", "by 48 tokens", "by 20"
    )
    assert finding.advice == "Leave the same tokens out of both: labels of -1 where `mask` of term 'kd' is 0."
    assert found(MISSING, mask="padding_mask", over="tokens") == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"labels": MISSING},
        {"labels": MISSING, "mask": "padding_mask"},
        {"labels": UNLABELED},
        {"labels": UNLABELED, "weights": np.ones((EXAMPLES, LENGTH))},
        {"labels": TOKENS[..., None]},
        {"mask_zero": True},
        {"mask_zero": True, "labels": MISSING},
        {"loss": crossentropy(ignore_class=0)},
        {"loss": "sparse_categorical_crossentropy"},
        {"weights": np.arange(1, 7) / 3.5},
    ],
)
@pytest.mark.parametrize("over", ["tokens", "examples"])
@pytest.mark.filterwarnings("ignore:The loss 'sparse_categorical_crossentropy' expects probabilities")
def test_no_findings(over, options):
    assert found(over=over, **options) == []


def test_weights_of_examples():
    """Their mean is 3: the loss divides by 48 tokens, a mean over tokens by their weight."""
    assert found(weights=np.full(6, 3.0)) == []
    finding = only_finding(found(weights=np.full(6, 3.0), over="tokens"), "different normalization")
    assert "divides by 48 tokens, term 'kd' by 144 tokens" in finding.seen


def test_losses_that_are_not_compared():
    assert found(weights=PADDING_MASK, over="tokens", supervised_weight=0.0) == []
    assert found(weights=PADDING_MASK, over="tokens", loss=crossentropy(reduction="sum")) == []
    assert found(weights=PADDING_MASK, term=Term(Hint(), "tags", "tags", over="tokens")) == []


def test_one_of_two_outputs():
    def model(name):
        inputs = keras.Input((LENGTH,), dtype="int32")
        hidden = keras.layers.Embedding(WORDS, 4)(inputs)
        return keras.Model(inputs, {key: keras.layers.Dense(WORDS)(hidden) for key in ("first", "second")}, name=name)

    terms = [Term(KLDivergence(), tap, tap, over="tokens") for tap in ("output[first]", "output[second]")]
    distiller = Distiller(student=model("student"), teacher=model("teacher"), terms=terms)
    distiller.compile("sgd", {"first": crossentropy(), "second": crossentropy()})
    weights = {"first": np.ones((EXAMPLES, LENGTH), "float32"), "second": PADDING_MASK.astype("float32")}
    batch = TOKENS, {"first": TOKENS, "second": TOKENS}, weights
    finding = only_finding(check_normalization(Probe(distiller, [batch])), "different normalization", "kl_divergence_2")
    assert "divides by 48 tokens" in finding.seen and "by 20 tokens" in finding.seen


def test_the_check_reports_it():
    distiller = Distiller(
        student=tagger("student"), teacher=tagger("teacher"), terms=[Term(KLDivergence(), over="tokens")]
    )
    distiller.compile("sgd", crossentropy())
    inputs = {"token_ids": TOKENS, "padding_mask": PADDING_MASK}
    dataset = tf.data.Dataset.from_tensors((inputs, TOKENS, PADDING_MASK.astype("float32")))
    assert "different normalization" in [finding.name for finding in check(distiller, dataset)]
