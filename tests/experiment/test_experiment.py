"""Experiments from end to end, on small models."""

import csv
import dataclasses
import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Confidence, Distiller, Term
from keras_distill.callbacks import NonFiniteError
from keras_distill.experiment import (
    Arm,
    Classification,
    Data,
    Experiment,
    MultiLabelClassification,
    Regression,
    Results,
    Segmentation,
    TunedArm,
    tuned_objective,
)
from keras_distill.losses import Hint, KLDivergence
from keras_distill.teachers import CachedTeacher, Ensemble, NumPyTeacher
from tests.support.helpers import assert_same_weights, data, mlp, weights_of

TERM = Term(KLDivergence(2.0), weight=0.7)


def student():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, "relu", name="hidden"), keras.layers.Dense(3)])


def teacher():
    keras.utils.set_random_seed(7)
    return mlp(16, name="teacher")


def arms(**changes):
    options = {"epochs": 2, "batch_size": 16, **changes}
    return [Arm("baseline", student, **options), Arm("distilled", student, [TERM], 0.3, **options)]


def experiment(arms_=None, task=None, splits=None, **options):
    splits = splits or Data(data(40), test=data(24), validation=0.25)
    options = {"teacher": teacher(), "seeds": 2, **options}
    return Experiment(task or Classification(), splits, arms=arms() if arms_ is None else arms_, **options)


@pytest.fixture(autouse=True)
def fast(monkeypatch, request):
    """Leave out the page and the pre-flight check, which take seconds and are tested elsewhere."""
    monkeypatch.setattr("keras_distill.report.page.write_page", lambda results, path: path.write_text("page"))
    if request.node.name != "test_findings":
        monkeypatch.setattr("keras_distill.experiment.diagnostics.check", lambda *arguments: [])


def trained(folder, name, seed=0):
    (path,) = (folder / "models").glob(f"{name}_{seed}_*.keras")
    return keras.saving.load_model(path)


