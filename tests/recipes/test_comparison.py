"""Comparison of students in the recipes."""

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from keras_distill import Distiller, Term
from keras_distill.losses import KLDivergence
from recipes import comparison, data, training


def network():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)], name="student")


@pytest.fixture
def settings(tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(workdir=str(tmp_path), smoke=True, seeds=1, teacher="online"):
        yield


def test_models_trained_on_other_examples_are_not_reused(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "_fit", lambda *arguments: {})
    students = [comparison.Student("baseline", lambda _: network())]

    def compare(examples):
        comparison.compare("Title", "Description.", examples, network, students, keep="baseline")
        return capsys.readouterr().out.count("trained earlier")

    digits = data.digits()
    assert compare(digits) == 0
    assert compare(data.digits()) == 2
    x, y = digits.train
    relabeled = digits._replace(train=(x, np.where(np.arange(len(y)) == 3, (y + 1) % 10, y)))
    with pytest.raises(ValueError, match="Choose another --workdir"):
        compare(relabeled)
    (tmp_path / "teacher.keras").unlink()
    assert compare(relabeled) == 0


@pytest.mark.parametrize("texts", [False, True])
def test_digest_depends_on_the_values(texts):
    def dataset(word="of", label=1, test_label=0):
        inputs = np.array([["a", word]], object if texts else None)
        return data.Data(
            ((inputs, np.ones((1, 2))), np.array([label])), (inputs, np.array([test_label])), ("no", "yes")
        )

    assert dataset().digest() == dataset().digest()
    variants = (dataset(), dataset(word="on"), dataset(label=0), dataset(test_label=1))
    assert len({variant.digest() for variant in variants}) == 4


def test_student_starts_from_the_trained_weights_of_another(settings, tmp_path, monkeypatch):
    def add_one(model, *arguments):
        trained = model.student if isinstance(model, Distiller) else model
        for weight in trained.trainable_weights:
            weight.assign_add(np.ones(weight.shape, "float32"))
        return {}

    monkeypatch.setattr(training, "_fit", add_one)
    monkeypatch.setattr(training, "check", lambda *arguments: [])
    students = [comparison.Student("baseline", lambda _: network())]
    for name, start in (("first", None), ("second", "first"), ("third", "second"), ("other", "first")):
        options = {"start": start, "baseline": "baseline"}
        make = (lambda _: network()) if start is None else (lambda model: model)
        students.append(comparison.Student(name, make, lambda _: [Term(KLDivergence())], **options))
    comparison.compare("Title", "Description.", data.digits(), network, students, keep="third")
    weights = {
        student.name: keras.saving.load_model(tmp_path / "students" / f"{student.name}_0.keras").get_weights()
        for student in students
    }
    for name, added in (("first", 0), ("second", 1), ("third", 2), ("other", 1)):
        for weight, initial in zip(weights[name], weights["baseline"], strict=True):
            np.testing.assert_allclose(weight, initial + added, rtol=1e-6, atol=1e-6)
