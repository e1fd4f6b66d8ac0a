"""`DistillationHyperModel`: students, teachers and compile arguments of the trials of a search."""

import os

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Term
from keras_distill.cache import label, open_cache
from keras_distill.losses import Hint, KLDivergence
from keras_distill.teachers import Ensemble
from keras_distill.tuning import GridSearch, spaces
from tests.support.helpers import Counter, assert_same_weights, crossentropy, data, mlp, weights_of
from tests.support.searches import TRAIN, hypermodel, random_search, search, splits_of, states, trials


def file_size(path):
    return os.path.getsize(path)


def test_teacher_is_neither_saved_nor_changed(tmp_path):
    teacher = mlp(4000, name="teacher")
    before = weights_of(teacher)
    model = hypermodel(teacher=teacher)
    tuner = search(random_search(model, tmp_path))
    assert tuner.hypermodel is model and model.teacher is teacher
    assert tuner.get_best_models()[0].teacher.model is teacher
    assert_same_weights(weights_of(teacher), before, rtol=0, atol=0)
    # The same student without a teacher, with its optimizer.
    baseline = mlp()
    baseline.compile(keras.optimizers.Adam(0.05), crossentropy(), metrics=["accuracy"])
    baseline.fit(*splits_of()[0], verbose=0)
    baseline.save_weights(tmp_path / "baseline.weights.h5")
    checkpoints = list(tmp_path.rglob("checkpoint.weights.h5"))
    assert len(checkpoints) == 2
    baseline_shapes = {weight.shape for weight in baseline.weights}
    for path in checkpoints:
        assert file_size(path) < file_size(tmp_path / "baseline.weights.h5") + 8_000
        shapes = []
        with h5py.File(path) as file:
            file.visititems(lambda _, item, to=shapes: to.append(getattr(item, "shape", ())))
        assert {shape for shape in shapes if len(shape) > 1} == {shape for shape in baseline_shapes if len(shape) > 1}
    other_files = [path for path in (tmp_path / "search").rglob("*") if path.is_file() and path not in checkpoints]
    assert sum(map(file_size, other_files)) < 8_000 * len(checkpoints)


def cached_teacher(folder, teacher):
    x, _ = data(TRAIN + 16)
    label(teacher, x, folder, taps=("output", "features"), verbose=0)
    return open_cache(folder)


def test_cached_teacher_outputs_are_reused_by_every_trial(tmp_path):
    teacher = keras.Sequential([keras.Input((8,)), Counter(name="counter"), *mlp(16).layers], name="teacher")
    stored = cached_teacher(tmp_path / "cache", teacher)
    count_after_labeling = teacher.get_layer("counter").counted()
    tuner = search(random_search(hypermodel(teacher=stored.teacher), tmp_path), splits_of(stored))
    assert states(tuner) == ["COMPLETED"] * 2
    assert teacher.get_layer("counter").counted() == count_after_labeling


