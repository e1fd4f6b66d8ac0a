import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import central_differences, compiled, data, features, mlp, value_and_gradient

from keras_distill import Distiller, Term
from keras_distill.batch import Batch
from keras_distill.losses import ContrastiveRepresentation
from keras_distill.losses.contrastive_representation import contrastive_representation, log_mean_exp


def reference(scores, log_mean, examples):
    """Equations 9 to 11 of the paper: P = exp(score) / Z with Z = N times the mean, against the prior K/N."""
    prior = (scores.shape[1] - 1) / examples
    p = np.exp(scores) / (np.exp(log_mean) * examples)
    recognised = np.log(p[:, 0] / (p[:, 0] + prior))
    told_apart = np.log(prior / (p[:, 1:] + prior)).sum(axis=1)
    return -(recognised + told_apart).mean()


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
    # All alike: the counterpart has 1/(1 + 2), each of the two others 2/(1 + 2).
    loss = contrastive_representation(np.zeros((1, 3)), 0.0)
    np.testing.assert_allclose(loss, [np.log(3) + 2 * np.log(1.5)], rtol=1e-6)


def test_large_scores_stay_finite():
    value, gradient = value_and_gradient(lambda s: contrastive_representation(s, 0.0), 1e4 * features(3, 5))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_the_queue_holds_the_latest_embeddings_of_length_1():
    loss = ContrastiveRepresentation(dim=4, size=5)
    loss.build((None, 3), (None, 6))
    before = [queue.numpy() for queue in loss.queues]
    np.testing.assert_allclose(np.linalg.norm(before, axis=-1), 1, rtol=1e-5)
    student, teacher = features(2, 3), features(2, 6, seed=1)
    loss.compare(student, teacher, Batch(None))
    np.testing.assert_array_equal([queue.numpy() for queue in loss.queues], before)

    loss.remember(student, teacher, Batch(None))
    for queue, old, vectors, kernel in zip(loss.queues, before, (student, teacher), loss.kernels):
        embeddings = vectors @ kernel.numpy()
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        np.testing.assert_allclose(queue, [*embeddings, *old[:3]], rtol=1e-5, atol=1e-6)
    loss.remember(features(9, 3), features(9, 6), Batch(None))
    assert loss.queues[0].shape == (5, 4)


def test_the_means_are_those_of_the_first_batch():
    loss = ContrastiveRepresentation(dim=4, size=5)
    loss.build((None, 3), (None, 6))
    loss.remember(features(2, 3), features(2, 6), Batch(None))
    means = loss.log_means.numpy()
    loss.remember(features(2, 3, seed=1), features(2, 6, seed=1), Batch(None))
    np.testing.assert_array_equal(loss.log_means, means)
    assert np.all(means != 0)


def distiller(**options):
    term = Term(ContrastiveRepresentation(dim=4, size=16), "features", "features", name="crd")
    return compiled(Distiller(mlp(4), mlp(16, name="teacher"), [term]), keras.optimizers.Adam(0.01), **options)


def test_training_moves_the_queue_and_evaluation_does_not():
    x, y = data()
    model = distiller()
    loss = model.terms[0].loss
    before = loss.queues[0].numpy()
    model.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(loss.queues[0], before)
    history = model.fit(x, y, batch_size=8, epochs=30, verbose=0).history["crd_loss"]
    assert np.any(loss.queues[0] != before)
    assert history[-1] < history[0]


def test_two_replicas_share_a_queue():
    x, y = data()
    devices = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with devices.scope():
        model = distiller()
    before = model.terms[0].loss.queues[0].numpy()
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["crd_loss"]
    assert np.all(np.isfinite(history))
    assert np.any(model.terms[0].loss.queues[0].numpy() != before)


@pytest.mark.parametrize("setting", [{"dim": 0}, {"size": 1.5}])
def test_lengths_are_whole_numbers(setting):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}` must be an integer, 1 or more"):
        ContrastiveRepresentation(**setting)
