"""Comparison of distilled students with their baselines over several seeds, with a report."""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_distill import Distiller, Term
from keras_distill.cache import fingerprint
from keras_distill.compression import profiling
from keras_distill.data.labels import UNLABELLED
from keras_distill.report import ModelResult, Results, Search, evaluation, write_page
from keras_distill.saving.load import save_model
from recipes import common, training
from recipes import data as data_sets


class Student(NamedTuple):
    """One student of a recipe.

    Attributes:
        name: Name in the report, such as "distilled".
        model: Function of the trained teacher that returns the untrained model.
        terms: Function of the teacher that returns the terms of the distillation. Defaults to None, a baseline trained
            on the labels.
        baseline: Name of the baseline that the student is compared with. Defaults to None, the only one there is.
        teacher: Name of an earlier student in the list that is the teacher, as trained with the same seed; `model` and
            `terms` are called with it. Defaults to None, the recipe's teacher.
        start: Name of an earlier student in the list whose weights, as trained with the same seed, are the initial
            weights; `model` is called with a copy of it. Defaults to None: random initial weights, the same for all
            students of a seed.
        settings: `{name: value}` that replace flags: `alpha`, `epochs`, `learning_rate`, and further hyperparameters of
            a search. Defaults to none.
    """

    name: str
    model: Callable[[Any], keras.Model]
    terms: Callable[[Any], list[Term]] | None = None
    baseline: str | None = None
    teacher: str | None = None
    start: str | None = None
    settings: Mapping[str, Any] = MappingProxyType({})


def baseline_and_distilled(
    model: Callable[[], keras.Model], terms: Callable[[], list[Term]], qualifier: str | None = None
) -> list[Student]:
    """Return the same network twice: as a baseline trained on the labels, and distilled.

    Args:
        model: Function that returns the untrained model.
        terms: Function that returns the terms of the distillation.
        qualifier: Text that distinguishes several networks of a recipe: "baseline, <qualifier>". Defaults to None.
    """
    suffix = "" if qualifier is None else f", {qualifier}"
    baseline = Student(f"baseline{suffix}", lambda teacher: model())
    distilled = Student(f"distilled{suffix}", lambda teacher: model(), lambda teacher: terms(), baseline.name)
    return [baseline, distilled]


def compare(
    title: str,
    description: str,
    data: data_sets.Data,
    teacher: Callable[[], keras.Model],
    students: list[Student],
    keep: str = "distilled",
    search: Search | None = None,
    files: dict[str, list[str]] | None = None,
) -> None:
    """Train the teacher and every student over the seeds; print and write the results.

    Accuracy is measured after the last epoch; no epoch and no seed is selected by its result. Trained models stay in
    the workdir and are reused by runs with the same settings; an interrupted run resumes at the next epoch.

    Args:
        title: Title of the report.
        description: Sentence under the title of the report.
        data: A `Data`.
        teacher: Function that returns the teacher, untrained or pretrained.
        students: List of `Student`.
        keep: Name of the student whose model of the first seed is saved as `student.keras`. Defaults to "distilled".
        search: `Search` that found the settings of a student, for the report. Defaults to None.
        files: `{name of a model: [format]}`, as for `compression.export`: files to write to `files/` in the workdir,
            to profile and to report. Defaults to None, no files.
    """
    # Outside of the strategy's scope, which would be lost when Keras clears its session.
    _dry_run(teacher, students)
    with contextlib.nullcontext() if common.STRATEGY.value == "none" else common.strategy().scope():
        data = data.head(256) if common.SMOKE.value else data
        _compare(title, description, data, teacher, students, keep, search, files or {})


def with_few_labels(data: data_sets.Data) -> data_sets.Data:
    """Return the data with the first `--labels` training labels; the others are marked as missing.

    Args:
        data: A `Data`.
    """
    inputs, labels = data.train
    count = len(labels) if common.LABELS.value is None else common.LABELS.value
    return data._replace(train=(inputs, np.where(np.arange(len(labels)) < count, labels, UNLABELLED)))


