"""Loss of aligned spans: against published code, against NumPy in float64, and in a distiller."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.language import SpanAligned, align_texts, shared_words, teacher_inputs
from keras_distill.losses import HybridLogitDistillation, KLDivergence, UniversalLogitDistillation
from keras_distill.metrics import Perplexity
from keras_distill.teachers import ModelTeacher
from tests.language.test_alignment import PIECES, word_piece_preprocessor
from tests.losses.test_golden import INDEX, arrays_of
from tests.support.helpers import features
from tests.support.hub_models import WORDS, gpt2_preprocessor, randomized

WINDOW = 12


def inputs_of(spans, teacher_spans, token_ids, teacher_token_ids):
    arrays = [np.asarray(x, "int32") for x in (token_ids, teacher_token_ids, spans, teacher_spans)]
    return dict(zip(("token_ids", "teacher_token_ids", "student_spans", "teacher_spans"), arrays))


def golden_spans(inputs):
    """Return spans of a golden case, whose offsets belong to tokens, as spans of the positions that predict them."""
    found = {"student": [], "teacher": []}
    for text in range(len(inputs["student_ids"])):
        answers = {s: np.flatnonzero(inputs[f"{s}_labels"][text] != -100)[:-1] for s in found}
        ends = {s: inputs[f"{s}_offsets"][text][answers[s], 1] for s in found}
        common = sorted(set(ends["student"]) & set(ends["teacher"]))
        for side, rows in found.items():
            spans = np.full(inputs[f"{side}_ids"].shape[1], -1)
            for position, end in zip(answers[side], ends[side]):
                later = [number for number, place in enumerate(common) if place >= end]
                spans[position - 1] = later[0] if later else -1
            rows.append(spans)
    return found["student"], found["teacher"]


def test_matches_published_code():
    (case,) = (case for case in INDEX["uld"]["cases"] if case["name"] == "hard_extended_bayesian")
    inputs, expected = arrays_of("uld", case, "in"), arrays_of("uld", case, "grad")["student"]
    x = inputs_of(*golden_spans(inputs), inputs["student_ids"], inputs["teacher_ids"])
    loss, student = SpanAligned(), tf.constant(inputs["student"])
    batch = Batch(x, position_weight=loss.own_positions(Batch(x)))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_mean(loss.compare(student, tf.constant(inputs["teacher"]), batch))
    np.testing.assert_allclose(value, case["value"], rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(value, student), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def merged(logits, tokens, spans, temperature):
    """Return `{span: (probabilities of its row, position of its last token)}` of a text, by the chain rule."""
    rows, log = {}, log_softmax(np.asarray(logits, "float64") / temperature)
    for position in range(len(spans)):
        if spans[position] < 0:
            continue
        group = [other for other in range(len(spans)) if spans[other] == spans[position]]
        before = [log[other, tokens[other + 1]] for other in group[:-1]]
        rows[int(spans[position])] = np.exp(log[group[-1]] + sum(before)), group[-1]
    return rows


def hybrid(q, p, shared, beta, weight):
    """Formula of `hybrid_logit_distillation` for 0 < beta < 1."""
    a, b = ([pair[side] for pair in shared] for side in (0, 1))
    rest_q, rest_p = np.sort(np.delete(q, a))[::-1], np.sort(np.delete(p, b))[::-1]
    size = max(len(rest_q), len(rest_p))
    rest_q, rest_p = (np.pad(x, (0, size - len(x))) for x in (rest_q, rest_p))
    q, p = q[a], p[b]
    mixture = beta * p + (1 - beta) * q
    parts = [(x * np.log(x / mixture) + mixture - x).sum() for x in (p, q)]
    return weight * (beta * parts[0] + (1 - beta) * parts[1]) + (1 - weight) * np.abs(rest_q - rest_p).sum()


def models():
    """Return models of a token each, of byte pairs and of word pieces. The teacher's padding has a Keras mask."""

    def model(words, seed, **options):
        tokens = keras.Input((None,), dtype="int32", name="token_ids")
        x = keras.layers.Embedding(words, 6, **options)(tokens)
        return randomized(keras.Model(tokens, keras.layers.Dense(words)(x)), seed)

    return model(WORDS, 1), model(len(PIECES), 2, mask_zero=True)


