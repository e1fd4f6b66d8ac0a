"""Hyperparameter searches with KerasTuner: oracles, resumed searches, budgets, warnings and errors."""

import gc
import itertools
import json
import math
import os

import h5py
import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Term, mapping
from keras_distill.cache import label, open_cache
from keras_distill.losses import Hint, KLDivergence
from keras_distill.teachers import Ensemble
from keras_distill.tuning import Budget, DistillationHyperModel, GridSearch, spaces
from keras_distill.tuning.budget import WorsenObjective
from tests.support.helpers import Counter, assert_same_weights, crossentropy, data, mlp, weights_of

Objective = keras_tuner.Objective
BATCH, TRAIN = 8, 16
STEPS = TRAIN // BATCH


@pytest.fixture(autouse=True, scope="module")
def freeze_garbage_collection():
    """Exclude existing objects from garbage collection, which KerasTuner runs before every trial."""
    gc.freeze()
    yield
    gc.unfreeze()


def logit_terms(hp):
    return [Term(KLDivergence(spaces.temperature(hp)), weight=1 - spaces.alpha(hp))]


def hypermodel(**options):
    defaults = {
        "student": lambda hp: mlp(),
        "teacher": mlp(16, name="teacher"),
        "terms": logit_terms,
        "supervised_weight": spaces.alpha,
        "optimizer": lambda hp: keras.optimizers.Adam(0.05),
        "loss": crossentropy(),
        "metrics": ["accuracy"],
        # Graph tracing takes longer than these few steps.
        "run_eagerly": True,
    }
    return DistillationHyperModel(**defaults | options)


def splits_of(teacher=None):
    """Return training and validation data, joined with the outputs of a cached teacher if there is one."""
    x, y = data(TRAIN + 16)
    x = x if teacher is None else teacher.load(x)
    cuts = slice(TRAIN), slice(TRAIN, None)
    return tuple((keras.tree.map_structure(lambda array, cut=cut: array[cut], x), y[cut]) for cut in cuts)


def search(tuner, splits=None, epochs=1, **options):
    train, validation = splits or splits_of()
    tuner.search(*train, validation_data=validation, epochs=epochs, batch_size=BATCH, verbose=0, **options)
    return tuner


def random_search(model, folder, trials=2, objective="val_accuracy", **options):
    return keras_tuner.RandomSearch(
        model, objective, max_trials=trials, seed=0, directory=folder, project_name="search", **options
    )


def grid_terms(hp):
    """Return terms of a search space with four combinations."""
    temperature, weight = hp.Choice("temperature", [1.0, 4.0]), hp.Choice("weight", [0.5, 1.0])
    return [Term(KLDivergence(temperature), weight=weight)]


def trials(tuner):
    return list(tuner.oracle.trials.values())


def states(tuner):
    return [trial.status for trial in trials(tuner)]


class RecordTrainings(keras.callbacks.Callback):
    """Record temperature, weight and step of every training, and interrupt the search at the n-th training."""

    def __init__(self, path, interrupt_at=None):
        super().__init__()
        self.path, self.interrupt_at = str(path), interrupt_at

    def on_train_begin(self, logs=None):
        (term,) = self.model.terms
        record(self.path, term.loss.temperature, term.weight, int(self.model.optimizer.iterations))
        if len(read_records(self.path)) == self.interrupt_at:
            # KerasTuner counts an Exception as a failed trial, but not a KeyboardInterrupt.
            raise KeyboardInterrupt


def record(path, *values):
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")


def read_records(path):
    with open(path) as file:
        return [tuple(json.loads(line)) for line in file]


