"""Results of an experiment, and their JSON file."""

import dataclasses
import datetime
import json
import math
import pathlib
import re
from typing import Any

import numpy as np

from keras_distill.compression import Profile
from keras_distill.experiment import environment, table, validation, verdict
from keras_distill.experiment.example import Example, decode_png, encode_png
from keras_distill.experiment.latency import Latency
from keras_distill.experiment.model_result import ModelResult, Run
from keras_distill.experiment.picture import Picture
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import Comparison
from keras_distill.preflight import Finding
from keras_distill.tuning.search import Search
from keras_distill.utils.files import atomic_write

_FORMAT = 2


@dataclasses.dataclass
class Results:
    """Contents of a report.

    Args:
        title: Title of the page, a few words.
        description: One or two sentences on the experiment.
        settings: `{name: value}`, shown as they are.
        models: List of `ModelResult`, in the order of tables and figures. At most one teacher.
        command: Command or code that reproduces the run.
        seconds: Duration of the run.
        seeds: List of the seeds.
        score: The `Score` of the runs. Defaults to the accuracy.
        classes: Class names. Defaults to none, for tasks without classes.
        comparisons: List of `Comparison`. Defaults to none.
        split: Split on which the models were evaluated, "test" or "validation". Defaults to "test".
        num_examples: Number of evaluation examples. Defaults to None, unknown.
        temperature: Softmax temperature at which the logits of the examples are shown, > 0. Defaults to 1.0.
        examples: List of `Example`. Defaults to none.
        pictures: List of `Picture`. Defaults to none, for tasks that draw no predictions.
        search: `Search` that chose the hyperparameters. Defaults to None.
        profiles: List of `compression.Profile` of exported files. Defaults to none.
        findings: `{name of the model: [Finding]}` of `preflight.check`. Defaults to none.
        files: `{description: path relative to the results}` of files that belong to the run. Defaults to none.
        versions: `{package: version}`. Defaults to those of this process.
        machine: `{"cores", "processor", "accelerators"}`. Defaults to this machine.
        date: ISO 8601 timestamp. Defaults to now.

    Raises:
        ValueError: If names, roles or shapes of models, comparisons, examples, search, profiles and findings are
            inconsistent.

    Example:

    >>> from keras_distill.experiment import ModelResult, Results, Run
    >>> models = [ModelResult("baseline", "baseline", 31_415, [Run(0, 0.75)])]
    >>> results = Results("Title", "Description.", {}, models, "python train.py", 12.5, [0], classes=["cat", "dog"])
    >>> results.save("results.json")
    """

    title: str
    description: str
    settings: dict[str, Any]
    models: list[ModelResult]
    command: str
    seconds: float
    seeds: list[int]
    score: Score = Score("accuracy")
    classes: list[str] = dataclasses.field(default_factory=list)
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    split: str = "test"
    num_examples: int | None = None
    temperature: float = 1.0
    examples: list[Example] = dataclasses.field(default_factory=list)
    pictures: list[Picture] = dataclasses.field(default_factory=list)
    search: Search | None = None
    profiles: list[Profile] = dataclasses.field(default_factory=list)
    findings: dict[str, list[Finding]] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=environment.versions)
    machine: dict[str, Any] = dataclasses.field(default_factory=environment.machine)
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    )

    def __post_init__(self):
        validation.check_results(self)

    def teacher(self) -> ModelResult | None:
        """Return the teacher, or None."""
        return next((model for model in self.models if model.role == "teacher"), None)

    def baseline(self, model: ModelResult) -> ModelResult | None:
        """Return the first baseline of a distilled model, or None.

        Args:
            model: One of `models`.
        """
        return next((other for name in model.baselines for other in self.models if other.name == name), None)

    def comparison(self, model: str, baseline: str | None = None) -> Comparison | None:
        """Return the comparison of a model with a baseline, or None.

        Args:
            model: Name of the model.
            baseline: Name of the baseline. Defaults to None: the first comparison of the model.
        """
        return next(
            (each for each in self.comparisons if each.model == model and baseline in (None, each.baseline)), None
        )

    def table(self) -> list[table.Row]:
        """Return one `Row` of numbers per model."""
        return table.rows(self)

    def text(self) -> str:
        """Return the table as plain text, aligned in columns."""
        return table.text(self)

    def verdict(self) -> list[str]:
        """Return a summary in sentences."""
        return verdict.verdict(self)

    def save(self, path: str | pathlib.Path) -> None:
        """Write the results as JSON. Numbers that JSON does not know become `{"not_finite": "nan"}`.

        Args:
            path: Path of the file, such as `results.json`. Missing folders are created.
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": _FORMAT, **_plain(self)}, indent=2, ensure_ascii=False, allow_nan=False)
        # One line per list of numbers keeps a confusion matrix readable. No JSON string contains a line break.
        text = re.sub(r"\[\n([^][{}\"]*)\n\s*\]", lambda match: f"[{' '.join(match[1].split())}]", text)
        with atomic_write(path) as file:
            file.write(f"{text}\n".encode())

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Results":
        """Read results that `save` wrote.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If the file was written by another version, or its contents are inconsistent.
        """
        fields = json.loads(pathlib.Path(path).read_text(encoding="utf-8"), object_hook=_revive)
        if fields.pop("format", None) != _FORMAT:
            raise ValueError(
                f"'{path}' was written by another version of keras_distill; run again or use that version."
            )
        fields["score"] = Score(**fields["score"])
        fields["models"] = [_model(model) for model in fields["models"]]
        fields["comparisons"] = [Comparison(**_tuples(comparison)) for comparison in fields["comparisons"]]
        fields["examples"] = [
            Example(**{**example, "image": decode_png(example["image"])}) for example in fields["examples"]
        ]
        fields["pictures"] = [_picture(picture) for picture in fields.get("pictures", [])]
        fields["search"] = None if fields["search"] is None else Search.from_fields(fields["search"])
        fields["profiles"] = [Profile(**_tuples(profile)) for profile in fields["profiles"]]
        fields["findings"] = {
            name: [Finding(**finding) for finding in listed] for name, listed in fields["findings"].items()
        }
        return cls(**fields)


def _plain(value):
    """Convert a value to the types that JSON knows."""
    if isinstance(value, Example):
        return {"image": encode_png(value.image), "label": _plain(value.label), "logits": _plain(value.logits)}
    if isinstance(value, Picture):
        predictions = {name: encode_png(image) for name, image in value.predictions.items()}
        return {"image": encode_png(value.image), "label": encode_png(value.label), "predictions": predictions}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Finding):
        return value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"not_finite": str(value)}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _model(fields):
    latency = fields["latency"]
    runs = [Run(**run) for run in fields["runs"]]
    return ModelResult(**{**fields, "runs": runs, "latency": None if latency is None else Latency(**latency)})


def _picture(fields):
    predictions = {name: decode_png(image) for name, image in fields["predictions"].items()}
    return Picture(decode_png(fields["image"]), decode_png(fields["label"]), predictions)


def _tuples(fields):
    """Return fields with tuples for lists, which JSON has in their place."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _revive(fields):
    return float(fields["not_finite"]) if set(fields) == {"not_finite"} else fields