def test_arms_are_trained_as_by_fit(tmp_path):
    """The baseline is `student.fit` with the same seed, up to the order of the examples: one batch holds them all."""
    splits = Data(data(40), test=data(24))
    experiment(arms(batch_size=40), splits=splits, seeds=[3]).run(tmp_path)
    x, y = data(40)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for name in ("baseline", "distilled"):
        keras.utils.set_random_seed(3)
        expected = student()
        model = expected
        if name == "distilled":
            model = Distiller(student=expected, teacher=teacher(), terms=[TERM], supervised_weight=0.3)
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 2)), loss)
        model.fit(x, y, epochs=2, batch_size=40, verbose=0)
        assert_same_weights(weights_of(trained(tmp_path, name, 3)), weights_of(expected), rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_the_saved_models(tmp_path, capsys):
    results = experiment().run(tmp_path)
    x, y = data(24)
    for name in ("baseline", "distilled"):
        model = next(model for model in results.models if model.name == name)
        for run in model.runs:
            outputs = keras.saving.load_model(tmp_path / run.file).predict(x, verbose=0)
            np.testing.assert_array_equal(outputs, trained(tmp_path, name, run.seed).predict(x, verbose=0))
            assert run.score == np.mean(outputs.argmax(-1) == y)
            assert run.agreement == np.mean(outputs.argmax(-1) == teacher().predict(x, verbose=0).argmax(-1))
            assert np.sum(run.confusion) == 24
    (comparison,) = results.comparisons
    assert (comparison.model, comparison.baseline, comparison.seeds) == ("distilled", "baseline", 2)
    assert (results.split, results.num_examples, results.seeds) == ("test", 24, [0, 1])
    low, high = comparison.example_interval
    assert low <= comparison.difference <= high
    printed = capsys.readouterr().out
    assert results.text() in printed and results.verdict()[0] in printed
    lines = [line for line in printed.splitlines() if line.startswith(("baseline, seed", "distilled, seed"))]
    assert len(lines) == 4 and all("accuracy" in line and "agreement" in line for line in lines)
    assert "left" in lines[0] and "left" not in lines[-1]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [(row["model"], row["seed"], row["epoch"]) for row in rows[:3]] == [
        ("baseline", "0", "1"),
        ("baseline", "0", "2"),
        ("baseline", "1", "1"),
    ]
    assert Results.load(tmp_path / "results.json").models[1].runs == results.models[1].runs
    assert_same_weights(
        weights_of(keras.saving.load_model(tmp_path / "student.keras")), weights_of(trained(tmp_path, "distilled"))
    )


def test_arms_of_a_seed_start_from_the_same_weights(tmp_path):
    """One step of learning rate 0 leaves the initial weights."""
    frozen = [dataclasses.replace(arm, optimizer=lambda steps: keras.optimizers.SGD(0.0)) for arm in arms()]
    experiment(frozen).run(tmp_path)
    for seed in (0, 1):
        assert_same_weights(
            weights_of(trained(tmp_path, "baseline", seed)), weights_of(trained(tmp_path, "distilled", seed))
        )
    assert not np.allclose(
        weights_of(trained(tmp_path, "baseline", 0))[0], weights_of(trained(tmp_path, "baseline", 1))[0]
    )


def test_the_cache_holds_the_taps_of_weights_of_positions(tmp_path):
    # The scores are not compared by any term.
    term = Term(Hint(), "hidden", "features", head="auto", positions=Confidence("logits"))
    inputs = keras.Input((4, 8))
    features = keras.layers.Dense(5, name="features")(inputs)
    scored = keras.Model(inputs, keras.layers.Dense(3, name="logits")(features))

    def tagger():
        return keras.Sequential([keras.Input((4, 8)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(3)])

    (x, y), (x_test, y_test) = (
        (np.random.default_rng(seed).normal(size=(24, 4, 8)).astype("float32"), np.zeros((24, 4), "int64") + seed)
        for seed in (0, 1)
    )
    options = {"epochs": 1, "batch_size": 8}
    splits = Data((x, y), test=(x_test, y_test), validation=0.25)
    hinted = [Arm("distilled", tagger, [term], 0.3, **options)]
    experiment(hinted, Segmentation(), splits, teacher=scored, seeds=1, cache=True).run(tmp_path)
    assert trained(tmp_path, "distilled") is not None


def test_the_cache_gives_the_same_weights_as_the_teacher(tmp_path):
    hinted = [
        Arm("distilled", student, [TERM, Term(Hint(), "hidden", "features", head="auto")], 0.3, epochs=2, batch_size=16)
    ]
    for cache in (True, False):
        experiment(hinted, cache=cache, seeds=1).run(tmp_path / str(cache))
    folders = [tmp_path / "True", tmp_path / "False"]
    assert (folders[0] / "teacher_cache").exists() and not (folders[1] / "teacher_cache").exists()
    assert_same_weights(*(weights_of(trained(folder, "distilled")) for folder in folders), rtol=1e-2, atol=1e-3)


def test_finished_models_are_reused_only_with_the_same_settings(tmp_path, capsys):
    def reused(*args, **options):
        experiment(*args, **options).run(tmp_path)
        return capsys.readouterr().out.count("trained earlier")

    assert reused() == 0
    assert reused() == 4
    assert reused(seeds=3) == 4
    other = arms()
    other[1] = dataclasses.replace(other[1], terms=[Term(KLDivergence(3.0), weight=0.7)])
    assert reused(other) == 2
    # A function that returns something else, although its source is the same.
    width = 5

    def network():
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(width), keras.layers.Dense(3)])

    wide = [dataclasses.replace(arm, student=network) for arm in arms()]
    assert reused(wide) == 0
    width = 4
    assert reused(wide) == 0 and reused(wide) == 4
    keras.utils.set_random_seed(8)
    assert reused(teacher=mlp(16, name="teacher")) == 2
    x, y = data(40)
    assert reused(splits=Data((x, (y + 1) % 3), test=data(24), validation=0.25)) == 0


