"""Every class that holds variables is saved with its distiller and loaded again."""

import inspect

import keras
import numpy as np
import pytest

from keras_distill import Balance, Distiller, Term, heads, load_distiller
from keras_distill.heads import Fusion, Head
from keras_distill.losses import HierarchicalContext, Hint, MaskedGenerative
from keras_distill.teachers import EMATeacher
from tests.support import loss_models
from tests.support.helpers import assert_same_weights, compiled, fitted, weights_of

SHAPES = {2: (None, 5), 3: (None, 36, 4), 4: (None, 6, 6, 4)}


def holds_variables(layer, student, teacher):
    try:
        layer.build(student, teacher)
    except ValueError:
        return False
    return bool(layer.variables)


def losses_with_variables():
    found = []
    for name, cls in loss_models.LOSSES.items():
        if name == "Chunked":
            # Its inner loss is built with the layer of a model.
            continue
        loss = cls(**loss_models.SETTINGS.get(name, {}))
        shapes = [SHAPES[loss.rank]] if loss.rank else SHAPES.values()
        if any(holds_variables(cls.from_config(loss.get_config()), shape, shape) for shape in shapes):
            found.append(name)
    return found


def heads_with_variables():
    found = []
    for name, cls in inspect.getmembers(heads, inspect.isclass):
        if not issubclass(cls, Head):
            # `Standardization` has no weights.
            continue
        several = cls.takes_several
        for rank in SHAPES:
            student, teacher = SHAPES[rank], (*SHAPES[rank][:-1], 8)
            if cls is not Head and holds_variables(cls(), *(((s,) * 2 if several else s) for s in (student, teacher))):
                found.append(name)
                break
    return found


TERMS = {
    "Convolution": lambda: Term(Hint(), "map", "deeper", heads.Convolution()),
    "Fusion": lambda: Term(HierarchicalContext(), ("map", "deeper"), ("map", "deeper"), Fusion()),
    "MLP": lambda: Term(Hint(), "vector", "vector", heads.MLP()),
    "Masking": lambda: Term(MaskedGenerative(), "map", "map", heads.Masking()),
    "Projection": lambda: Term(Hint(), "vector", "vector", heads.Projection()),
    "Translator": lambda: Term(Hint(), "map", "map", heads.Translator()),
}


def assert_round_trip(distiller, teacher, x, y, path):
    compiled(distiller)
    fitted(distiller, x, y)
    distiller.save(path)
    loaded = load_distiller(path, teacher)
    assert_same_weights(weights_of(distiller), weights_of(loaded), rtol=0, atol=0)
    assert {v.path.split("/")[-1] for v in distiller.variables} == {v.path.split("/")[-1] for v in loaded.variables}
    # Nothing that the next step depends on is missing.
    assert fitted(distiller, x, y) == fitted(loaded, x, y)


@pytest.mark.parametrize("name", losses_with_variables())
def test_losses(name, tmp_path):
    distiller = loss_models.distiller_with(name)
    assert_round_trip(distiller, distiller.teacher, *loss_models.images(8, name), tmp_path / "d.keras")


def test_every_loss_and_head_with_variables_has_a_case():
    assert losses_with_variables() == [
        "CenteredKL",
        "ContrastiveRepresentation",
        "CurriculumTemperature",
        "FocalGlobalKD",
        "QueueSimilarity",
        "VariationalInformation",
    ]
    assert sorted(TERMS) == sorted(heads_with_variables())


@pytest.mark.parametrize("name", TERMS)
def test_heads(name, tmp_path):
    student, teacher = loss_models.network("student"), loss_models.network("teacher")
    distiller = Distiller(student=student, teacher=teacher, terms=[TERMS[name]()])
    assert_round_trip(distiller, teacher, *loss_models.images(8), tmp_path / "d.keras")


def test_weights_with_state_and_a_moving_teacher(tmp_path):
    keras.utils.set_random_seed(3)
    student = loss_models.network("student")
    terms = [Term(Hint(), "vector", "vector", weight=Balance(0.1))]
    distiller = compiled(Distiller(student=student, teacher=EMATeacher(student, decay=0.5), terms=terms))
    x, y = loss_models.images(8)
    fitted(distiller, x, y)
    distiller.save(tmp_path / "d.keras")
    copy = keras.models.clone_model(student)
    loaded = load_distiller(tmp_path / "d.keras", EMATeacher(copy, decay=0.5))
    np.testing.assert_array_equal(*(np.array([*map(float, d.term_weights[0].state)]) for d in (distiller, loaded)))
    assert fitted(distiller, x, y)["hint_weight"] == fitted(loaded, x, y)["hint_weight"]