def data():
    prompts, responses = ["a ", "", "b ", "x "], ["cab abba", "bad, a", "a zz cab", "ab ab ab ab ab ab"]
    # Windows of the same length: positions and masks must not be taken for one another.
    prepared = align_texts(gpt2_preprocessor(WINDOW), word_piece_preprocessor(WINDOW))
    return prepared(prompts, responses)


def made(student, teacher, x, over="tokens", optimizer="sgd", **options):
    shared = shared_words(gpt2_preprocessor().tokenizer, word_piece_preprocessor().tokenizer)
    loss = SpanAligned(HybridLogitDistillation(shared, 0.3, 0.6, temperature=2.0))
    distiller = Distiller(
        student=student,
        teacher=ModelTeacher(teacher, inputs=teacher_inputs),
        terms=[Term(loss, over=over, name="gold")],
        supervised_weight=0.01,
        inputs=x,
    )
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer, crossentropy, weighted_metrics=[Perplexity()], **options)
    return distiller, shared


@pytest.mark.parametrize(("over", "jit_compile"), [("tokens", False), ("examples", True)])
def test_a_distiller_compares_the_spans_of_two_tokenizers(over, jit_compile):
    (student, teacher), (x, y, weight) = models(), data()
    weight = np.asarray(weight) * np.array([[1.0], [2.0], [0.5], [1.0]], "float32")
    distiller, shared = made(student, teacher, x, over, jit_compile=jit_compile)
    arrays = {name: np.asarray(array) for name, array in x.items()}
    logits, of_teacher = student(arrays["token_ids"]).numpy(), teacher(arrays["teacher_token_ids"]).numpy()
    sums = []
    for row in range(4):
        rows = merged(logits[row], arrays["token_ids"][row], arrays["student_spans"][row], 2.0)
        others = merged(of_teacher[row], arrays["teacher_token_ids"][row], arrays["teacher_spans"][row], 2.0)
        assert rows.keys() == others.keys() and rows
        values = [2.0 * hybrid(rows[span][0], others[span][0], shared, 0.3, 0.6) for span in rows]
        weights = [weight[row, rows[span][1]] for span in rows]
        sums.append((np.dot(weights, values), sum(weights)))
    total, count = np.transpose(sums)
    # As Keras does, the mean of an example is weighted by the mean of its weights over all positions.
    means = total / count * weight.mean(axis=1)
    expected = total.sum() / count.sum() if over == "tokens" else means.mean()
    found = distiller.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)["gold_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_training_lowers_the_loss_and_survives_saving(tmp_path):
    (student, teacher), (x, y, weight) = models(), data()
    distiller, _ = made(student, teacher, x, optimizer=keras.optimizers.Adam(0.1))
    losses = distiller.fit(x, y, sample_weight=weight, epochs=30, verbose=0).history["gold_loss"]
    assert losses[-1] < 0.7 * losses[0]
    distiller.save(tmp_path / "distiller.keras")
    loaded = load_distiller(tmp_path / "distiller.keras", ModelTeacher(teacher, inputs=teacher_inputs))
    found, wanted = (
        each.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True) for each in (loaded, distiller)
    )
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.replicas
def test_two_replicas_match_one():
    """Texts of one replica have other numbers of spans than those of the other."""
    x, y, weight = data()
    weights = []
    for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())):
        with tf.distribute.get_strategy().scope() if strategy is None else strategy.scope():
            distiller, _ = made(*models(), x, optimizer=keras.optimizers.SGD(0.1))
        distiller.fit(x, y, sample_weight=weight, batch_size=4, shuffle=False, epochs=2, verbose=0)
        weights.append(distiller.student.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_aligned_raises():
    for loss in (KLDivergence(), "uld"):
        with pytest.raises(ValueError, match="SpanAligned takes a loss of different vocabularies.*Received"):
            SpanAligned(loss)
    assert isinstance(SpanAligned().loss, UniversalLogitDistillation)
    logits, x = features(1, 3, 4), inputs_of([[0, 1, -1]], [[0, 1]], [[1, 2, 3]], [[1, 2]])
    with pytest.raises(ValueError, match="needs the input 'student_spans'.*align_texts.*Received inputs: one tensor"):
        SpanAligned().compare(logits, logits, Batch(np.zeros((1, 3))))
    with pytest.raises(ValueError, match="The teacher's logits have 3 positions, but its spans 2"):
        SpanAligned().compare(logits, logits, Batch(x))