def test_an_interrupted_run_resumes_and_gives_the_same_weights(tmp_path, monkeypatch):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    options = {"seeds": 1, "arms_": arms(epochs=3)}
    with pytest.raises(KeyboardInterrupt):
        experiment(**options, callbacks=lambda name, seed: [Killed()] if name == "distilled" else []).run(
            tmp_path / "a"
        )
    assert not (tmp_path / "a" / "results.json").exists()
    epochs = []
    record = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    resumed = experiment(**options, callbacks=lambda name, seed: [record]).run(tmp_path / "a")
    assert epochs[0] > 0 and epochs[-1] == 2
    whole = experiment(**options).run(tmp_path / "b")
    assert_same_weights(*(weights_of(trained(tmp_path / name, "distilled")) for name in "ab"), rtol=0, atol=0)
    assert [model.runs for model in resumed.models] == [model.runs for model in whole.models]
    assert not list(tmp_path.rglob("checkpoints"))


def test_a_teacher_is_trained_first_on_all_labels(tmp_path):
    first = Arm("teacher", lambda: mlp(16, name="teacher"), epochs=2, batch_size=16)
    results = experiment(teacher=first, labels=6).run(tmp_path)
    saved = keras.saving.load_model(tmp_path / "teacher.keras")
    assert_same_weights(weights_of(saved), weights_of(trained(tmp_path, "teacher")))
    assert results.models[0].role == "teacher" and len(results.models[0].runs[0].history["loss"]) == 2
    # The same teacher, whatever the number of labels of the students.
    experiment(teacher=first).run(tmp_path)
    assert len(list((tmp_path / "models").glob("teacher_*.keras"))) == 1


def test_chain_of_teachers_and_starts(tmp_path):
    zero = {"optimizer": lambda steps: keras.optimizers.SGD(0.0)}
    listed = [
        Arm("baseline", student, epochs=1, **zero),
        Arm("assistant", lambda: mlp(10), [TERM], epochs=1),
        Arm("by assistant", student, [TERM], epochs=1, teacher="assistant"),
        Arm("started", lambda model: model, [TERM], epochs=1, start="by assistant", **zero),
        Arm("of teacher", lambda model: model, [TERM], epochs=1, start="teacher", **zero),
    ]
    results = experiment(listed).run(tmp_path)
    settings = {
        path.stem.rpartition("_")[0]: json.loads(path.read_text())["settings"]
        for path in (tmp_path / "models").glob("*.json")
    }
    assert (
        settings["by_assistant_1"]["teacher"]
        != settings["by_assistant_0"]["teacher"]
        != settings["assistant_0"]["teacher"]
    )
    assert settings["assistant_0"]["teacher"] == settings["assistant_1"]["teacher"]
    for seed in (0, 1):
        assert_same_weights(
            weights_of(trained(tmp_path, "started", seed)), weights_of(trained(tmp_path, "by_assistant", seed))
        )
    assert_same_weights(weights_of(trained(tmp_path, "of_teacher")), weights_of(teacher()))
    assert {each.model for each in results.comparisons} == {"assistant", "by assistant", "started", "of teacher"}


