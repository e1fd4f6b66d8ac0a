import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import AffinityMimicking, CosineSimilarity, InteractiveContrastive
from keras_distill.losses.interactive_contrastive import interactive_contrastive
from tests.support.helpers import central_differences, features, fitted, softmax, value_and_gradient, zero_rate_sgd


def unit(x):
    return x.astype("float64") / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(student, teacher, temperature):
    """Equation of the paper for one direction: a cross-entropy with the example's own index as its label."""
    probabilities = softmax(unit(student) @ unit(teacher).T, temperature)
    return -np.log(np.diag(probabilities)).mean()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_matches_the_paper(temperature):
    student, teacher = features(5, 6), features(5, 6, seed=1)
    value, gradient = value_and_gradient(lambda s: interactive_contrastive(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, temperature), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-4 * np.abs(slope).max())


def test_known_value():
    # Each example meets its own embedding with a similarity of 1 and two others with 0: odds of 3 to 1 each.
    loss = interactive_contrastive(np.eye(3), 5 * np.eye(3), 1 / np.log(3.0))
    np.testing.assert_allclose(loss, [np.log(5 / 3)] * 3, rtol=1e-5)


def test_an_example_alone_has_no_loss():
    value, gradient = value_and_gradient(lambda s: interactive_contrastive(s, features(1, 4, seed=1)), features(1, 4))
    assert value == 0 and not np.any(gradient)


def encoders(width, name):
    inputs = {key: keras.Input((4,), name=key) for key in ("image", "text")}
    outputs = {key: keras.layers.Dense(width, name=f"{key}_embedding")(x) for key, x in inputs.items()}
    return keras.Model(inputs, outputs, name=name)


def test_terms_of_clip_kd_match_the_paper():
    """Feature distillation, contrastive relational distillation and interactive contrastive learning in one step."""
    keras.utils.set_random_seed(0)
    student, teacher, width = encoders(5, "student"), encoders(5, "teacher"), 5
    image, text = "image_embedding", "text_embedding"
    terms = [
        Term(CosineSimilarity(), image, image, weight=2 * 2000 / width),
        Term(CosineSimilarity(), text, text, weight=2 * 2000 / width),
        Term(AffinityMimicking(0.2, 0.1), (image, text), (image, text)),
        Term(InteractiveContrastive(0.3), image, text, weight=0.5),
        Term(InteractiveContrastive(0.3), text, image, weight=0.5),
    ]
    distiller = Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile(zero_rate_sgd())
    x = {"image": features(6, 4), "text": features(6, 4, seed=1)}
    found = fitted(distiller, x)["loss"][0]

    (s_image, s_text), (t_image, t_text) = (
        [unit(np.asarray(model(x)[key])) for key in ("image", "text")] for model in (student, teacher)
    )
    squared_error = ((s_image - t_image) ** 2).mean() + ((s_text - t_text) ** 2).mean()
    interactive = (reference(s_image, t_text, 0.3) + reference(s_text, t_image, 0.3)) / 2
    relational = 0.0
    for s, t in ((s_image @ s_text.T, t_image @ t_text.T), (s_text @ s_image.T, t_text @ t_image.T)):
        q, p = softmax(s, 0.2), softmax(t, 0.1)
        relational += (p * np.log(p / q)).sum(-1).mean() / 2
    np.testing.assert_allclose(found, 2000 * squared_error + relational + interactive, rtol=1e-4)
