"""Saving a distiller, loading it, and resuming its training."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_distill import Distiller, Term, load_distiller
from keras_distill.heads import Projection
from keras_distill.losses import Hint, KLDivergence
from keras_distill.schedules import CosineDecay
from tests.support.helpers import assert_same_weights, compiled, data, fitted, mlp, weights_of

pytestmark = [pytest.mark.processes, pytest.mark.everyday]


def student():
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, activation="relu", name="features"),
            keras.layers.Dropout(0.4),
            keras.layers.Dense(3),
        ],
        name="student",
    )


def distiller(teacher):
    terms = [
        Term(KLDivergence(CosineDecay(6.0, 1.0, 20)), weight=CosineDecay(1.0, 0.1, 20)),
        Term(Hint(), "features", "features", head=Projection(use_bias=False)),
    ]
    return compiled(
        Distiller(student=student(), teacher=teacher, terms=terms, supervised_weight=CosineDecay(0.2, 1.0, 20)),
        keras.optimizers.Adam(0.01),
    )


def test_load_model_names_load_distiller(tmp_path):
    distiller(mlp(16, name="teacher")).save(tmp_path / "d.keras")
    with pytest.raises(ValueError, match=r"Load it with keras_distill.load_distiller\(path, teacher=...\)"):
        keras.saving.load_model(tmp_path / "d.keras")


def test_load_distiller_of_another_model_raises(tmp_path):
    mlp().save(tmp_path / "student.keras")
    with pytest.raises(
        ValueError, match="contains a Sequential, not a Distiller. Load it with `keras.saving.load_model"
    ):
        load_distiller(tmp_path / "student.keras", mlp(name="teacher"))


def test_load_distiller_checks_the_teacher(tmp_path):
    distiller(mlp(16, name="teacher")).save(tmp_path / "d.keras")
    with pytest.raises(ValueError, match="3 student classes with 4 teacher classes"):
        load_distiller(tmp_path / "d.keras", mlp(16, classes=4, name="teacher"))


def test_the_file_contains_the_whole_state(tmp_path):
    teacher = mlp(16, name="teacher")
    first = distiller(teacher)
    fitted(first, *data())
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    for part in ("student", "optimizer"):
        pairs = zip(getattr(first, part).variables, getattr(second, part).variables, strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)
    assert_same_weights(weights_of(first.heads[0]), weights_of(second.heads[0]), rtol=0, atol=0)
    for key in ("weight", "student", "teacher", "name"):
        assert [term.get_config()[key] for term in second.terms] == [term.get_config()[key] for term in first.terms]
    assert second.get_config()["supervised_weight"] == first.get_config()["supervised_weight"]


def test_an_uncompiled_distiller(tmp_path):
    teacher = mlp(16, name="teacher")
    terms = [Term(Hint(), "features", "features", head="auto")]
    first = Distiller(student=student(), teacher=teacher, terms=terms)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    assert_same_weights(weights_of(first), weights_of(second), rtol=0, atol=0)
    assert not second.compiled


def test_weights_only(tmp_path):
    teacher = mlp(16, name="teacher")
    first, second = distiller(teacher), distiller(teacher)
    fitted(first, *data())
    first.save_weights(tmp_path / "d.weights.h5")
    second.load_weights(tmp_path / "d.weights.h5")
    assert fitted(first, *data()) == fitted(second, *data())


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, width=4, **options):
        super().__init__(**options)
        self.hidden, self.top = keras.layers.Dense(width, name="hidden"), keras.layers.Dense(3)

    def call(self, inputs):
        return self.top(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "width": self.hidden.units}


def test_a_subclassed_student(tmp_path):
    teacher, (x, y) = Subclassed(16, name="teacher"), data()
    first = compiled(
        Distiller(
            student=Subclassed(name="student"),
            teacher=teacher,
            terms=[Term(Hint(), "hidden", "hidden", "auto")],
            inputs=x,
        )
    )
    fitted(first, x, y)
    first.save(tmp_path / "d.keras")
    second = load_distiller(tmp_path / "d.keras", teacher)
    assert fitted(first, x, y) == fitted(second, x, y)


def test_a_saved_student_loads_without_keras_distill(tmp_path):
    code = f"""
import sys, keras, numpy
loaded = keras.saving.load_model({str(tmp_path / "student.keras")!r})
assert "keras_distill" not in sys.modules
numpy.save({str(tmp_path / "out.npy")!r}, loaded.predict(numpy.ones((2, 8), "float32"), verbose=0))
"""
    first = distiller(mlp(16, name="teacher"))
    fitted(first, *data())
    first.student.save(tmp_path / "student.keras")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), first.predict(np.ones((2, 8)), verbose=0), rtol=1e-6)


KILLED = """
import os, signal, sys
import keras
sys.path[:0] = {path!r}
from tests.support.helpers import data, fitted, mlp
from test_load import distiller

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

keras.utils.set_random_seed(0)
trained = distiller(mlp(16, name="teacher"))
fitted(trained, *data(), epochs=5, callbacks=[keras.callbacks.BackupAndRestore(sys.argv[2]), Kill()])
trained.student.save_weights(sys.argv[3])
"""


def test_a_run_that_keras_resumes_equals_an_uninterrupted_run(tmp_path):
    def run(kill_at, backup, out):
        code = KILLED.format(path=[os.path.dirname(os.path.dirname(__file__)), os.path.dirname(__file__)])
        command = [
            sys.executable,
            "-c",
            code,
            str(kill_at),
            str(tmp_path / backup),
            str(tmp_path / f"{out}.weights.h5"),
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert run(-1, "uninterrupted", "uninterrupted") == 0
    assert run(3, "killed", "killed") == -signal.SIGKILL
    assert run(-1, "killed", "killed") == 0
    results = []
    for name in ("uninterrupted", "killed"):
        model = student()
        model.load_weights(tmp_path / f"{name}.weights.h5")
        results.append(weights_of(model))
    assert_same_weights(*results, rtol=0, atol=0)


def test_checkpoints_of_the_best_epoch(tmp_path):
    teacher, (x, y) = mlp(16, name="teacher"), data()
    trained = distiller(teacher)
    path = str(tmp_path / "best.keras")
    best = keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True)
    history = fitted(trained, x, y, epochs=3, validation_data=(x, y), callbacks=[best])
    found = load_distiller(path, teacher).evaluate(x, y, verbose=0, return_dict=True)
    assert found["supervised_loss"] in [pytest.approx(value, rel=1e-5) for value in history["val_supervised_loss"]]