@pytest.mark.parametrize("cache", [True, False])
def test_an_arm_may_have_a_teacher_of_its_own(tmp_path, cache):
    keras.utils.set_random_seed(8)
    members = {"first": teacher(), "second": mlp(12)}
    listed = [
        *arms(batch_size=40),
        Arm("by ensemble", student, [TERM], 0.3, epochs=2, batch_size=40, teacher=Ensemble(members)),
    ]
    splits = Data(data(40), test=data(24))
    results = experiment(listed, splits=splits, seeds=[3], cache=cache).run(tmp_path)
    for name, source in (("distilled", teacher()), ("by_ensemble", Ensemble(members))):
        keras.utils.set_random_seed(3)
        expected = student()
        model = Distiller(student=expected, teacher=source, terms=[TERM], supervised_weight=0.3)
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 2)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(*data(40), epochs=2, batch_size=40, verbose=0)
        assert_same_weights(weights_of(trained(tmp_path, name, 3)), weights_of(expected), rtol=1e-4, atol=1e-6)
    assert results.settings["by ensemble"]["teacher"] == "Ensemble"
    # Another member makes another teacher.
    again = [dataclasses.replace(listed[2], teacher=Ensemble({**members, "second": mlp(13)}))]
    experiment([*listed[:2], *again], splits=splits, seeds=[3], cache=cache).run(tmp_path)
    assert len(list((tmp_path / "models").glob("by_ensemble_3_*.keras"))) == 2


def test_without_labels_the_teacher_is_the_reference(tmp_path):
    x, _ = data(40)
    distilled = arms()[1:]
    results = experiment(distilled, splits=Data(x, validation=0.25)).run(tmp_path)
    assert results.score.name == "agreement (accuracy)" and results.models[0].runs[0].score == 1
    assert results.split == "validation"
    with pytest.raises(ValueError, match="no labels, on which"):
        experiment(splits=Data(x, validation=0.25)).run(tmp_path / "other")


def images(count=24):
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 6, 6, 3)).astype("float32")
    return x, (x[..., 0] > 0).astype("int32")


TASKS = {
    "regression": (
        Regression(),
        lambda n: (data(n)[0], data(n)[0].sum(axis=1)),
        lambda units: keras.Sequential([keras.Input((8,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(1)]),
    ),
    "multi-label": (
        MultiLabelClassification(),
        lambda n: (data(n)[0], (data(n)[0][:, :3] > 0).astype("float32")),
        lambda units: keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(3, "sigmoid")]
        ),
    ),
    "binary": (
        MultiLabelClassification(),
        lambda n: (data(n)[0], (data(n)[0][:, 0] > 0).astype("int32")),
        lambda units: keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(1, "sigmoid")]
        ),
    ),
    "segmentation": (
        Segmentation(),
        images,
        lambda units: keras.Sequential(
            [keras.Input((6, 6, 3)), keras.layers.Conv2D(units, 1), keras.layers.Conv2D(2, 1)]
        ),
    ),
    "one-hot": (
        Classification(one_hot=True),
        lambda n: (data(n)[0], np.eye(3, dtype="float32")[data(n)[0][:, :3].argmax(-1)]),
        lambda units: keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(3, "softmax")]
        ),
    ),
}


@pytest.mark.parametrize(("name", "stream"), [*((name, False) for name in TASKS), ("one-hot", True)])
def test_tasks(name, stream, tmp_path):
    """Every task trains with its default terms, and learns."""
    task, make_data, network = TASKS[name]
    train, test = make_data(64), make_data(24)
    if stream:
        train, test = map(tf.data.Dataset.from_tensor_slices, (train, test))
    options = {"epochs": 8, "batch_size": 16, "learning_rate": 3e-2}
    listed = [
        Arm("baseline", lambda: network(4), **options),
        Arm("distilled", lambda: network(4), [Term(task.distillation_loss(2.0), weight=0.5)], 0.5, **options),
    ]
    splits = Data(train, test=test, validation=0.25)
    results = Experiment(task, splits, Arm("teacher", lambda: network(16), **options), listed, seeds=1).run(tmp_path)
    keras.utils.set_random_seed(0)
    untrained = network(4)
    before = task.evaluate(task.predictor(untrained).predict(make_data(24)[0], verbose=0), make_data(24)[1])
    for model in results.models:
        assert task.score.sign * (model.mean() - before) > 0, model.name
        assert model.runs[0].history["val_loss"]
    assert Results.load(tmp_path / "results.json").score == task.score
    assert len(results.pictures) == (4 if name == "segmentation" else 0)
    for number, picture in enumerate(results.pictures):
        assert list(picture.predictions) == ["teacher", "baseline", "distilled"]
        # The label is drawn in black and in one color, and a model that learned predicts most of it.
        np.testing.assert_array_equal(picture.label.any(-1), test[1][number] == 1)
        assert (picture.predictions["teacher"] == picture.label).mean() > 0.8