def _compare(title, description, data, teacher, students, keep, search, files):
    seeds = [0] if common.SMOKE.value else list(range(common.SEEDS.value))
    folder = common.folder()
    teacher, teacher_record = training.teacher(teacher, data, folder)
    records = {"teacher": [teacher_record]} | {student.name: [] for student in students}
    # One model per seed; the teacher is trained once.
    models = {"teacher": [teacher]} | {student.name: [] for student in students}
    settings = common.training_settings() | {"data": data.digest()}
    findings = {}
    for student in students:
        for model, record in _train_over_seeds(student, seeds, settings, models, data, folder, findings):
            models[student.name].append(model)
            records[student.name].append(record)
    first = {name: trained[0] for name, trained in models.items()}
    if common.is_chief():
        save_model(first[keep], folder / "student.keras")
    print("Measuring prediction times")
    milliseconds = evaluation.prediction_milliseconds(first, data.test[0])
    profiles = []
    if common.is_chief():
        profiles = evaluation.profile_models(models, files, data.train[0], *data.test, folder / "files")
    results = Results(
        title=title,
        description=description,
        settings=common.settings(),
        classes=list(data.classes),
        temperature=common.TEMPERATURE.value,
        command=common.command(),
        seconds=sum(record.seconds for listed in records.values() for record in listed),
        seeds=seeds,
        models=_model_results(students, first, records, milliseconds),
        examples=evaluation.least_confident_examples(first, *data.test),
        search=search,
        profiles=profiles,
        findings=findings,
    )
    if common.is_chief():
        results.save(folder / "results.json")
        write_page(results, folder / "report.html")
    tables = [profiling.format_profiles(profiles), ""] if profiles else []
    print("\n".join(["", results.text(), "", *tables, *results.verdict(), ""]))
    print(f"Written to {folder}: results.json, report.html, student.keras, teacher.keras")


def _train_over_seeds(student, seeds, settings, models, data, folder, findings):
    """Yield the trained model of each seed and its record; add the findings of the pre-flight check to `findings`."""
    few = with_few_labels(data)
    distiller_teacher, train_data = None, _repeat_labelled(few)
    for number, seed in enumerate(seeds):
        teacher = models["teacher"][0] if student.teacher is None else models[student.teacher][number]
        start = teacher if student.start is None else _copied(models[student.start][number])
        teacher_weights = fingerprint.of_weights(teacher.weights)
        own = settings | {"teacher_weights": teacher_weights} | dict(student.settings)
        if student.start is not None:
            own["start_weights"] = fingerprint.of_weights(start.weights)
        if student.terms is not None and (student.teacher is not None or number == 0):
            cache_folder = folder if student.teacher is None else folder / "students" / teacher_weights[:8]
            distiller_teacher, train_data = training.with_teacher_outputs(teacher, student, few, cache_folder)
        # The check runs on one device.
        if student.terms is not None and number == 0 and common.STRATEGY.value == "none":
            findings[student.name] = training.check_student(student, start, teacher, distiller_teacher, train_data)
            for finding in findings[student.name]:
                print(finding)
        title = f"{student.name}, seed {seed}" if len(seeds) > 1 else student.name
        path = folder / "students" / f"{re.sub('[^a-z0-9]+', '_', student.name.lower())}_{seed}.keras"
        train = functools.partial(training.student, student, start, teacher, distiller_teacher, train_data, seed)
        yield training.train_once(path, own, title, data, seed, train)


def _model_results(students, models, records, milliseconds):
    roles = {"teacher": "teacher"}
    roles |= {student.name: "baseline" if student.terms is None else "distilled" for student in students}
    baselines = {student.name: student.baseline for student in students}
    return [
        ModelResult(
            name,
            role,
            profiling.count_parameters(models[name]),
            [record.run for record in records[name]],
            milliseconds[name],
            baselines.get(name),
        )
        for name, role in roles.items()
    ]


def _dry_run(teacher, students):
    """Build everything once, untrained, to raise errors before hours of training."""
    models = {None: teacher()}
    for student in students:
        for required in (student.teacher, student.start):
            if required not in models:
                raise ValueError(
                    f"'{student.name}' needs '{required}', which must come before it in `students`. "
                    f"Received: {list(models)[1:]} before it"
                )
        teacher = models[student.teacher]
        models[student.name] = student.model(teacher if student.start is None else models[student.start])
        if student.terms is not None:
            Distiller(
                student=models[student.name],
                teacher=teacher,
                terms=student.terms(teacher),
                supervised_weight=training.alpha(student),
            )
    # Restart the numbering of layers without a name.
    keras.utils.clear_session()


def _copied(model):
    copy = keras.models.clone_model(model)
    # The clone has new random weights.
    copy.set_weights(model.get_weights())
    return copy


def _repeat_labelled(data):
    """Return the labelled examples, repeated to the original number, so that an epoch has the same number of steps."""
    labels = data.train[1]
    return data._replace(train=data_sets.rows(data.train, np.resize(np.flatnonzero(labels != UNLABELLED), len(labels))))
