"""Encoder-decoder models of KerasHub, as users write them: losses of the first step against NumPy in float64."""

import keras
import keras_hub
import numpy as np

from keras_distill import Distiller, Term
from keras_distill.losses import CosineSimilarity, KLDivergence
from tests.support.helpers import softened_kl
from tests.support.hub_tasks import (
    CROSSENTROPY,
    assert_losses,
    cosine_distances,
    crossentropies,
    first_step,
    run,
    weighted_mean,
)

PARTS = ["<s>", "<pad>", "</s>", "<mask>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "lo"]


def translator(layers):
    backbone = keras_hub.models.BartBackbone(len(PARTS), layers, 2, 8, 16, dropout=0.0, max_sequence_length=12)
    return keras_hub.models.BartSeq2SeqLM(backbone)


def test_text_to_text_with_bart():
    tokenizer = keras_hub.models.BartTokenizer({part: index for index, part in enumerate(PARTS)}, merges=["l o"])
    preprocessor = keras_hub.models.BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=12, decoder_sequence_length=8
    )
    texts = {"encoder_text": ["a long text", "text"], "decoder_text": ["long", "a"]}
    x, y, weights = keras.tree.map_structure(np.array, preprocessor(texts))
    student, teacher = translator(1), translator(2)
    terms = [
        Term(KLDivergence(), over="tokens", name="kd"),
        Term(
            CosineSimilarity(), "transformer_encoder_layer_0", "transformer_encoder_layer_1",
            mask="encoder_padding_mask", over="tokens", name="encoder",
        ),
        Term(
            CosineSimilarity(), "transformer_decoder_layer_0", "transformer_decoder_layer_1",
            mask="decoder_padding_mask", over="tokens", name="decoder",
        ),
    ]  # fmt: skip
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    logits = run(student, x), run(teacher, x)
    hidden = [run(model.backbone, x) for model in (student, teacher)]
    encoded, decoded = ([each[f"{side}_sequence_output"] for each in hidden] for side in ("encoder", "decoder"))
    assert 0 < weights.sum() < weights.size
    assert_losses(
        first_step(distiller, CROSSENTROPY, x, y, weights),
        supervised=weighted_mean(crossentropies(logits[0], y), weights),
        kd=weighted_mean(softened_kl(*logits, 1.0), weights),
        encoder=weighted_mean(cosine_distances(*encoded), x["encoder_padding_mask"]),
        decoder=weighted_mean(cosine_distances(*decoded), x["decoder_padding_mask"] * weights),
    )


def recognizer(layers):
    backbone = keras_hub.models.WhisperBackbone(
        20, layers, 2, 8, 16, num_mels=4, max_encoder_sequence_length=12, max_decoder_sequence_length=6
    )
    logits = backbone.token_embedding(backbone.output["decoder_sequence_output"], reverse=True)
    return keras.Model(backbone.input, [logits, backbone.output["encoder_sequence_output"]])


def test_speech_recognition_with_whisper():
    rng = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[6], [3], [5]])
    tokens = rng.integers(1, 20, (3, 7))
    x = {
        "encoder_features": rng.normal(size=(3, 12, 4)).astype("float32"),
        "decoder_token_ids": tokens[:, :-1] * mask,
        "decoder_padding_mask": mask.astype("int32"),
    }
    y = np.where(mask, tokens[:, 1:], -1)
    (student, encoder), (teacher, other_encoder) = (
        [keras.Model(model.input, output) for output in model.output] for model in (recognizer(1), recognizer(2))
    )
    terms = [
        Term(KLDivergence(), mask="decoder_padding_mask", over="tokens", name="kd"),
        Term("mse", "encoder_layer_norm", "encoder_layer_norm", name="encoder"),
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    logits, encoded = (run(student, x), run(teacher, x)), (run(encoder, x), run(other_encoder, x))
    assert_losses(
        first_step(distiller, CROSSENTROPY, x, y),
        supervised=weighted_mean(crossentropies(logits[0], y), mask),
        kd=weighted_mean(softened_kl(*logits, 1.0), mask),
        encoder=((encoded[0] - encoded[1]) ** 2).mean(),
    )
