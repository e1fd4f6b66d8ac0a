import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, load_distiller
from keras_distill.data.batch import Batch
from keras_distill.losses import ContrastiveRepresentation
from keras_distill.losses.contrastive_representation import contrastive_representation, log_mean_exp
from keras_distill.losses.maths import unit_vectors
from keras_distill.teachers import with_index
from tests.support.helpers import central_differences, compiled, data, features, fitted, mlp, value_and_gradient


def reference(scores, log_mean, examples):
    """Equations 9 to 11 of the paper: P = exp(score) / Z with Z = N times the mean, against the prior K/N."""
    prior = (scores.shape[1] - 1) / examples
    p = np.exp(scores) / (np.exp(log_mean) * examples)
    positive = np.log(p[:, 0] / (p[:, 0] + prior))
    negatives = np.log(prior / (p[:, 1:] + prior)).sum(axis=1)
    return -(positive + negatives).mean()


@pytest.mark.parametrize("examples", [10, 50_000])
def test_matches_the_paper_for_any_number_of_examples(examples):
    scores = features(4, 7, scale=3.0)
    log_mean = float(log_mean_exp(scores))
    np.testing.assert_allclose(log_mean, np.log(np.exp(scores.astype("float64")).mean()), rtol=1e-5)
    value, gradient = value_and_gradient(lambda s: contrastive_representation(s, log_mean), scores)
    np.testing.assert_allclose(value, reference(scores, log_mean, examples), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, log_mean, examples), scores)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)


def test_known_value():
    # Equal scores: the positive has 1/(1 + 2), each of the two negatives 2/(1 + 2).
    loss = contrastive_representation(np.zeros((1, 3)), 0.0)
    np.testing.assert_allclose(loss, [np.log(3) + 2 * np.log(1.5)], rtol=1e-6)


def test_large_scores_stay_finite():
    value, gradient = value_and_gradient(lambda s: contrastive_representation(s, 0.0), 1e4 * features(3, 5))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_the_queue_contains_the_latest_embeddings_of_unit_length():
    loss = ContrastiveRepresentation(dim=4, size=5)
    loss.build((None, 3), (None, 6))
    before = [queue.numpy() for queue in loss.memories]
    np.testing.assert_allclose(np.linalg.norm(before, axis=-1), 1, rtol=1e-5)
    student, teacher = features(2, 3), features(2, 6, seed=1)
    loss.compare(student, teacher, Batch(None))
    np.testing.assert_array_equal([queue.numpy() for queue in loss.memories], before)

    loss.remember(student, teacher, Batch(None))
    for queue, old, vectors, kernel in zip(loss.memories, before, (student, teacher), loss.kernels):
        embeddings = vectors @ kernel.numpy()
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        np.testing.assert_allclose(queue, [*embeddings, *old[:3]], rtol=1e-5, atol=1e-6)
    loss.remember(features(9, 3), features(9, 6), Batch(None))
    assert loss.memories[0].shape == (5, 4)


def test_the_means_are_fixed_by_the_first_batch():
    loss = ContrastiveRepresentation(dim=4, size=5)
    loss.build((None, 3), (None, 6))
    loss.remember(features(2, 3), features(2, 6), Batch(None))
    means = loss.log_means.numpy()
    loss.remember(features(2, 3, seed=1), features(2, 6, seed=1), Batch(None))
    np.testing.assert_array_equal(loss.log_means, means)
    assert np.all(means != 0)


def distiller(**options):
    term = Term(ContrastiveRepresentation(dim=4, size=16), "features", "features", name="crd")
    return compiled(
        Distiller(student=mlp(4), teacher=mlp(16, name="teacher"), terms=[term]), keras.optimizers.Adam(0.01), **options
    )


def test_training_updates_the_queue_and_evaluation_does_not():
    x, y = data()
    model = distiller()
    loss = model.terms[0].loss
    before = loss.memories[0].numpy()
    model.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(loss.memories[0], before)
    history = model.fit(x, y, batch_size=8, epochs=30, verbose=0).history["crd_loss"]
    assert np.any(loss.memories[0] != before)
    assert history[-1] < history[0]


def test_two_replicas_share_a_queue():
    x, y = data()
    devices = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with devices.scope():
        model = distiller()
    before = model.terms[0].loss.memories[0].numpy()
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["crd_loss"]
    assert np.all(np.isfinite(history))
    assert np.any(model.terms[0].loss.memories[0].numpy() != before)