def test_a_teacher_of_another_library(tmp_path):
    teachers = [NumPyTeacher(lambda x, w=w: x[:, :3] * w, name="columns") for w in (1.0, 2.0)]
    for weights, each in enumerate(teachers, 1):
        results = experiment(teacher=each, seeds=1).run(tmp_path)
        x, y = data(24)
        assert results.models[0].runs[0].score == np.mean(x[:, :3].argmax(-1) == y)
        assert results.models[0].parameters is None and results.models[0].latency is None
        # Their outputs distinguish teachers without weights.
        assert len(list((tmp_path / "teacher_cache").iterdir())) == weights


def test_early_stopping_keeps_the_best_weights(tmp_path):
    stopped = [dataclasses.replace(arm, patience=1, epochs=30, learning_rate=0.3) for arm in arms()]
    results = experiment(stopped, seeds=1).run(tmp_path)
    history = results.models[1].runs[0].history
    best = int(np.argmax(history["val_accuracy"]))
    assert len(history["loss"]) == best + 2 < 30
    assert history["val_accuracy"][best] == max(history["val_accuracy"])


def test_search_reads_the_validation_split_only(tmp_path, capsys):
    x, y = data(24)
    default = arms()[1]
    listed = [*arms(), TunedArm("tuned", tuned_objective(default, Classification()), trials=2, default="distilled")]
    splits = Data(data(40), test=(x, y), validation=0.25)
    results = experiment(listed, splits=splits, seeds=1).run(tmp_path)
    search = results.search
    assert search.objective == "val_accuracy" and len(search.trials) == 2
    assert (search.best_model, search.default_model) == ("tuned", "distilled")
    assert {each.name for each in search.varied()} == {"temperature", "alpha", "epochs"}
    best = search.ranked()[0].values
    (path,) = (tmp_path / "models").glob("tuned_0_*.json")
    settings = json.loads(path.read_text())["settings"]
    assert settings["epochs"] == best["epochs"] and settings["supervised_weight"] == best["alpha"]
    assert settings["terms"][0]["loss"]["config"]["temperature"] == pytest.approx(best["temperature"])
    assert any("Search over 2 trials" in sentence for sentence in results.verdict())
    trials = [(trial.values, trial.score) for trial in search.trials]
    # Other test labels change nothing about the search; it is not repeated either.
    again = experiment(listed, splits=Data(data(40), test=(x, (y + 1) % 3), validation=0.25), seeds=1).run(
        tmp_path / "b"
    )
    assert [(trial.values, trial.score) for trial in again.search.trials] == trials
    capsys.readouterr()
    experiment(listed, splits=splits, seeds=1).run(tmp_path)
    printed = capsys.readouterr().out
    assert "trial:" not in printed and printed.count("trained earlier") == 3


def test_files_are_profiled_once_per_architecture(tmp_path, capsys):
    files = {"baseline": ["litert_float32"], "distilled": ["litert_float32"]}
    results = experiment(files=files).run(tmp_path)
    first, second = results.profiles
    assert (first.model, second.model) == ("baseline", "distilled")
    assert first.median == second.median and len(first.scores) == 2
    named = "student.keras is 'distilled' of the first seed, and so are files/distilled_0_float32.tflite"
    assert named in capsys.readouterr().out and (tmp_path / "files" / "distilled_0_float32.tflite").exists()
    for profile, model in zip(results.profiles, results.models[1:]):
        np.testing.assert_allclose(profile.scores, [run.score for run in model.runs])
    latencies = {model.name: model.latency for model in results.models}
    assert latencies["baseline"] == latencies["distilled"] and latencies["teacher"] is not None