TUNERS = {
    "random": (keras_tuner.RandomSearch, {"max_trials": 3}),
    "hyperband": (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
    "bayesian": (keras_tuner.BayesianOptimization, {"max_trials": 4, "num_initial_points": 2}),
    "grid": (GridSearch, {}),
}


@pytest.fixture(scope="module", params=TUNERS)
def resumed(request, tmp_path_factory):
    """Resume a search after an interruption in its second trial; return its kind, tuner, function and log file."""
    folder = tmp_path_factory.mktemp("resumed")
    kind, options = TUNERS[request.param]
    model = hypermodel(terms=grid_terms, supervised_weight=1.0)

    def run_search(interrupt_at=None):
        tuner = kind(model, "val_loss", seed=0, directory=folder, project_name="search", **options)
        return search(tuner, epochs=2, callbacks=[RecordTrainings(folder / "log", interrupt_at)])

    with pytest.raises(KeyboardInterrupt):
        run_search(interrupt_at=2)
    return request.param, run_search(), run_search, folder / "log"


def test_best_student_of_every_tuner(resumed, tmp_path, capsys):
    _, tuner, _, _ = resumed
    assert set(states(tuner)) == {"COMPLETED"} and len(trials(tuner)) >= 3
    (trial,), (best,) = tuner.oracle.get_best_trials(), tuner.get_best_models()
    assert trial.score == min(other.score for other in trials(tuner))
    results = best.evaluate(*splits_of()[1], verbose=0, return_dict=True)
    np.testing.assert_allclose(results["loss"], trial.score, rtol=1e-5)
    best.student.save(tmp_path / "student.keras")
    assert_same_weights(weights_of(keras.saving.load_model(tmp_path / "student.keras")), weights_of(best.student))
    tuner.results_summary()
    assert "temperature" in capsys.readouterr().out


def test_resumed_search_skips_finished_trials(resumed):
    kind, tuner, run_search, log = resumed
    trained = read_records(log)
    # Only the interrupted trial was trained again.
    assert trained[1] == trained[2] and len(trained) == len(trials(tuner)) + 1
    if kind == "grid":
        choices = [trained[0][:2], *(values[:2] for values in trained[2:])]
        assert sorted(choices) == sorted(itertools.product([1.0, 4.0], [0.5, 1.0]))
    second_tuner = run_search()
    assert len(read_records(log)) == len(trained)
    first, second = (searched.get_best_models()[0].student for searched in (tuner, second_tuner))
    assert_same_weights(weights_of(first), weights_of(second))


def test_hyperband_restores_the_optimizer_state(resumed):
    kind, tuner, _, log = resumed
    promoted = [trial for trial in trials(tuner) if "tuner/trial_id" in trial.hyperparameters.values]
    assert bool(promoted) == (kind == "hyperband")
    for trial in promoted:
        parent = tuner.oracle.get_trial(trial.hyperparameters.values["tuner/trial_id"])
        # The log also has the interrupted training.
        assert read_records(log)[int(trial.trial_id) + 1][2] == STEPS * (parent.best_step + 1)
        built, loaded = tuner._build_hypermodel(trial.hyperparameters), tuner.load_model(parent)
        assert_same_weights(weights_of(built), weights_of(loaded), rtol=0, atol=0)
        for one, other in zip(built.optimizer.variables, loaded.optimizer.variables, strict=True):
            np.testing.assert_array_equal(one, other)
        # The moments of Adam are restored, not only the step.
        assert all(np.any(np.array(moment)) for moment in built.optimizer.variables[2:])


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


def test_several_executions_are_averaged(tmp_path):
    log = tmp_path / "log"
    scores = []

    class Recording(keras_tuner.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            histories = super().run_trial(trial, *args, **kwargs)
            scores.append([min(history.history["val_loss"]) for history in histories])
            return histories

    model = hypermodel(terms=grid_terms, supervised_weight=1.0)
    tuner = Recording(model, "val_loss", max_trials=1, executions_per_trial=2, seed=0, directory=tmp_path)
    search(tuner, callbacks=[RecordTrainings(log)])
    first, second = read_records(log)
    assert first == second
    (trial,), (both,) = trials(tuner), scores
    assert both[0] != both[1]
    np.testing.assert_allclose(trial.score, np.mean(both), rtol=1e-6)


@pytest.mark.parametrize(("direction", "best"), [("min", min), ("max", max)])
def test_objective_with_minimum_or_maximum(direction, best, tmp_path):
    objective = Objective("val_kl_divergence_loss", direction)
    tuner = search(random_search(hypermodel(), tmp_path, objective=objective))
    scores = [trial.score for trial in trials(tuner)]
    assert len(set(scores)) == 2
    assert tuner.oracle.get_best_trials()[0].score == best(scores)


def test_several_objectives(tmp_path):
    objectives = [Objective("val_accuracy", "max"), Objective("val_kl_divergence_loss", "min")]
    tuner = search(random_search(hypermodel(), tmp_path, objective=objectives))
    for trial in trials(tuner):
        accuracy, loss = (trial.metrics.get_best_value(objective.name) for objective in objectives)
        np.testing.assert_allclose(trial.score, loss - accuracy, rtol=1e-5)


def student_with_counter(hp):
    return keras.Sequential([keras.Input((8,)), Counter(name="counter"), *mlp().layers], name="student")


class StepCounter(keras.callbacks.Callback):
    count = 0

    def on_train_batch_end(self, batch, logs=None):
        StepCounter.count += 1


@pytest.mark.parametrize(("callbacks", "steps"), [([], 1), ([StepCounter()], STEPS)])
def test_objective_that_is_not_logged_raises_early(callbacks, steps, tmp_path):
    students = []

    def student(hp):
        students.append(student_with_counter(hp))
        return students[-1]

    tuner = random_search(hypermodel(student=student), tmp_path, objective=Objective("val_acuracy", "max"))
    with pytest.raises(
        ValueError, match=r"val_acuracy.* is not logged by any metric or callback. Available: .*\'val_accuracy\'"
    ):
        search(tuner, callbacks=callbacks)
    assert students[-1].get_layer("counter").counted()[0] == steps


def test_objective_without_validation_data_raises(tmp_path):
    tuner = random_search(hypermodel(), tmp_path)
    with pytest.raises(ValueError, match="val_accuracy.*There are no validation data"):
        tuner.search(*splits_of()[0], epochs=1, verbose=0)


class LogsObjective(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["own"] = 1.0 - epoch


def test_objective_logged_by_a_callback(tmp_path):
    tuner = random_search(hypermodel(), tmp_path, objective=Objective("own", "max"))
    search(tuner, callbacks=[LogsObjective()])
    assert [trial.score for trial in trials(tuner)] == [1.0] * 2


def test_failed_trial_warns(tmp_path):
    def student(hp):
        return mlp(classes=3 if hp.Choice("classes", [3, 5]) == 3 else 5)

    model = hypermodel(student=student, terms=[Term(KLDivergence())], supervised_weight=1.0)
    tuner = GridSearch(model, "val_loss", directory=tmp_path)
    with pytest.warns(UserWarning, match=r"Trial \{'classes': 5\} failed.*compares 5 student classes with 3"):
        search(tuner)
    assert sorted(states(tuner)) == ["COMPLETED", "FAILED"]


def test_diverged_trial_warns(tmp_path):
    def optimizer(hp):
        return keras.optimizers.SGD(hp.Choice("rate", [0.1, 1e30]))

    model = hypermodel(terms=[Term(KLDivergence())], supervised_weight=1.0, optimizer=optimizer)
    with pytest.warns(
        UserWarning, match=r"'rate': 1e\+30.*val_loss.* is NaN after the first epoch of the trial .epoch 1."
    ):
        tuner = search(GridSearch(model, "val_loss", directory=tmp_path))
    assert sorted(states(tuner)) == ["COMPLETED", "FAILED"]


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


def student_of_variable_width(hp):
    return mlp(spaces.width(hp, 4, 64))


# The two layers have 8 * width + width and 3 * width + 3 weights.
PARAMETERS = {width: 12 * width + 3 for width in (4, 8, 16, 32, 64)}


def budgeted(budget, **options):
    options = {
        "student": student_of_variable_width,
        "terms": [Term(KLDivergence())],
        "supervised_weight": 1.0,
    } | options
    return hypermodel(budget=budget, **options)


def test_students_over_the_budget_warn_and_are_not_trained(tmp_path):
    log = tmp_path / "log"
    model = budgeted(Budget(parameters=100, megabytes=399e-6))
    with pytest.warns(UserWarning, match="not trained: 195 parameters of 100; 0.00078 megabytes of 0.000399"):
        tuner = search(GridSearch(model, "val_accuracy", directory=tmp_path), callbacks=[RecordSteps(log)])
    for trial in trials(tuner):
        width = trial.hyperparameters.values["width"]
        assert trial.metrics.get_best_value("parameters") == PARAMETERS[width]
        np.testing.assert_allclose(trial.metrics.get_best_value("megabytes"), 4e-6 * PARAMETERS[width])
        assert trial.metrics.get_best_value("over_budget") == (width > 8)
    # 8 units have 99 parameters. Three consecutive students over the budget do not count as failed trials.
    assert states(tuner) == ["COMPLETED"] * 5
    assert read_records(log) == [(4, STEPS), (8, STEPS), (16, 0), (32, 0), (64, 0)]
    assert tuner.get_best_models()[0].student.count_params() <= 100


class RecordSteps(keras.callbacks.Callback):
    """Record the width of each student and its number of training steps."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)

    def on_train_end(self, logs=None):
        record(self.path, self.model.student.get_layer("features").units, int(self.model.optimizer.iterations))


def test_hyperband_promotes_students_within_the_budget(tmp_path):
    model = budgeted(Budget(parameters=100), terms=logit_terms, supervised_weight=spaces.alpha)
    tuner = keras_tuner.Hyperband(model, "val_accuracy", max_epochs=2, factor=2, seed=1, directory=tmp_path)
    with pytest.warns(UserWarning, match="over the budget"):
        search(tuner)
    assert set(states(tuner)) == {"COMPLETED"}
    assert any(trial.metrics.get_best_value("over_budget") for trial in trials(tuner))
    assert tuner.get_best_models()[0].student.count_params() <= 100


@pytest.mark.parametrize("kind", ["arrays", "split", "datasets", "keywords", "none"])
def test_student_over_the_budget_is_evaluated_on_the_data_of_fit(kind, tmp_path):
    (x, y), (x_validation, y_validation) = splits_of()

    def dataset(*arrays):
        return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)

    arguments, options = {
        "arrays": ((x, y), {"validation_data": (x_validation, y_validation)}),
        "split": ((x, y), {"validation_split": 0.25}),
        "datasets": (
            (dataset(x, y).repeat(),),
            {"validation_data": dataset(x_validation, y_validation), "steps_per_epoch": STEPS},
        ),
        "keywords": ((), {"x": x, "y": y, "validation_data": (x_validation, y_validation, np.ones(16))}),
        "none": ((x, y), {}),
    }[kind]
    objective = "accuracy" if kind == "none" else "val_accuracy"
    tuner = random_search(budgeted(Budget(parameters=1)), tmp_path, 1, objective)
    with pytest.warns(UserWarning, match="over the budget"):
        tuner.search(*arguments, epochs=3, verbose=0, **options)
    (trial,), (best,) = trials(tuner), tuner.get_best_models()
    evaluated_on = (x, y) if kind in ("split", "none") else (x_validation, y_validation)
    results = best.evaluate(*evaluated_on, verbose=0, return_dict=True)
    # The score is worse than that of any trained student.
    np.testing.assert_allclose(-1, trial.score, rtol=1e-5)
    loss = trial.metrics.get_best_value("loss" if kind == "none" else "val_loss")
    np.testing.assert_allclose(results["loss"], loss, rtol=1e-5)


def test_objectives_over_the_budget_are_worsened():
    several = keras_tuner.oracles.RandomSearchOracle(["val_accuracy", "val_loss"]).objective
    for objective in (several, *several.objectives):
        logs = {"val_accuracy": 0.4, "val_loss": 2.0, "other": 1.0}
        objective_names = {single.name for single in getattr(objective, "objectives", [objective])}
        WorsenObjective(objective).on_epoch_end(0, logs)
        expected = {"val_accuracy": -1.0, "val_loss": 5.0}
        for name, value in {"val_accuracy": 0.4, "val_loss": 2.0, "other": 1.0}.items():
            assert logs[name] == pytest.approx(expected[name] if name in objective_names else value)


def test_cost_as_objective(tmp_path):
    model = budgeted(Budget(parameters=math.inf))
    tuner = search(random_search(model, tmp_path, objective=Objective("parameters", "min")))
    counts = [PARAMETERS[trial.hyperparameters.values["width"]] for trial in trials(tuner)]
    assert len(set(counts)) == 2
    assert tuner.get_best_models()[0].student.count_params() == min(counts)


def test_latency_is_measured():
    budget = Budget(milliseconds=1e-6)
    costs = budget.costs(mlp())
    assert list(costs) == ["milliseconds"] and 0 < costs["milliseconds"] < 1000
    assert "milliseconds of 1e-06" in budget.excess(costs)[0]
    assert not Budget(milliseconds=math.inf).excess(costs)
    open_ended = keras.Sequential([keras.Input((None, 8)), keras.layers.GlobalAveragePooling1D()], name="open")
    with pytest.raises(ValueError, match="latency of 'open' depends on the length of its inputs"):
        budget.costs(open_ended)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs at least one limit"),
        ({"parameters": 0}, "`parameters` must be a finite number > 0. Received: 0"),
        ({"milliseconds": math.nan}, "`milliseconds` must be a finite number > 0. Received: nan"),
        ({"parameters": 1, "batch_size": 0}, "`batch_size` must be an integer >= 1. Received: 0"),
    ],
)
def test_inconsistent_budgets_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def samples(space, count=200):
    """Return values of a search space, sampled by KerasTuner."""
    values = []
    for seed in range(count):
        hp = keras_tuner.HyperParameters()
        space(hp)
        for parameter in hp.space:
            if hp.is_active(parameter):
                hp.values[parameter.name] = parameter.random_sample(seed)
        values.append(space(hp))
        assert space(hp) == values[-1]
    return values


def test_numeric_spaces():
    temperatures = np.array(samples(spaces.temperature))
    assert temperatures.min() >= 1 and temperatures.max() <= 16
    # About half of the values are below the geometric mean.
    assert 60 < (temperatures < 4).sum() < 140
    alphas = np.array(samples(spaces.alpha))
    assert alphas.min() >= 0 and alphas.max() <= 0.9 and 60 < (alphas < 0.45).sum() < 140
    weights = np.array(samples(lambda hp: spaces.weight(hp, "hint", 50.0)))
    assert weights.min() >= 5 and weights.max() <= 500 and 60 < (weights < 50).sum() < 140
    assert set(samples(lambda hp: spaces.width(hp, 8, 64))) == {8, 16, 32, 64}
    assert set(samples(lambda hp: spaces.depth(hp, 2, 4))) == {2, 3, 4}


def test_default_hyperparameters():
    hp = keras_tuner.HyperParameters()
    assert (spaces.temperature(hp), spaces.alpha(hp), spaces.weight(hp, "hint", 50.0)) == (4.0, 0.1, 50.0)
    assert set(hp.values) == {"temperature", "alpha", "hint_weight"}
    assert spaces.layer_pairs(hp, ["a"], ["b", "c"]) == [("a", "c")]


def test_layer_pairs():
    def pairs(name, students, teachers):
        hp = keras_tuner.HyperParameters()
        hp.values["layer_pairs"] = name
        return spaces.layer_pairs(hp, list(students), list(teachers))

    assert pairs("uniform", "ab", "1234") == mapping.uniform(["a", "b"], ["1", "2", "3", "4"])
    # Layer i of 3 is paired with layer i * 4 / 3, rounded up: 1.33, 2.67 and 4.
    assert pairs("uniform", "abc", "1234") == [("a", "2"), ("b", "3"), ("c", "4")]
    assert pairs("last", "ab", "1234") == [("a", "3"), ("b", "4")]
    assert pairs("first", "ab", "1234") == [("a", "1"), ("b", "2")]
    assert pairs("final", "ab", "1234") == [("b", "4")]
    with pytest.raises(ValueError, match="Received: 3 student layers, 2 teacher layers"):
        pairs("uniform", "abc", "12")


def test_learning_rates_of_each_optimizer():
    kinds = {}
    for optimizer in optimizer_samples(steps=None):
        kinds.setdefault(type(optimizer), []).append(float(optimizer.learning_rate))
    assert set(kinds) == {keras.optimizers.Adam, keras.optimizers.SGD}
    adam, sgd = (kinds[kind] for kind in (keras.optimizers.Adam, keras.optimizers.SGD))
    assert min(adam) >= 1e-4 and max(adam) <= 1e-2 <= min(sgd) and max(sgd) <= 1
    for optimizer in optimizer_samples(steps=10, count=5):
        optimizer.iterations.assign(10)
        assert float(optimizer.learning_rate) == 0


def optimizer_samples(steps, count=40):
    optimizers = []
    for seed in range(count):
        hp = keras_tuner.HyperParameters()
        hp.values["optimizer"] = ("adam", "sgd")[seed % 2]
        spaces.optimizer(hp)
        for parameter in hp.space[1:]:
            if hp.is_active(parameter):
                hp.values[parameter.name] = parameter.random_sample(seed)
        optimizers.append(spaces.optimizer(hp, steps))
    return optimizers


def student_of_variable_depth(hp):
    layers = [keras.layers.Dense(8, activation="relu", name=f"block_{n}") for n in range(spaces.depth(hp, 1, 2))]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)], name="student")


def test_width_depth_layers_and_optimizer_in_one_search(tmp_path):
    blocks = [keras.layers.Dense(6, activation="relu", name=f"block_{number}") for number in range(3)]
    teacher = keras.Sequential([keras.Input((8,)), *blocks, keras.layers.Dense(3)], name="teacher")

    def terms(hp):
        student_layers = [f"block_{number}" for number in range(spaces.depth(hp, 1, 2))]
        pairs = spaces.layer_pairs(hp, student_layers, mapping.layers(teacher, "block_*"))
        hints = [Term(Hint(), s, t, head="auto", weight=spaces.weight(hp, "hint", 0.1)) for s, t in pairs]
        return [*logit_terms(hp), *hints]

    model = hypermodel(student=student_of_variable_depth, teacher=teacher, terms=terms, optimizer=spaces.optimizer)
    tuner = search(random_search(model, tmp_path, 4))
    assert states(tuner) == ["COMPLETED"] * 4
    assert {len(model.student.layers) for model in tuner.get_best_models(4)} == {2, 3}


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


def test_private_names_of_keras_tuner_exist():
    from keras_tuner.src.engine import tuner_utils

    assert {"tuner", "trial"} <= set(vars(tuner_utils.TunerCallback("tuner", "trial")))
    oracle = keras_tuner.oracles.GridSearchOracle()
    assert {"_ordered_ids", "_populate_next"} <= set(vars(oracle)) and callable(oracle._compare)
