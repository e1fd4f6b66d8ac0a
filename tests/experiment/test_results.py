"""Results: JSON round trip and validation."""

import datetime
import json
import math
import sys

import numpy as np
import pytest

from keras_distill.compression import Profile
from keras_distill.experiment.example import Example
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.picture import Picture
from keras_distill.experiment.results import Results
from keras_distill.experiment.statistics import Comparison
from tests.report import samples

pytestmark = pytest.mark.everyday


NEW = ("score", "comparisons", "split", "num_examples", "profiles", "findings", "files")


def saved(results, folder):
    path = folder / "made" / "results.json"
    results.save(path)
    return path


def images_of(picture):
    return picture.image, picture.label, *picture.predictions.values()


def strict(path):
    """Parse JSON without the NaN and Infinity that Python accepts and the standard does not."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))


@pytest.mark.parametrize("shape", [(28, 28), (20, 31, 3)])
def test_round_trip(tmp_path, shape):
    results = samples.results(
        shape=shape,
        pictures=samples.pictures(shape),
        profiles=samples.profiles(),
        findings=samples.findings(),
        files={"history": "history.csv"},
    )
    back = Results.load(saved(results, tmp_path))
    assert back.models == results.models
    for field in (
        "title",
        "settings",
        "classes",
        "temperature",
        "command",
        "seconds",
        "seeds",
        "date",
        "machine",
        *NEW,
    ):
        assert getattr(back, field) == getattr(results, field)
    assert back.versions == results.versions
    for ours, theirs in zip(results.pictures, back.pictures, strict=True):
        assert list(theirs.predictions) == list(ours.predictions)
        for pair in zip(images_of(theirs), images_of(ours), strict=True):
            assert pair[0].dtype == np.uint8
            np.testing.assert_array_equal(*pair)
    for ours, theirs in zip(results.examples, back.examples, strict=True):
        assert theirs.image.dtype == np.uint8
        np.testing.assert_array_equal(theirs.image, ours.image)
        assert (theirs.label, theirs.logits) == (ours.label, ours.logits)


def test_saving_loaded_results_gives_the_same_file(tmp_path):
    first = saved(samples.results(), tmp_path / "first")
    second = saved(Results.load(first), tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


def test_files_of_another_version_raise(tmp_path):
    path = saved(samples.results(), tmp_path)
    fields = strict(path)
    for changed in ({**fields, "format": 1}, {name: value for name, value in fields.items() if name != "format"}):
        path.write_text(json.dumps(changed))
        with pytest.raises(
            ValueError, match="results.json' was written by another version of keras_distill; run again"
        ):
            Results.load(path)


def test_non_finite_numbers_are_saved_as_json(tmp_path):
    results = samples.results(settings={"clip": math.inf})
    results.models[1].runs[0].history["loss"] = [1.0, math.nan, -math.inf]
    path = saved(results, tmp_path)
    strict(path)
    back = Results.load(path)
    loss = back.models[1].runs[0].history["loss"]
    assert loss[0] == 1.0 and math.isnan(loss[1]) and loss[2] == -math.inf
    assert back.settings == {"clip": math.inf}


def test_numpy_values_are_saved_as_numbers(tmp_path):
    results = samples.results(settings={"alpha": np.float32(0.5), "layers": (1, 2), "folder": tmp_path})
    results.models[1].runs[0].confusion = np.eye(10, dtype="int64")
    results.models[1].runs[0].score = np.float32(0.25)
    fields = strict(saved(results, tmp_path))
    assert fields["settings"] == {"alpha": 0.5, "layers": [1, 2], "folder": str(tmp_path)}
    assert fields["models"][1]["runs"][0]["score"] == 0.25
    assert fields["models"][1]["runs"][0]["confusion"] == np.eye(10).tolist()


def test_file_is_readable(tmp_path):
    description = 'In 2 lines: [\n 1, 2\n] and "[\\n 3\\n]".'
    path = saved(samples.results(description=description), tmp_path)
    assert Results.load(path).description == description
    text = path.read_text(encoding="utf-8")
    row = samples.results().models[0].runs[0].confusion[0]
    assert f"{row}," in text


def test_records_versions_machine_and_date():
    results = samples.results()
    assert results.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert results.versions["keras"].startswith("3.")
    assert results.machine["cores"] >= 1 and results.machine["processor"]
    made = datetime.datetime.fromisoformat(results.date)
    assert abs(datetime.datetime.now().astimezone() - made) < datetime.timedelta(minutes=1)


def test_confusion_is_the_sum_over_the_runs():
    runs = [Run(0, 0.5, confusion=[[1, 1], [1, 1]]), Run(1, 0.75, confusion=[[2, 0], [1, 1]])]
    np.testing.assert_array_equal(ModelResult("m", "baseline", 1, runs).confusion(), [[3, 1], [2, 2]])
    assert ModelResult("m", "baseline", 1, [*runs, Run(2, 0.5)]).confusion() is None


def test_scores_per_class_are_means_over_the_runs():
    runs = [Run(0, 0.5, per_class=[0.5, 1.0]), Run(1, 0.5, per_class=[0.7, math.nan])]
    np.testing.assert_allclose(ModelResult("m", "baseline", 1, runs).per_class(), [0.6, math.nan])
    assert ModelResult("m", "baseline", 1, [*runs, Run(2, 0.5)]).per_class() is None


def one(name, role, baselines=(), **recorded):
    return ModelResult(name, role, 1, [Run(0, 0.5, **recorded)], baselines=baselines)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([one("a", "baseline"), one("a", "distilled")], "names must be unique"),
        ([one("a", "teacher"), one("b", "teacher")], "at most one teacher"),
        ([one("a", "student")], "role of 'a' must be one of"),
        ([ModelResult("a", "baseline", 1, [])], "'a' has no runs"),
        (
            [one("a", "baseline"), one("b", "distilled", ["c"])],
            r"The baselines of 'b' must be .*'a'.*Received: \['c'\]",
        ),
        ([one("a", "baseline", confusion=[[1]])], r"confusion matrix of 'a', seed 0, must have shape \(10, 10\)"),
        ([one("a", "baseline", per_class=[1.0])], r"per class of 'a', seed 0, must have shape \(10,\)"),
    ],
)
def test_inconsistent_models_raise(models, message):
    with pytest.raises(ValueError, match=message):
        samples.results(models=models, examples=[], comparisons=[])


@pytest.mark.parametrize(
    "changed",
    [
        {"comparisons": [Comparison("distilled", "nobody", 0.1, 1)]},
        {"profiles": [Profile("nobody", "keras", 1, 1, 1)]},
        {"findings": {"nobody": []}},
    ],
)
def test_references_to_unknown_models_raise(changed):
    (argument,) = changed
    with pytest.raises(ValueError, match=rf"`{argument}` refers to unknown models \['nobody'\]"):
        samples.results(**changed)


def test_the_comparison_with_a_baseline():
    comparisons = [Comparison("distilled", "baseline", 0.1, 1), Comparison("distilled", "teacher", -0.1, 1)]
    results = samples.results(comparisons=comparisons)
    assert results.comparison("distilled") is comparisons[0]
    assert results.comparison("distilled", "teacher") is comparisons[1]
    assert results.comparison("baseline") is None


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example(np.zeros((4, 4)), 0, {}), "must be uint8"),
        (Example(np.zeros((4, 4, 1), "uint8"), 0, {}), r"Received: uint8, \(4, 4, 1\)"),
        (Example(np.zeros((4, 4), "uint8"), 10, {}), "label of example 0 must be >= 0 and < 10. Received: 10"),
        (Example(np.zeros((4, 4), "uint8"), 0, {"techer": [0.0] * 10}), "'teacher'.*'techer'"),
        (Example(np.zeros((4, 4), "uint8"), 0, {"teacher": [0.0] * 9}), r"shape \(9,\)"),
    ],
)
def test_inconsistent_examples_raise(example, message):
    with pytest.raises(ValueError, match=message):
        samples.results(examples=[example])


IMAGE = np.zeros((4, 4), "uint8")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Picture(IMAGE, IMAGE, {"techer": IMAGE}), r"'teacher'.*\['techer'\]"),
        (Picture(IMAGE, IMAGE + 0.5, {}), "The label of picture 0 must be uint8"),
        (Picture(IMAGE, IMAGE, {"teacher": IMAGE[0]}), r"prediction of 'teacher' of picture 0 .*uint8, \(4,\)"),
    ],
)
def test_inconsistent_pictures_raise(picture, message):
    with pytest.raises(ValueError, match=message):
        samples.results(pictures=[picture])


def test_results_without_pictures_are_read(tmp_path):
    path = saved(samples.results(), tmp_path)
    fields = strict(path)
    del fields["pictures"]
    path.write_text(json.dumps(fields))
    assert Results.load(path).pictures == []
