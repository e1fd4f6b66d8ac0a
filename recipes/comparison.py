"""The comparison that a recipe makes: students alone with students distilled, over seeds, and its report."""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np

from keras_distill import Distiller
from keras_distill.cache import fingerprint
from keras_distill.compression import profiling
from keras_distill.data.labels import UNLABELLED
from keras_distill.report import ModelResult, Results, evaluation, write_page
from keras_distill.saving.load import save_model
from recipes import common, training
from recipes import data as data_sets


class Student(NamedTuple):
    """One student of a recipe.

    Attributes:
        name: Such as "student distilled".
        model: Makes it, not trained yet, given its trained teacher.
        terms: Makes the terms of its distillation, given the teacher; None if it learns from the labels alone.
        baseline: Name of the student without terms that it is compared with.
        teacher: Name of the student that teaches it, one further up in the list, as trained from the same seed; `model`
            and `terms` are then given that one. None for the recipe's teacher.
        start: Name of the student that this one starts from, one further up in the list, as trained from the same
            seed; `model` is then given a copy of that one. None for a start at random, from the same numbers for all.
        settings: `{name: value}` in the place of flags of this name: `alpha`, the weight of its labels, `epochs` and
            `learning_rate`, and what else a search found.
    """

    name: str
    model: Callable
    terms: Callable | None = None
    baseline: str | None = None
    teacher: str | None = None
    start: str | None = None
    settings: Mapping = MappingProxyType({})


def alone_and_distilled(name, model, terms):
    """The same network twice: trained by labels alone, and distilled.

    Args:
        name: Such as "student".
        model: Makes it, untrained.
        terms: Makes the terms of its distillation.
    """
    alone, distilled = f"{name} alone", f"{name} distilled"
    return [
        Student(alone, lambda teacher: model()),
        Student(distilled, lambda teacher: model(), lambda teacher: terms(), alone),
    ]


def compare(title, description, data, teacher, students, keep="student distilled", search=None, files=None):
    """Trains the teacher, then every student over the seeds; prints and writes what came out.

    Accuracy is that after the last epoch; no epoch and no seed is chosen by its result. What was trained stays in the
    workdir, and is not trained again with the same settings: a run that was killed goes on with the next epoch.

    Args:
        title: Of the report.
        description: A sentence for its reader.
        data: A `Data`.
        teacher: Makes the teacher, untrained or pretrained.
        students: List of `Student`.
        keep: Name of the student that is saved as `student.keras`, trained with the first seed.
        search: The `Search` that found settings of one of them, for the report; None if there was none.
        files: `{name of a model: [formats]}`, as of `compression.export`: what is written into `files/` in the workdir,
            weighed and reported. None for none.
    """
    # Outside of the strategy's scope, which would be forgotten when Keras clears its session.
    _try_out(teacher, students)
    with contextlib.nullcontext() if common.STRATEGY.value == "none" else common.strategy().scope():
        data = data.head(256) if common.SMOKE.value else data
        _compare(title, description, data, teacher, students, keep, search, files or {})


def with_few_labels(data):
    """The data with only the first labels left."""
    inputs, labels = data.train
    count = len(labels) if common.LABELS.value is None else common.LABELS.value
    return data._replace(train=(inputs, np.where(np.arange(len(labels)) < count, labels, UNLABELLED)))


