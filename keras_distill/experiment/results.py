"""Results of an experiment, and their JSON file."""

import base64
import dataclasses
import datetime
import io
import json
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_distill.compression import Profile
from keras_distill.experiment import environment, table, validation, verdict
from keras_distill.experiment.latency import Latency
from keras_distill.experiment.score import Score
from keras_distill.experiment.statistics import Comparison
from keras_distill.preflight import Finding
from keras_distill.tuning.search import Search
from keras_distill.utils.files import atomic_write

_FORMAT = 2


@dataclasses.dataclass
class Run:
    """One training run of one model.

    Args:
        seed: Seed of the run.
        score: Score on the evaluation split, such as an accuracy, 0 to 1.
        history: `{name: [value per epoch]}` as in `keras.callbacks.History`. Defaults to empty, for a model that was
            trained elsewhere.
        agreement: Score with the teacher's predictions as labels. Defaults to None, not measured.
        per_class: Score of each class; NaN where it is undefined. Defaults to None, not recorded.
        confusion: Confusion matrix, counts `[true class][predicted class]`. Defaults to None, not recorded.

    Example:

    >>> from keras_distill.experiment import Run
    >>> run = Run(seed=0, score=0.957)
    """

    seed: int
    score: float
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    agreement: float | None = None
    per_class: list[float] | None = None
    confusion: list[list[int]] | None = None


@dataclasses.dataclass
class ModelResult:
    """One model of the comparison with its runs.

    Args:
        name: Short name for tables and figures, such as "distilled".
        role: "teacher", "baseline" (a student trained without a teacher) or "distilled".
        parameters: Number of weights. None if unknown, such as for a teacher that is not a Keras model.
        runs: List of `Run`, at least one.
        latency: `Latency` of a prediction. Defaults to None, not measured.
        baselines: Names of the models that a distilled model is compared with; the teacher-student gap refers to the
            first. Defaults to none.
        bytes: Size of the saved model in bytes. Defaults to None, not saved.

    Example:

    >>> from keras_distill.experiment import ModelResult, Run
    >>> model = ModelResult("distilled", "distilled", 31_415, [Run(0, 0.957), Run(1, 0.955)])
    >>> round(model.mean(), 4)
    0.956
    """

    name: str
    role: str
    parameters: int | None
    runs: list[Run]
    latency: Latency | None = None
    baselines: Sequence[str] = ()
    bytes: int | None = None

    def __post_init__(self):
        # A list, as JSON returns it, so that loaded results equal the saved ones.
        self.baselines = list(self.baselines)

    def mean(self, field: str = "score") -> float:
        """Return the mean over the runs.

        Args:
            field: "score" or "agreement". Defaults to "score".
        """
        return float(np.mean([getattr(run, field) for run in self.runs]))

    def spread(self, field: str = "score") -> float | None:
        """Return the sample standard deviation over the runs; None for one run.

        Args:
            field: "score" or "agreement". Defaults to "score".
        """
        return float(np.std([getattr(run, field) for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    def confusion(self) -> np.ndarray | None:
        """Return the sum of the runs' confusion matrices, shape `[classes, classes]`; None unless every run has one."""
        confusions = [run.confusion for run in self.runs]
        return None if any(confusion is None for confusion in confusions) else np.sum(confusions, axis=0)

    def per_class(self) -> np.ndarray | None:
        """Return the mean over the runs of the score of each class, shape `[classes]`; None unless every run has it."""
        values = [run.per_class for run in self.runs]
        return None if any(each is None for each in values) else np.mean(np.array(values, float), axis=0)


# Without `==`: the comparison of two arrays has no truth value.
@dataclasses.dataclass(eq=False)
class Example:
    """One image with the logits of the models.

    Args:
        image: uint8, shape `[height, width]` or `[height, width, 3]`.
        label: Class index.
        logits: `{name of the model: [logit per class]}`.

    Example:

    >>> from keras_distill.experiment import Example
    >>> example = Example(np.zeros((28, 28), "uint8"), label=0, logits={"teacher": [4.0, -4.0]})
    """

    image: np.ndarray
    label: int
    logits: dict[str, Any]


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
        temperature: Softmax temperature at which the logits of the examples are shown, > 0. Defaults to 4.0.
        examples: List of `Example`. Defaults to none.
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
    temperature: float = 4.0
    examples: list[Example] = dataclasses.field(default_factory=list)
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
        fields["search"] = None if fields["search"] is None else Search.from_fields(fields["search"])
        fields["profiles"] = [Profile(**_tuples(profile)) for profile in fields["profiles"]]
        fields["findings"] = {
            name: [Finding(**finding) for finding in listed] for name, listed in fields["findings"].items()
        }
        return cls(**fields)


def encode_png(image: np.ndarray) -> str:
    """Encode an image as a PNG in base64.

    Args:
        image: uint8, shape `[height, width]` or `[height, width, 3]`.
    """
    # Pillow is not a dependency of keras_distill: results without examples do not need it.
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_png(text: str) -> np.ndarray:
    """Decode an image that `encode_png` encoded, without loss.

    Args:
        text: PNG in base64.
    """
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _plain(value):
    """Convert a value to the types that JSON knows."""
    if isinstance(value, Example):
        return {"image": encode_png(value.image), "label": _plain(value.label), "logits": _plain(value.logits)}
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


def _tuples(fields):
    """Return fields with tuples for lists, which JSON has in their place."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _revive(fields):
    return float(fields["not_finite"]) if set(fields) == {"not_finite"} else fields