def test_best_models_with_different_taps_of_one_teacher(tmp_path):
    x, _ = data(TRAIN + 16)
    stored = cached_teacher(tmp_path / "cache", mlp(16))
    cases = {
        "cached": (stored.teacher, splits_of(stored)),
        "ensemble": (Ensemble({"one": mlp(16, name="one"), "two": mlp(16, name="two")}), splits_of()),
    }
    for name, (teacher, splits) in cases.items():
        tap = "features" if name == "cached" else "one/features"

        def terms(hp, tap=tap):
            hint = [Term(Hint(), "features", tap, head="auto")]
            return [Term(KLDivergence()), *(hint if hp.Boolean("hint") else [])]

        model = hypermodel(teacher=teacher, terms=terms, supervised_weight=1.0)
        tuner = search(GridSearch(model, "val_accuracy", directory=tmp_path, project_name=name), splits)
        models = tuner.get_best_models(2)
        assert [len(best.terms) for best in models] in ([1, 2], [2, 1])
        for best, trial in zip(models, tuner.oracle.get_best_trials(2)):
            results = best.evaluate(*splits[1], verbose=0, return_dict=True)
            np.testing.assert_allclose(results["accuracy"], trial.score, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"student": lambda hp: None},
            "must be a function of `hp` that returns a new keras.Model.*Received for {}: None",
        ),
        ({"student": "mlp"}, "must be a function of `hp` that returns a new keras.Model.*Received for {}: 'mlp'"),
        ({"teacher": mlp(classes=5, name="teacher")}, "compares 3 student classes with 5 teacher classes"),
        ({"terms": lambda hp: []}, "`terms` is empty"),
        ({"terms": lambda hp: [Term(Hint(), "featurs", "features")]}, "Closest: .'features'"),
        ({"supervised_weight": -1.0}, "supervised_weight"),
    ],
)
@pytest.mark.filterwarnings("ignore:Trial ")
def test_inconsistent_arguments_raise_before_the_search(options, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        random_search(hypermodel(**options), tmp_path)


def test_student_with_trained_weights_raises(tmp_path):
    trained, backbone = mlp(), keras.layers.Dense(4, name="backbone")
    sharing = {
        "the same": lambda hp: trained,
        "the same layer": lambda hp: keras.Sequential([keras.Input((8,)), backbone, keras.layers.Dense(3)]),
    }
    for name, student in sharing.items():
        tuner = random_search(hypermodel(student=student), tmp_path / name)
        with pytest.raises(ValueError, match="weights of the previous trial, which are already trained"):
            search(tuner)
    # Frozen layers may be shared between trials, to hold them in memory once.
    backbone.trainable = False
    assert states(search(random_search(hypermodel(student=sharing["the same layer"]), tmp_path))) == ["COMPLETED"] * 2


@pytest.mark.parametrize("options", [{"optimizer": "sgd"}, {"loss": "mse"}, {"metrics": ["mse"]}])
@pytest.mark.filterwarnings("ignore:The loss 'mse'")
def test_compile_arguments_of_the_tuner_raise(options, tmp_path):
    tuner = random_search(hypermodel(), tmp_path, **options)
    with pytest.raises(ValueError, match=rf"Pass \['{next(iter(options))}'\] to the DistillationHyperModel"):
        search(tuner)


def test_optimizer_and_metric_objects_are_copied(tmp_path):
    optimizer = keras.optimizers.Adam(0.05)
    metric = keras.metrics.SparseCategoricalAccuracy("accuracy")
    tuner = search(random_search(hypermodel(optimizer=optimizer, metrics=[metric]), tmp_path))
    first, second = tuner.get_best_models(2)
    assert optimizer not in (first.optimizer, second.optimizer) and first.optimizer is not second.optimizer
    assert not optimizer.built and not np.any([np.array(variable) for variable in metric.variables])


def test_student_without_a_teacher(tmp_path):
    tuner = search(random_search(hypermodel(teacher=None, terms=[], optimizer=spaces.optimizer), tmp_path))
    assert states(tuner) == ["COMPLETED"] * 2


@pytest.mark.replicas
def test_trials_under_a_distribution_strategy(tmp_path):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())

    def student(hp):
        keras.utils.set_random_seed(0)
        return mlp()

    stored = cached_teacher(tmp_path / "cache", mlp(16, name="teacher"))
    scores = {}
    for name, options in {"one": {}, "two": {"distribution_strategy": strategy}}.items():
        model = hypermodel(student=student, teacher=stored.teacher)
        tuner = search(random_search(model, tmp_path / name, **options), splits_of(stored), shuffle=False)
        scores[name] = [trial.metrics.get_best_value("val_loss") for trial in trials(tuner)]
        best = tuner.get_best_models()[0]
        results = best.evaluate(*splits_of(stored)[1], verbose=0, return_dict=True)
        np.testing.assert_allclose(results["accuracy"], tuner.oracle.get_best_trials()[0].score, rtol=1e-5)
    np.testing.assert_allclose(scores["two"], scores["one"], rtol=1e-5)
    # An online teacher and the tuner are created in the scope of the strategy.
    with strategy.scope():
        model = hypermodel(student=student, teacher=mlp(16, name="teacher"))
        tuner = random_search(model, tmp_path / "online", distribution_strategy=strategy)
    assert states(search(tuner)) == ["COMPLETED"] * 2
