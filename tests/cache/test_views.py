"""Views: teacher and student see the same augmented example."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill import OUTPUT, Distiller, Term
from keras_distill.cache import Views, indexed, label, open_cache
from keras_distill.data.batch import split_inputs
from keras_distill.losses import KLDivergence
from tests.support.helpers import compiled, data, mlp


def noisy(x, seed):
    return x + tf.random.stateless_normal(tf.shape(x), seed)


VIEWS = Views(3, noisy)


def dataset():
    return tf.data.Dataset.from_tensor_slices(data())


@pytest.fixture
def teacher():
    return mlp(16, name="teacher")


@pytest.fixture
def teacher_cache(teacher, tmp_path):
    label(teacher, dataset(), tmp_path, views=VIEWS, batch_size=10, verbose=0)
    return open_cache(tmp_path)


def test_joined_activations_belong_to_the_view(teacher, teacher_cache):
    assert teacher_cache.examples == 72 and teacher_cache.views == 3
    shuffled = indexed(dataset()).shuffle(24, seed=1)
    seen = set()
    for (joined, labels), _ in zip(teacher_cache.join(shuffled, VIEWS, seed=5).batch(24).repeat(8), range(8)):
        x, activations, index = split_inputs(joined)
        np.testing.assert_allclose(activations[OUTPUT], teacher(x), rtol=1e-5, atol=1e-6)
        original, view = np.divmod(index.numpy(), 3)
        np.testing.assert_array_equal(labels, data()[1][original])
        assert sorted(original) == list(range(24))
        expected = [noisy(data()[0][i], tf.constant([i, v], "int64")) for i, v in zip(original, view)]
        np.testing.assert_allclose(x, expected, rtol=1e-6)
        seen |= set(index.numpy().tolist())
    # The views differ from epoch to epoch. Each of the 72 is absent from all 8 epochs with probability 1/26.
    assert len(seen) > 60


def test_the_same_seed_draws_the_same_views(teacher_cache):
    draws = [
        [int(split_inputs(x)[2]) for x, _ in teacher_cache.join(dataset(), VIEWS, seed=seed)] for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_student_learns_from_views(teacher_cache):
    distiller = compiled(Distiller(student=mlp(), teacher=teacher_cache.teacher, terms=[Term(KLDivergence())]))
    history = distiller.fit(teacher_cache.join(dataset(), VIEWS, seed=1).batch(8), epochs=5, verbose=0).history
    assert history["kl_divergence_loss"][-1] < history["kl_divergence_loss"][0]


def test_another_augmentation_raises(teacher_cache):
    other = Views(3, lambda x, seed: noisy(x, seed) * 1.01)
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not match its fingerprint"):
        list(teacher_cache.join(dataset(), other).batch(24))


@pytest.mark.parametrize("views", [None, Views(2, noisy)])
def test_another_number_of_views_raises(teacher_cache, views):
    with pytest.raises(ValueError, match="holds 3 views of each example. Pass the `views`"):
        teacher_cache.join(dataset(), views)


def test_batched_datasets_raise(teacher_cache):
    with pytest.raises(ValueError, match="Join first, then batch: `teacher_cache.join"):
        teacher_cache.join(indexed(dataset()).batch(8), VIEWS)


def test_the_number_of_views_is_logged_before_labeling_starts(teacher, tmp_path, capsys):
    label(teacher, dataset(), tmp_path, views=VIEWS)
    assert "for 72 examples" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 1.5, True])
def test_the_number_of_views_is_checked(count):
    with pytest.raises(ValueError, match=f"`count` must be an integer >= 1. Received: {count}"):
        Views(count, noisy)


@pytest.mark.case("F2")
def test_views_of_a_shuffled_dataset_are_not_called_random(teacher, tmp_path):
    # The order of the dataset differs each time; the augmentation does not.
    label(teacher, dataset().shuffle(24, seed=1), tmp_path, views=VIEWS, verbose=0)
    assert open_cache(tmp_path).examples == 72
