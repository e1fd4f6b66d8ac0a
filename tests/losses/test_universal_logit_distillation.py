import numpy as np
import pytest

from keras_distill import Distiller, Term
from keras_distill.losses import Chunked, UniversalLogitDistillation
from keras_distill.losses.universal_logit_distillation import universal_logit_distillation
from keras_distill.models.lm_head import HiddenStates
from tests.support.helpers import central_differences, features, softmax, value_and_gradient, zero_rate_sgd
from tests.support.language_models import language_model


def reference(student, teacher, temperature=1.0):
    """Equation 4 of the paper for one position, times T."""
    size = max(student.shape[-1], teacher.shape[-1])
    p, q = (
        np.pad(-np.sort(-softmax(x, temperature)), [*[(0, 0)] * (x.ndim - 1), (0, size - x.shape[-1])])
        for x in (teacher, student)
    )
    return temperature * np.abs(p - q).sum(axis=-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [(6, 6), (4, 9), (9, 4)])
@pytest.mark.parametrize("positions", [(4,), (2, 3)])
def test_matches_the_paper(positions, classes, temperature):
    student, teacher = features(*positions, classes[0], scale=2), features(*positions, classes[1], seed=1, scale=2)
    value, gradient = value_and_gradient(lambda s: universal_logit_distillation(s, teacher, temperature), student)
    np.testing.assert_allclose(value, reference(student, teacher, temperature).mean(), rtol=1e-5)
    slope = central_differences(lambda s: reference(s, teacher, temperature).mean(), student)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_known_value():
    # Sorted: 1/2, 1/2 against 1/2, 1/4, 1/4.
    student, teacher = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5, 0.25]])
    np.testing.assert_allclose(universal_logit_distillation(student, teacher), [0.5], rtol=1e-6)


def test_ignores_the_order_of_the_classes():
    student, order = features(4, 7), np.random.default_rng(2).permutation(7)
    np.testing.assert_allclose(universal_logit_distillation(student, student[:, order]), 0, atol=1e-6)


def test_trains_with_other_vocabularies_and_hidden_states():
    student, teacher = language_model(4, words=5, name="student"), language_model(6, words=8, name="teacher")
    words = np.random.default_rng(0).integers(1, 5, (4, 3))
    pair = [model.predict(words, verbose=0) for model in (student, teacher)]
    loss, models = UniversalLogitDistillation(), (student, teacher)
    terms = {
        "plain": (models, Term(loss, over="tokens", name="uld")),
        "chunked": ([HiddenStates(m) for m in models], Term(Chunked(loss, "logits", "logits", tokens=5), name="uld")),
    }
    for (student, teacher), term in terms.values():
        distiller = Distiller(student=student, teacher=teacher, terms=[term])
        distiller.compile(zero_rate_sgd())
        history = distiller.fit(words, batch_size=4, verbose=0).history
        np.testing.assert_allclose(history["uld_loss"], reference(*pair).mean(), rtol=1e-4)


def test_rejects_a_single_class():
    for shapes in (((None, 1), (None, 3)), ((None, 3), (None, 1))):
        with pytest.raises(ValueError, match=r"UniversalLogitDistillation compares two classes or more.*\(None, 1\)"):
            UniversalLogitDistillation().build(*shapes)
