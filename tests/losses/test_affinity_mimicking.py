import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.data.batch import Batch
from keras_distill.losses import AffinityMimicking
from keras_distill.losses.affinity_mimicking import affinity_mimicking
from tests.support.helpers import central_differences, features, fitted, softmax, value_and_gradient, zero_rate_sgd


def reference(student, teacher, temperature, teacher_temperature):
    """Equations of the paper, less the teacher's entropy, averaged over the two directions."""
    scores = []
    for image, text in (student, teacher):
        image, text = (x.astype("float64") / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
        scores.append(image @ text.T)
    total = 0
    for s, t in (scores, (scores[0].T, scores[1].T)):
        q, p = softmax(s, temperature), softmax(t, teacher_temperature)
        total += (p * np.log(p / q)).sum(-1).mean()
    return total / 2


@pytest.mark.parametrize("temperatures", [(0.05, 0.05), (1.0, 0.1)])
def test_matches_the_paper(temperatures):
    image, *rest = features(4, 6), features(4, 6, seed=1), features(4, 9, seed=2), features(4, 9, seed=3)
    value, gradient = value_and_gradient(lambda x: affinity_mimicking(x, *rest, *temperatures), image)
    np.testing.assert_allclose(value, reference((image, rest[0]), rest[1:], *temperatures), rtol=1e-4)
    slope = central_differences(lambda x: reference((x, rest[0]), rest[1:], *temperatures), image)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_known_value():
    # The teacher matches each image with its text, with odds of 3 to 1; the student matches it with the other text.
    eye, swapped = np.eye(2), np.eye(2)[::-1]
    loss = affinity_mimicking(eye, swapped, eye, eye, 1 / np.log(3.0), 1 / np.log(3.0))
    np.testing.assert_allclose(loss, [np.log(3) / 2] * 2, rtol=1e-5)


def test_defaults_to_the_students_temperature():
    pairs = [(features(4, 5, seed=i), features(4, 5, seed=i + 1)) for i in (0, 2)]
    found = [AffinityMimicking(0.2, t).compare(*pairs, Batch(None)) for t in (None, 0.2, 0.1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def encoders(width, name):
    inputs = {key: keras.Input((4,), name=key) for key in ("image", "text")}
    outputs = {key: keras.layers.Dense(width, name=f"{key}_embedding")(x) for key, x in inputs.items()}
    return keras.Model(inputs, outputs, name=name)


def test_two_encoders_of_other_widths_need_no_head():
    keras.utils.set_random_seed(0)
    student, teacher = encoders(3, "student"), encoders(5, "teacher")
    taps = "image_embedding", "text_embedding"
    distiller = Distiller(student=student, teacher=teacher, terms=[Term(AffinityMimicking(0.1), taps, taps, name="a")])
    distiller.compile(zero_rate_sgd())
    x = {"image": features(6, 4), "text": features(6, 4, seed=1)}
    pairs = [[np.asarray(model(x)[key]) for key in ("image", "text")] for model in (student, teacher)]
    np.testing.assert_allclose(fitted(distiller, x)["a_loss"], [reference(*pairs, 0.1, 0.1)], rtol=1e-4)


def test_embeddings_of_different_widths_within_a_model_raise():
    assert not AffinityMimicking().comparable(((None, 3), (None, 4)), ((None, 5), (None, 5)))
    with pytest.raises(ValueError, match="compares one activation or a pair"):
        AffinityMimicking().comparable(((None, 3),) * 3, ((None, 5),) * 3)