@pytest.mark.parametrize("setting", [{"dim": 0}, {"size": 1.5}, {"examples": 0}, {"examples": True}])
def test_non_integers_raise(setting):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}` must be an integer >= "):
        ContrastiveRepresentation(**setting)


def bank(examples=7, **settings):
    loss = ContrastiveRepresentation(dim=4, size=300, examples=examples, **settings)
    loss.build((None, 3), (None, 6))
    return loss


def embedded(loss, *vectors):
    parts = zip(vectors, loss.kernels, loss.biases)
    outputs = [x @ kernel.numpy() + bias.numpy() for x, kernel, bias in parts]
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in outputs]


def test_the_bank_is_updated_as_in_the_authors_code():
    loss = bank()
    student, teacher = features(2, 3), features(2, 6, seed=1)
    before = [memory.numpy() for memory in loss.memories]
    for index in ([4, 1], [1, 6]):
        loss.remember(student, teacher, Batch(None, index=tf.constant(index)))
        for memory, latest in zip(before, embedded(loss, student, teacher)):
            # ContrastMemory: half of the old and half of the new, scaled to length 1.
            updated = 0.5 * memory[index] + 0.5 * latest
            memory[index] = updated / np.linalg.norm(updated, axis=1, keepdims=True)
    for memory, expected in zip(loss.memories, before):
        np.testing.assert_allclose(memory, expected, rtol=1e-5, atol=1e-6)


def test_the_positive_and_the_negatives_come_from_the_bank():
    loss, index = bank(), tf.constant([4, 1])
    student, teacher = features(2, 3), features(2, 6, seed=1)
    # All other embeddings in the bank are equal, so an anchor has three different scores.
    for memory in loss.memories:
        rows = np.tile([[1.0, 0, 0, 0]], (7, 1))
        rows[[4, 1]] = [[0, 1, 0, 0], [0, 0, 1, 0]]
        memory.assign(rows)
    scores = loss._scores(student, teacher, Batch(None, index=index, step=3))
    for anchor, anchor_scores in zip(embedded(loss, student, teacher), scores):
        np.testing.assert_allclose(anchor_scores[0, 0], anchor[0, 1] / 0.07, rtol=1e-4)
        np.testing.assert_allclose(anchor_scores[1, 0], anchor[1, 2] / 0.07, rtol=1e-4)
        others = {round(float(value), 2) for value in anchor_scores[0, 1:]}
        # Its own row, along the second axis, is never a negative.
        assert others == {round(float(value) / 0.07, 2) for value in (anchor[0, 0], anchor[0, 2])}


def test_negatives_change_with_the_step_and_are_the_same_within_it():
    loss = bank()
    student, teacher = features(2, 3), features(2, 6, seed=1)

    def compared(step):
        return loss.compare(student, teacher, Batch(None, index=tf.constant([4, 1]), step=tf.constant(step))).numpy()

    np.testing.assert_array_equal(compared(5), compared(5))
    assert np.all(compared(5) != compared(6))


def bank_distiller(**options):
    term = Term(ContrastiveRepresentation(dim=4, size=16, examples=24), "features", "features", name="crd")
    return compiled(
        Distiller(student=mlp(4), teacher=mlp(16, name="teacher"), terms=[term]), keras.optimizers.Adam(0.01), **options
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_rows_of_the_bank_belong_to_their_examples_when_shuffled(jit_compile):
    x, y = data()
    model = bank_distiller(jit_compile=jit_compile)
    loss = model.terms[0].loss
    before = loss.memories[1].numpy()
    inputs = with_index(x[:20], np.arange(20))
    history = model.fit(inputs, y[:20], batch_size=5, epochs=30, shuffle=True, verbose=0).history["crd_loss"]
    assert history[-1] < history[0]
    np.testing.assert_array_equal(loss.memories[1][20:], before[20:])
    teacher = keras.Model(model.teacher.model.inputs[0], model.teacher.model.get_layer("features").output)
    embeddings = unit_vectors(teacher(x) @ loss.kernels[1].numpy() + loss.biases[1].numpy()).numpy()
    # A row is closer to the embedding of its example than to any other.
    closest = np.argmax(loss.memories[1][:20] @ embeddings[:20].T, axis=1)
    assert np.mean(closest == np.arange(20)) > 0.9


def test_training_with_a_bank_resumes_bit_for_bit(tmp_path):
    x, y = data()
    first = bank_distiller()
    inputs = with_index(x, np.arange(24))
    fitted(first, inputs, y)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", first.teacher)
    for model in (first, second):
        fitted(model, inputs, y)
    for first_weight, second_weight in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(first_weight, second_weight)


def test_an_index_out_of_range_gives_nan():
    loss, student, teacher = bank(), features(2, 3), features(2, 6, seed=1)

    @tf.function(jit_compile=True)
    def compared(index):
        return loss.compare(tf.constant(student), tf.constant(teacher), Batch(None, index=index))

    np.testing.assert_array_equal(np.isnan(compared(tf.constant([7, 6]))), [True, False])
    np.testing.assert_array_equal(np.isnan(compared(tf.constant([0, -1]))), [False, True])


def test_a_bank_needs_the_index_of_each_example():
    x, y = data()
    model = bank_distiller()
    assert np.isfinite(model.evaluate(x, y, verbose=0, return_dict=True)["crd_loss"])
    with pytest.raises(ValueError, match=r"memory bank of 24 examples.*`with_index\(x, np.arange\(len\(x\)\)\)` as x"):
        fitted(model, x, y)