def test_a_diverging_training_names_the_arm_and_leaves_nothing_behind(tmp_path):
    diverging = [dataclasses.replace(arms()[0], optimizer=lambda steps: keras.optimizers.SGD(1e30), epochs=3)]
    with pytest.raises(NonFiniteError, match="Training of 'baseline' stopped. The loss is"):
        experiment(diverging, seeds=1).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_findings(tmp_path):
    wrong = [dataclasses.replace(arm, optimizer=lambda steps: keras.optimizers.SGD(30.0)) for arm in arms()]
    with pytest.warns(UserWarning, match="'distilled': .*learning rate"):
        results = experiment(wrong, seeds=1).run(tmp_path)
    names = [finding.name for finding in results.findings["distilled"]]
    assert "learning rate too high" in names
    # Findings of an earlier run are not lost.
    assert [finding.name for finding in experiment(wrong, seeds=1).run(tmp_path).findings["distilled"]] == names
    with pytest.raises(RuntimeError, match="with `strict` set"):
        experiment(wrong, seeds=1, strict=True).run(tmp_path / "strict")
    assert not list((tmp_path / "strict").rglob("*.keras"))


def test_mixed_precision_is_a_setting_of_an_arm(tmp_path):
    experiment(arms(dtype_policy="mixed_bfloat16"), seeds=1).run(tmp_path)
    assert trained(tmp_path, "distilled").layers[0].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_retracing_is_not_warned_of(tmp_path):
    messages = []
    # The command line may have raised the level.
    level = tf.get_logger().level
    tf.get_logger().setLevel(logging.WARNING)
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    advice = "5 out of the last 5 calls to <function> triggered tf.function retracing. Tracing is expensive"

    def log(*arguments):
        tf.get_logger().warning(advice)
        tf.get_logger().warning("other")
        return []

    tf.get_logger().addHandler(handler)
    try:
        experiment(seeds=1, callbacks=log).run(tmp_path)
        assert set(messages) == {"other"}
        tf.get_logger().warning(advice)
        assert advice in messages
    finally:
        tf.get_logger().removeHandler(handler)
        tf.get_logger().setLevel(level)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: experiment([]), "at least one `Arm`"),
        (lambda: experiment([arms()[0], arms()[0]]), "must be unique"),
        (lambda: experiment(seeds=[0, 0]), "different integers"),
        (lambda: experiment(files={"distilled": ["tflight"]}), "`files` must be among .*'tflight'"),
        (lambda: experiment(teacher=CachedTeacher({"output": data(4)[1]})), "as `teacher`, and `cache=`"),
        (lambda: experiment(teacher=None), "'distilled' has terms, but the experiment has no teacher"),
        (lambda: experiment([Arm("a", student, [TERM], start="b")]), "`start` of 'a' must be an arm that comes before"),
        (lambda: experiment([Arm("a", student, [TERM], baselines=["b"])]), "`baselines` of 'a' must be among"),
        (lambda: experiment(keep="other"), "`keep` refers to unknown arms"),
        (lambda: experiment(arms(patience=2), splits=Data(data(40), test=data(24))), "need a validation split"),
        (
            lambda: experiment([TunedArm("a", lambda hp: arms()[1])], splits=Data(data(40), validation=0.25)),
            "chooses by the validation split",
        ),
        (lambda: Arm("a", student()), "must be a function"),
        (lambda: Arm("a", student, [KLDivergence()]), "must be a list of `Term`"),
        (lambda: Arm("a", student, epochs=0), "`epochs`"),
        (lambda: TunedArm("a", lambda hp: arms()[1], tuner="grid"), "`tuner` must be one of"),
    ],
)
def test_errors_before_anything_is_trained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_errors_of_models_name_the_arm(tmp_path):
    wrong = [arms()[0], Arm("distilled", student, [Term(Hint(), "nowhere", "hidden")])]
    with pytest.raises(ValueError, match="Arm 'distilled': .*nowhere"):
        experiment(wrong).run(tmp_path / "run")
    classes = [Arm("baseline", lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]))]
    with pytest.raises(ValueError, match="Arm 'baseline': The label 2 of example"):
        experiment(classes).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_that_training_makes_clearly_worse(tmp_path):
    x, y = data(400)
    trained = student()
    trained.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = (x[:, 0] > 0).astype("int64")
    trained.fit(x, y, epochs=20, verbose=0)
    wrong = Arm("distilled", lambda: trained, [Term(KLDivergence(), weight=1.0)], 0.0, epochs=20, learning_rate=0.05)
    splits = Data((x[:200], y[:200]), test=(x[200:], y[200:]))
    reversed_teacher = NumPyTeacher(lambda x: np.stack([x[:, 0], -x[:, 0], 0 * x[:, 0]], -1) * 5, name="reversed")
    with pytest.warns(UserWarning, match="worse accuracy than before training"):
        results = experiment([wrong], splits=splits, teacher=reversed_teacher, seeds=1).run(tmp_path)
    assert [finding.name for finding in results.findings["distilled"]] == ["score lost"]


