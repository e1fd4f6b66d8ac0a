"""Results of an executed experiment, and their files."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_distill.compression import Profile, export, exporting, profiling
from keras_distill.experiment.example import Example
from keras_distill.experiment.latency import architecture, measure_latencies
from keras_distill.experiment.model_result import ModelResult
from keras_distill.experiment.picture import Picture
from keras_distill.experiment.plan import TEACHER, baselines_of
from keras_distill.experiment.results import Results
from keras_distill.experiment.statistics import bootstrap, compare
from keras_distill.experiment.store import slug
from keras_distill.models.softmax import ends_in_softmax
from keras_distill.saving.load import save_model
from keras_distill.utils.files import atomic_write
from keras_distill.utils.progress import progress_bar

if TYPE_CHECKING:
    from keras_distill.experiment.execution import Execution

# Examples with which latencies are measured.
_EXAMPLES = 128
_PAGE, _NUMBERS, _STUDENT = "report.html", "results.json", "student.keras"
_HISTORY = "history.csv"
# Folder of the exported files.
_FILES = "files"


def results(execution: Execution) -> Results:
    """Return the `Results` of a finished execution.

    Args:
        execution: The `Execution`, trained.
    """
    plan, evaluator = execution.plan, execution.evaluator
    evaluated = {key: trained for key, trained in execution.trained.items() if trained.evaluation is not None}
    names = [TEACHER] * ((TEACHER, 0) in evaluated) + [arm.name for arm in execution.arms]
    models = {name: execution.first(name).model for name in names}
    models = {name: model for name, model in models.items() if model is not None}
    sample = plan.data.evaluation.inputs(range(min(_EXAMPLES, len(plan.data.evaluation))))
    print("Measuring prediction times")
    latencies = measure_latencies(models, sample)
    listed = []
    for name in names:
        arm = next((arm for arm in execution.arms if arm.name == name), None)
        role = TEACHER if arm is None else "distilled" if arm.distilled else "baseline"
        runs = [_run(execution, seed, trained) for (owner, seed), trained in evaluated.items() if owner == name]
        model = models.get(name)
        listed.append(
            ModelResult(
                name,
                role,
                None if model is None else profiling.count_parameters(model),
                runs,
                latencies.get(name),
                [] if arm is None else baselines_of(arm, execution.arms),
                None if model is None else _num_bytes(model),
            )
        )
    records = [trained.record for trained in execution.trained.values() if trained.record is not None]
    first_arm = execution.arms[-1]
    return Results(
        title=plan.title,
        description=plan.description,
        settings={arm.name: arm.description() for arm in execution.arms}
        if plan.settings is None
        else dict(plan.settings),
        models=listed,
        command=plan.command,
        seconds=sum(record.seconds for record in records),
        seeds=plan.seeds,
        score=evaluator.score,
        classes=plan.data.classes or plan.task.classes(execution.first(first_arm.name).model) or [],
        comparisons=_comparisons(execution),
        split=plan.data.evaluation_name,
        num_examples=evaluator.num_examples,
        temperature=plan.temperature,
        examples=_examples(execution, models),
        pictures=_pictures(execution, names),
        search=execution.search,
        profiles=_profiles(execution) if plan.is_chief else [],
        findings=execution.diagnostics.findings,
        files={"student": _STUDENT, "history": _HISTORY, "results": _NUMBERS},
    )


def write(results: Results, execution: Execution) -> None:
    """Write student, report and results, and print the table and the verdict.

    Args:
        results: The `Results`.
        execution: The `Execution`.
    """
    folder, written = execution.folder, list(results.files.values())
    save_model(execution.first(execution.plan.keep).model, folder / _STUDENT)
    try:
        # By name: the report is made of experiments, and needs packages that they do not.
        importlib.import_module("keras_distill.report").write_page(results, folder / _PAGE)
        written.append(_PAGE)
    except ImportError as error:
        print(f"{_PAGE} was not written: {error} Then run: keras-distill report {folder}")
    with atomic_write(folder / _HISTORY) as file:
        file.write(_history(execution).encode())
    # Written last: its presence marks the run as finished.
    results.save(folder / _NUMBERS)
    tables = [profiling.format_profiles(results.profiles, results.score.text), ""] if results.profiles else []
    print("\n".join(["", results.text(), "", *tables, *results.verdict(), ""]))
    written += [f"{_FILES}/"] if results.profiles else []
    print(f"Wrote {', '.join(written)} to {folder}")
    kept = execution.plan.keep
    formats = [profile.format for profile in results.profiles if profile.model == kept]
    if formats:
        prefix = _file_prefix(kept, execution.plan.seeds[0])
        exported = [exporting.path_of(_FILES, prefix, format).as_posix() for format in formats]
        print(f"{_STUDENT} is '{kept}' of the first seed, and so are {', '.join(exported)}")


def _run(execution, seed, trained):
    history = {} if trained.record is None else trained.record.history
    file = None if trained.path is None else trained.path.relative_to(execution.folder).as_posix()
    return trained.evaluation.run(seed, history, file)


def _history(execution):
    """Return the histories of all trainings as CSV, a row for each epoch."""
    records = [(*key, trained.record.history) for key, trained in execution.trained.items() if trained.record]
    names = list(dict.fromkeys(name for *_, history in records for name in history))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "seed", "epoch", *names])
    for model, seed, history in records:
        epochs = max(map(len, history.values()), default=0)
        columns = [history.get(name, [""] * epochs) for name in names]
        writer.writerows([model, seed, epoch, *values] for epoch, values in enumerate(zip(*columns), 1))
    return text.getvalue()


def _comparisons(execution):
    plan, evaluator = execution.plan, execution.evaluator
    students = {key: trained.evaluation for key, trained in execution.trained.items() if key[0] != TEACHER}
    comparisons = []
    for arm in execution.arms:
        for baseline in baselines_of(arm, execution.arms):
            pairs = [[(name, seed) for seed in plan.seeds] for name in (arm.name, baseline)]
            interval = bootstrap(plan.task.score_of, *([students[key].records for key in keys] for keys in pairs))
            resolution = plan.task.resolution(evaluator.num_examples)
            own, other = ([students[key].score for key in keys] for keys in pairs)
            comparisons.append(compare(arm.name, own, baseline, other, resolution, interval))
    return comparisons


def _examples(execution, models):
    """Return images with the logits of all models, for tasks that show soft targets."""
    indices = execution.evaluator.examples
    images = execution.plan.data.evaluation.inputs(indices) if indices else None
    if not _are_images(images):
        return []
    logits = {name: np.asarray(execution.first(name).evaluation.examples, float) for name in models}
    # The teacher predicts these examples correctly.
    labels = execution.plan.task.as_labels(execution.first(TEACHER).evaluation.examples)
    classes = [int(np.argmax(label)) if np.ndim(label) else int(label) for label in labels]
    return [
        Example(_as_uint8(image), label, {name: values[number] for name, values in logits.items()})
        for number, (image, label) in enumerate(zip(images, classes))
    ]


def _pictures(execution, names):
    """Return images with the predictions of the first seed of all models, for tasks that draw them."""
    plan, drawn = execution.plan, execution.evaluator.drawn
    inputs = plan.data.evaluation.inputs(drawn) if drawn else None
    if not _are_images(inputs):
        return []
    labels = keras.tree.map_structure(lambda array: array[: len(drawn)], execution.evaluator.labels)
    predictions = {name: execution.first(name).evaluation.predictions for name in names}
    label, *others = (plan.task.draw(inputs, each) for each in (labels, *predictions.values()))
    if label is None:
        return []
    return [
        Picture(_as_uint8(image), label[number], {name: each[number] for name, each in zip(predictions, others)})
        for number, image in enumerate(inputs)
    ]


def _are_images(inputs):
    return isinstance(inputs, np.ndarray) and inputs.ndim == 4 and inputs.shape[-1] in (1, 3)


def _as_uint8(image):
    image = image[..., 0] if image.shape[-1] == 1 else image
    return np.uint8(np.clip(image * 255 if image.max() <= 1 else image, 0, 255))


def _profiles(execution):
    """Export trained models and profile the files: size, latency, memory, and the score for each seed."""
    plan, split = execution.plan, execution.plan.data.evaluation
    if not plan.files:
        return []
    calibration = plan.data.train.inputs(range(min(500, len(plan.data.train))))
    inputs = split.inputs(execution.evaluator.indices)
    profiles: dict[Any, Profile] = {}
    costs: dict[Any, Profile] = {}
    exports = [(key, trained) for key, trained in execution.trained.items() if key[0] in plan.files]
    bar = progress_bar(len(exports), "model")
    for (name, seed), trained in exports:
        files = export(
            trained.model, execution.folder / _FILES, calibration, plan.files[name], _file_prefix(name, seed)
        )
        for file in files:
            outputs = profiling.predict(file, inputs)
            # Tasks evaluate logits, and a file ends as its model does.
            outputs = _log_odds(outputs) if ends_in_softmax(trained.model) else outputs
            score = plan.task.evaluate(outputs, execution.evaluator.labels)
            # Files of one architecture are measured once, since a difference between them would be noise.
            key = architecture(trained.model), file.format
            if key not in costs:
                costs[key] = profiling.profile(trained.model, file, inputs)
            first = profiles.get((name, file.format), dataclasses.replace(costs[key], model=name, bytes=file.bytes))
            profiles[name, file.format] = dataclasses.replace(first, scores=(*first.scores, score))
        bar.add(1)
    return list(profiles.values())


def _file_prefix(name, seed):
    return f"{slug(name)}_{seed}"


def _num_bytes(model):
    weights = {id(weight): weight for weight in model.weights}.values()
    return sum(int(np.prod(weight.shape)) * keras.ops.convert_to_numpy(weight).itemsize for weight in weights)


def _log_odds(probabilities):
    clipped = np.clip(np.asarray(probabilities, float), 1e-30, 1 - 1e-16)
    return np.log(clipped) - np.log1p(-clipped)
