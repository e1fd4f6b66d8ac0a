"""Tasks of KerasHub with encoders, as users write them: losses of the first step against NumPy in float64."""

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_distill import Distiller, Term
from keras_distill.losses import CosineSimilarity, KLDivergence, SimilarityPreserving
from tests.support.bert import WORDS
from tests.support.helpers import softened_kl, softmax
from tests.support.hub_tasks import (
    CROSSENTROPY,
    assert_losses,
    cosine_distances,
    crossentropies,
    first_step,
    run,
    weighted_mean,
)

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEXTS = ["a good film", "the plot is dull the film is bad", "fine", "is the film good"]


def backbone(layers, dim=8):
    return keras_hub.models.BertBackbone(len(VOCABULARY), layers, 2, dim, 16, dropout=0.0, max_sequence_length=8)


def tokenizer():
    return keras_hub.models.BertTokenizer(VOCABULARY, lowercase=True)


def tokens():
    """Inputs of BERT for the texts, and their padding mask in float64."""
    x = keras_hub.models.BertTextClassifierPreprocessor(tokenizer(), sequence_length=8)(TEXTS)
    x = {name: np.array(values).astype("int32") for name, values in x.items()}
    return x, x["padding_mask"].astype("float64")


def hidden_states(backbone, x):
    return run(backbone, {name: x[name] for name in backbone.input})["sequence_output"]


def test_masked_language_model_with_the_triple_loss_of_distilbert():
    preprocessor = keras_hub.models.BertMaskedLMPreprocessor(
        tokenizer(), sequence_length=8, mask_selection_rate=0.4, mask_selection_length=3
    )
    x, y, weights = keras.tree.map_structure(np.array, preprocessor(TEXTS))
    student, teacher = (keras_hub.models.BertMaskedLM(backbone(layers)) for layers in (1, 2))
    terms = [
        Term(KLDivergence(2.0), over="tokens", weight=5.0, name="kd"),
        Term(
            CosineSimilarity(), "transformer_layer_0", "transformer_layer_1",
            mask="padding_mask", over="tokens", name="cosine",
        ),
    ]  # fmt: skip
    distiller = Distiller(student=student, teacher=teacher, terms=terms, supervised_weight=2.0)
    logits, hidden = zip(*((run(model, x), hidden_states(model.backbone, x)) for model in (student, teacher)))
    supervised = weighted_mean(crossentropies(logits[0], y), weights)
    kd = weighted_mean(softened_kl(*logits, 2.0), weights)
    # A text without a masked token has no weight.
    counted = weights.any(axis=-1, keepdims=True)
    cosine = weighted_mean(cosine_distances(*hidden), x["padding_mask"] * counted)
    assert 0 < weights.sum() < weights.size and 0 < x["padding_mask"].sum() < x["padding_mask"].size
    logs = first_step(distiller, CROSSENTROPY, x, y, weights)
    assert_losses(logs, supervised=supervised, kd=kd, cosine=cosine)
    np.testing.assert_allclose(logs["loss"], 2 * supervised + 5 * kd + cosine, rtol=1e-4)


def tagger(layers):
    bert = backbone(layers)
    return keras.Model(bert.input, keras.layers.Dense(5)(bert.output["sequence_output"]))


def test_token_classification_with_padding_and_weights():
    x, mask = tokens()
    y = np.where(x["padding_mask"], x["token_ids"] % 5, -1)
    weights = 1 + (y == 2).astype("float32")
    student, teacher = tagger(1), tagger(2)
    distiller = Distiller(
        student=student, teacher=teacher, terms=[Term(KLDivergence(), mask="padding_mask", over="tokens", name="kd")]
    )
    logits = run(student, x), run(teacher, x)
    wanted = {
        "supervised": weighted_mean(crossentropies(logits[0], y), weights * mask),
        "kd": weighted_mean(softened_kl(*logits, 1.0), weights * mask),
    }
    assert_losses(first_step(distiller, CROSSENTROPY, x, y, weights), **wanted)


def reader(layers):
    """Model of extractive question answering, in which no answer starts or ends in the padding."""
    bert = backbone(layers)
    logits = keras.layers.Dense(2)(bert.output["sequence_output"])
    logits = ops.where(ops.expand_dims(bert.input["padding_mask"], -1) > 0, logits, -1e9)
    return keras.Model(bert.input, {"start": logits[..., 0], "end": logits[..., 1]})


def test_question_answering():
    x, mask = tokens()
    y = {"start": np.array([1, 2, 1, 0]), "end": np.array([2, 5, 1, 3])}
    student, teacher = reader(1), reader(2)
    terms = [Term(KLDivergence(2.0), f"output[{side}]", f"output[{side}]", name=f"{side}_kd") for side in y]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    outputs = run(student, x), run(teacher, x)
    losses = {
        side: [
            softened_kl(*(output[side][i, : int(length)] for output in outputs), 2.0)
            for i, length in enumerate(mask.sum(-1))
        ]
        for side in y
    }
    supervised = sum(
        -np.log(softmax(outputs[0][side][i, : int(length)])[y[side][i]])
        for side in y
        for i, length in enumerate(mask.sum(-1))
    )
    logs = first_step(distiller, dict.fromkeys(y, CROSSENTROPY), x, y)
    assert_losses(logs, supervised=supervised / 4, start_kd=np.mean(losses["start"]), end_kd=np.mean(losses["end"]))


def embedder(layers, dim):
    bert = backbone(layers, dim)
    mask = ops.cast(bert.input["padding_mask"], "bool")
    pooled = keras.layers.GlobalAveragePooling1D()(bert.output["sequence_output"], mask=mask)
    return keras.Model(bert.input, pooled)


def test_sentence_embeddings():
    x, mask = tokens()
    student, teacher = embedder(1, 8), embedder(2, 12)
    terms = [
        Term(CosineSimilarity(), head="auto", name="cosine"),
        Term("mse", head="auto", name="mse"),
        Term(SimilarityPreserving(), name="similarity"),
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    embeddings = run(student, x), run(teacher, x)
    kernels = [head.get_weights() for head in distiller.heads]
    projected = [embeddings[0] @ kernel + sum(bias) for kernel, *bias in kernels]
    units = [rows @ rows.T for rows in embeddings]
    similarities = [gram / np.linalg.norm(gram, axis=1, keepdims=True) for gram in units]
    logs = first_step(distiller, None, x)
    assert_losses(
        logs,
        cosine=cosine_distances(projected[0], embeddings[1]).mean(),
        mse=((projected[1] - embeddings[1]) ** 2).mean(),
        similarity=((similarities[0] - similarities[1]) ** 2).mean(),
    )