@pytest.mark.parametrize("form", ["list", "dict"])
@pytest.mark.parametrize("cache", [True, False])
def test_models_with_several_inputs(form, cache, tmp_path):
    def network(units):
        inputs = [keras.Input((4,), name="low"), keras.Input((4,), name="high")]
        # The second input alone determines the label.
        hidden = keras.layers.Dense(units, "relu")(keras.layers.Concatenate()(inputs))
        structure = inputs if form == "list" else {each.name: each for each in inputs}
        return keras.Model(structure, keras.layers.Dense(2)(hidden))

    def split(count, start):
        x = data(300)[0][start : start + count]
        low, high = x[:, :4], x[:, 4:]
        y = (high[:, 0] > 0).astype("int32")
        return ([low, high] if form == "list" else {"low": low, "high": high}), y

    options = {"epochs": 10, "batch_size": 16, "learning_rate": 1e-2}
    listed = [
        Arm("baseline", lambda: network(4), **options),
        Arm("distilled", lambda: network(4), [TERM], 0.3, **options),
    ]
    splits = Data(split(200, 0), test=split(60, 200), validation=split(40, 260))
    first = Arm("teacher", lambda: network(16), **options)
    results = experiment(listed, splits=splits, teacher=first, seeds=1, cache=cache).run(tmp_path)
    inputs, y = split(60, 200)
    for model in results.models:
        loaded = trained(tmp_path, model.name)
        assert model.runs[0].score == np.mean(loaded.predict(inputs, verbose=0).argmax(-1) == y) > 0.8


def test_a_teacher_of_features_is_not_evaluated(tmp_path):
    """A backbone outputs no classes: it is the teacher of features only."""
    backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(12, "relu", name="features")], name="backbone")
    hinted = [arms()[0], Arm("distilled", student, [Term(Hint(), "hidden", head="auto")], epochs=2, batch_size=16)]
    with pytest.warns(UserWarning, match=r"outputs have the shape \(12,\) per example, those of the students \(3,\)"):
        results = experiment(hinted, teacher=backbone, seeds=1).run(tmp_path)
    assert [model.name for model in results.models] == ["baseline", "distilled"]
    assert results.models[1].runs[0].agreement is None and results.comparisons
    unlabeled = experiment(hinted[1:], teacher=backbone, splits=Data(data(40)[0], validation=0.25))
    with pytest.raises(ValueError, match="Pass labels"), pytest.warns(UserWarning, match="is not evaluated"):
        unlabeled.run(tmp_path / "other")
