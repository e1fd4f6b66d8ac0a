"""The numbers of a distillation run, and their file."""

import base64
import dataclasses
import datetime
import io
import json
import math
import pathlib
import re

import numpy as np

from keras_distill.compression import Profile
from keras_distill.preflight import Finding
from keras_distill.report import environment, table, verdict
from keras_distill.report.search import Search

ROLES = ("teacher", "alone", "distilled")


@dataclasses.dataclass
class Run:
    """One training of one model.

    Args:
        seed: The seed it was trained with.
        accuracy: Fraction of the test examples it gets right, 0 to 1.
        errors: Number of test examples it gets wrong.
        history: `{name: [value per epoch]}` as in `keras.callbacks.History`; empty if it was trained earlier.
        confusion: Counts, `[true class][predicted class]`, or None.
    """

    seed: int
    accuracy: float
    errors: int
    history: dict = dataclasses.field(default_factory=dict)
    confusion: list | None = None


@dataclasses.dataclass
class ModelResult:
    """One model of the comparison and its runs.

    Args:
        name: Shown everywhere, so short: "student distilled".
        role: "teacher", "alone" (a student that saw only labels) or "distilled".
        parameters: Number of weights.
        runs: At least one `Run`.
        ms_per_example: Time of one prediction in milliseconds; None if not measured.
        baseline: Name of the "alone" model that a distilled one is compared with; by default the only one there is.
    """

    name: str
    role: str
    parameters: int
    runs: list
    ms_per_example: float | None = None
    baseline: str | None = None

    def mean(self, field):
        """Mean of "accuracy" or "errors" over the runs."""
        return float(np.mean([getattr(run, field) for run in self.runs]))

    def spread(self, field):
        """Sample standard deviation of "accuracy" or "errors" over the runs; None for one run."""
        return float(np.std([getattr(run, field) for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    def confusion(self):
        """Sum of the runs' confusion matrices, shape `[classes, classes]`; None unless every run has one."""
        matrices = [run.confusion for run in self.runs]
        return None if any(matrix is None for matrix in matrices) else np.sum(matrices, axis=0)


# Without `==`: that of two arrays is no truth value.
@dataclasses.dataclass(eq=False)
class Example:
    """One test image and what the models say of it.

    Args:
        image: uint8, shape `[height, width]` or `[height, width, 3]`.
        label: Index of its class.
        logits: `{name of a model: [a logit per class]}`.
    """

    image: np.ndarray
    label: int
    logits: dict


@dataclasses.dataclass
class Results:
    """All that the report of a run shows.

    Args:
        title: What was done, in a few words.
        description: One or two sentences: what is taught to what.
        settings: `{flag: value}`, shown as it is.
        classes: Names of the classes.
        models: The `ModelResult`s, in the order to show them; at most one teacher.
        temperature: Temperature at which the examples' logits are shown.
        command: The exact command.
        seconds: Duration of the whole run.
        seeds: The seeds.
        examples: `Example`s; may be empty.
        search: The `Search` that chose hyperparameters, or None.
        footprints: `Footprint`s of files of the models; may be empty.
        findings: `{name of a model: [Finding]}` of what was checked before it was trained.
        versions, machine, date: Filled in when made; kept as they are by `load`.

    Raises:
        ValueError: If names, roles or shapes do not fit together.
    """

    title: str
    description: str
    settings: dict
    classes: list
    models: list
    temperature: float
    command: str
    seconds: float
    seeds: list
    examples: list = dataclasses.field(default_factory=list)
    search: Search | None = None
    footprints: list = dataclasses.field(default_factory=list)
    findings: dict = dataclasses.field(default_factory=dict)
    versions: dict = dataclasses.field(default_factory=environment.versions)
    machine: dict = dataclasses.field(default_factory=environment.machine)
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    )

    def __post_init__(self):
        _check(self)

    def teacher(self):
        """The teacher's `ModelResult`, or None."""
        return next((model for model in self.models if model.role == "teacher"), None)

    def baseline(self, model):
        """The `ModelResult` that a distilled model is compared with, or None."""
        if model.role != "distilled":
            return None
        alone = [other for other in self.models if other.role == "alone"]
        return next((other for other in alone if model.baseline in (None, other.name)), None)

    def table(self):
        """One `Row` of numbers per model."""
        return table.rows(self)

    def text(self):
        """The table as aligned plain text, to print."""
        return table.text(self.table())

    def verdict(self):
        """What the numbers say, a list of sentences."""
        return verdict.verdict(self)

    def save(self, path):
        """Writes everything as JSON; numbers that JSON does not know become `{"not_finite": "nan"}`."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_plain(self), indent=2, ensure_ascii=False, allow_nan=False)
        # One line per list of numbers: a confusion matrix then looks like one. No JSON string holds a line break.
        text = re.sub(r"\[\n([^][{}\"]*)\n\s*\]", lambda match: f"[{' '.join(match[1].split())}]", text)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path):
        """What `save` wrote."""
        fields = json.loads(pathlib.Path(path).read_text(encoding="utf-8"), object_hook=_revive)
        models = [
            ModelResult(**{**model, "runs": [Run(**run) for run in model["runs"]]}) for model in fields.pop("models")
        ]
        examples = [Example(**{**example, "image": decode_png(example["image"])}) for example in fields.pop("examples")]
        search = fields.pop("search", None)
        search = None if search is None else Search.from_fields(search)
        footprints = [
            Profile(**each | {"accuracies": tuple(each["accuracies"])}) for each in fields.pop("footprints", [])
        ]
        findings = {name: [Finding(**each) for each in found] for name, found in fields.pop("findings", {}).items()}
        return cls(models=models, examples=examples, search=search, footprints=footprints, findings=findings, **fields)


def encode_png(image):
    """An image, uint8 `[height, width]` or `[height, width, 3]`, as a PNG in base64."""
    # Not installed with keras_distill; numbers can do without.
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_png(text):
    """The image that `encode_png` wrote, exactly."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _plain(value):
    """Only what JSON knows."""
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


def _revive(fields):
    return float(fields["not_finite"]) if set(fields) == {"not_finite"} else fields


def _check(results):
    names = [model.name for model in results.models]
    if len(set(names)) < len(names):
        raise ValueError(f"Every model needs a name of its own. Received: {names}.")
    if sum(model.role == "teacher" for model in results.models) > 1:
        raise ValueError(f"A report compares with at most one teacher. Received roles: {_roles(results)}.")
    for model in results.models:
        _check_model(results, model)
    for number, example in enumerate(results.examples):
        _check_example(results, number, example)
    chosen = [] if results.search is None else [results.search.found, results.search.defaults]
    strange = [name for name in chosen if name is not None and name not in names]
    if strange:
        raise ValueError(f"The search names the models {strange}. There: {names}.")
    for what, of in (("footprints", [each.model for each in results.footprints]), ("findings", results.findings)):
        strange = sorted(set(of) - set(names))
        if strange:
            raise ValueError(f"There are {what} of the models {strange}. There: {names}.")


def _check_model(results, model):
    size = len(results.classes)
    alone = [other.name for other in results.models if other.role == "alone"]
    if model.role not in ROLES:
        raise ValueError(f"The role of '{model.name}' must be one of {ROLES}. Received: '{model.role}'.")
    if not model.runs:
        raise ValueError(f"'{model.name}' has no runs. Give it at least one.")
    if model.baseline is not None and model.baseline not in alone:
        raise ValueError(f"'{model.name}' has the baseline '{model.baseline}'. Models with the role 'alone': {alone}.")
    if model.role == "distilled" and model.baseline is None and len(alone) > 1:
        raise ValueError(f"Give '{model.name}' a baseline: there are several models with the role 'alone': {alone}.")
    for run in model.runs:
        if run.confusion is not None and np.shape(run.confusion) != (size, size):
            raise ValueError(
                f"The confusion of '{model.name}', seed {run.seed}, must have the shape {(size, size)} "
                f"of {size} classes. Received: {np.shape(run.confusion)}."
            )


def _check_example(results, number, example):
    image, size = np.asarray(example.image), len(results.classes)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)):
        raise ValueError(
            f"The image of example {number} must be uint8, [height, width] or [height, width, 3]. "
            f"Received: {image.dtype}, {image.shape}."
        )
    if not 0 <= example.label < size:
        raise ValueError(f"Example {number} has the label {example.label}, but there are {size} classes.")
    for name, logits in example.logits.items():
        if name not in _roles(results) or np.shape(logits) != (size,):
            raise ValueError(
                f"Example {number} has logits of '{name}' of shape {np.shape(logits)}. "
                f"Expected shape {(size,)}, from one of {list(_roles(results))}."
            )


def _roles(results):
    return {model.name: model.role for model in results.models}