def _compare(title, description, data, teacher, students, keep, search, files):
    seeds = [0] if common.SMOKE.value else list(range(common.SEEDS.value))
    folder = common.folder()
    teacher, taught = training.teacher(teacher, data, folder)
    seconds = taught.seconds
    runs = {student.name: [] for student in students}
    # One for each seed; a teacher is trained once.
    models = {"teacher": [teacher]} | {student.name: [] for student in students}
    settings = common.choices() | {"data": data.digest()}
    few = with_few_labels(data)
    findings = {}
    for student in students:
        taught_by, lessons = None, _labelled(few)
        for place, seed in enumerate(seeds):
            by = teacher if student.teacher is None else models[student.teacher][place]
            start = by if student.start is None else _copied(models[student.start][place])
            own = settings | {"teacher_weights": fingerprint.of_weights(by.weights)} | dict(student.settings)
            if student.start is not None:
                own["start_weights"] = fingerprint.of_weights(start.weights)
            if student.terms is not None and (student.teacher is not None or seed == seeds[0]):
                said = folder if by is teacher else folder / "students" / own["teacher_weights"][:8]
                taught_by, lessons = training.lessons(by, student, few, said)
            # A check looks at one device.
            if student.terms is not None and seed == seeds[0] and common.STRATEGY.value == "none":
                findings[student.name] = _told(training.found(student, start, by, taught_by, lessons))
            where = f"{student.name}, seed {seed}" if len(seeds) > 1 else student.name
            path = folder / "students" / f"{re.sub('[^a-z0-9]+', '_', student.name.lower())}_{seed}.keras"
            train = functools.partial(training.student, student, start, by, taught_by, lessons, seed)
            model, how = training.once(path, own, where, data, seed, train)
            models[student.name].append(model)
            seconds += how.seconds
            runs[student.name].append(how.run)
    first = {name: trained[0] for name, trained in models.items()}
    if common.writes():
        save_model(first[keep], folder / "student.keras")
    print("measuring how long one prediction takes")
    milliseconds = evaluation.milliseconds(first, data.test[0])
    footprints = []
    if common.writes():
        footprints = evaluation.profile_models(models, files, data.train[0], *data.test, folder / "files")
    results = [
        ModelResult("teacher", "teacher", profiling.count_parameters(teacher), [taught.run], milliseconds["teacher"])
    ]
    for student in students:
        results.append(
            ModelResult(
                student.name,
                "alone" if student.terms is None else "distilled",
                profiling.count_parameters(first[student.name]),
                runs[student.name],
                milliseconds[student.name],
                student.baseline,
            )
        )
    outcome = Results(
        title=title,
        description=description,
        settings=common.settings(),
        classes=list(data.classes),
        temperature=common.TEMPERATURE.value,
        command=common.command(),
        seconds=seconds,
        seeds=seeds,
        models=results,
        examples=evaluation.least_confident_examples(first, *data.test),
        search=search,
        footprints=footprints,
        findings=findings,
    )
    if common.writes():
        outcome.save(folder / "results.json")
        write_page(outcome, folder / "report.html")
    costs = [profiling.format_profiles(footprints), ""] if footprints else []
    print("\n".join(["", outcome.text(), "", *costs, *outcome.verdict(), ""]))
    print(f"Written to {folder}: results.json, report.html, student.keras, teacher.keras")


def _try_out(teacher, students):
    """Makes everything once, untrained: what does not fit together is told before hours of training."""
    made = {None: teacher()}
    for student in students:
        for wanted in (student.teacher, student.start):
            if wanted not in made:
                before = list(made)[1:]
                raise ValueError(f"'{student.name}' needs '{wanted}', but the students before it are {before}.")
        by = made[student.teacher]
        made[student.name] = student.model(by if student.start is None else made[student.start])
        if student.terms is not None:
            Distiller(
                student=made[student.name],
                teacher=by,
                terms=student.terms(by),
                supervised_weight=training.alpha(student),
            )
    # Layers without a name are numbered from the first again.
    keras.utils.clear_session()


def _copied(model):
    copy = keras.models.clone_model(model)
    # It has new ones.
    copy.set_weights(model.get_weights())
    return copy


def _told(findings):
    """The findings, printed."""
    for finding in findings:
        print(finding)
    return findings


def _labelled(data):
    """The labelled examples alone, repeated to the same number, so that an epoch has the same number of steps."""
    labels = data.train[1]
    return data._replace(train=data_sets.rows(data.train, np.resize(np.flatnonzero(labels != UNLABELLED), len(labels))))
