"""Pages of the site: their code runs as printed, and their tables are complete."""

import dataclasses
import importlib
import importlib.util
import inspect
import pathlib
import re
import types
import typing

import pytest

import keras_distill
from keras_distill import data, experiment
from keras_distill.experiment import Results, Task

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# test_guides.py tests the guides; building the site runs the tutorials.
FOLDERS = ("start", "concepts", "migrating", "reference", "benchmarks", "project")


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


RUNNABLE = sorted(path for folder in FOLDERS for path in (DOCS / folder).glob("*.md") if python_blocks(path))


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: str(path.relative_to(DOCS)))
def test_code_runs_as_printed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in python_blocks(path):
        exec(compile(block, path.name, "exec"), namespace)  # noqa: S102


def test_pages_with_code():
    names = {path.relative_to(DOCS).with_suffix("").as_posix() for path in RUNNABLE}
    migrating = {f"migrating/{name}" for name in ("keras_distillation", "keras_example", "train_step")}
    assert names == {"start/quick_start", *migrating}


@pytest.mark.parametrize("folder", ["losses", "heads"])
def test_every_entry_of_a_catalogue_has_a_row_and_a_test(folder):
    catalogue = getattr(keras_distill, folder)
    public = {name: value for name, value in vars(catalogue).items() if isinstance(value, type)}
    rows = re.findall(r"^\| `(\w+)\(.*?\)` \| \S.* \| \S.* \|$", page("reference/losses.md"), re.MULTILINE)
    named = [name for name in rows if name in public]
    assert sorted(named) == sorted(set(public) - {"DistillationLoss", "Head"})
    for name in named:
        module = public[name].__module__.rsplit(".", 1)[1]
        assert (ROOT / "tests" / folder / f"test_{module}.py").exists(), name


def test_rows_name_the_arguments_of_the_constructor():
    from keras_distill import heads, losses

    for name, arguments in re.findall(r"^\| `(\w+)\((.*?)\)` \|", page("reference/losses.md"), re.MULTILINE):
        value = getattr(losses, name, None) or getattr(heads, name)
        assert set(filter(None, arguments.split(", "))) <= set(inspect.signature(value).parameters), name


def test_every_row_of_the_comparison_is_a_test():
    tests = re.findall(r"def (test_d\d+)_", (ROOT / "tests" / "test_faults.py").read_text())
    named = re.findall(r"`(test_d\d+)`", page("migrating/keras_distillation.md"))
    assert sorted(named) == sorted(f"test_d{number}" for number in range(1, 26)) == sorted(set(tests))


def test_every_augmentation_has_a_row():
    named = [value for value in map(vars(data).get, data.__all__) if isinstance(value, type)]
    augmentations = [value for value in named if issubclass(value, data.Augmentation)]
    assert len(augmentations) == 8
    for augmentation in augmentations:
        assert f"`{augmentation.__name__}" in page("howto/transfer_data.md")


def test_every_task_is_on_the_page_of_experiments():
    tasks = [value for value in vars(experiment).values() if isinstance(value, type) and issubclass(value, Task)]
    assert len(tasks) == 8
    for task in tasks:
        assert re.search(rf"`{task.__name__}\b", page("howto/experiments.md")), task


def nested(kind):
    """Dataclasses and named tuples in a type, such as `Run` in `list[Run]`."""
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        yield kind
        for each in typing.get_type_hints(kind, localns=vars(importlib.import_module(kind.__module__))).values():
            yield from nested(each)
    for each in typing.get_args(kind):
        if isinstance(each, type | types.GenericAlias | types.UnionType) or typing.get_args(each):
            yield from nested(each)


def test_the_schema_of_results_names_every_record():
    records = {kind.__name__ for kind in nested(Results)}
    assert {"Results", "Run", "Finding"} <= records
    shown = re.findall(r"^```\{fields\} [\w.]+\.(\w+)$", page("reference/results.md"), re.MULTILINE)
    assert set(shown) == records and len(shown) == len(records)


def test_the_api_reference_names_every_package():
    from tests.support.public import PACKAGES

    listed = re.findall(r"^   (keras_distill\.\w+)$", page("reference/api.md"), re.MULTILINE)
    packages = {package.__name__ for package in PACKAGES} - {"keras_distill"}
    assert set(listed) == packages | {"keras_distill.experiment"}
    top = set(re.findall(r"^   ~keras_distill\.\w+\.(\w+)$", page("reference/api.md"), re.MULTILINE))
    names = {name for name in keras_distill.__all__ if not inspect.ismodule(getattr(keras_distill, name))}
    assert top == names - {"OUTPUT"}


def load(path):
    """Import a file of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def luminance(color):
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear))


def test_figures_are_those_of_the_script():
    figures = load(DOCS / "figures.py")
    drawn = {f"{name}.svg": draw().svg() for name, draw in figures.FIGURES.items()}
    assert drawn == {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "_static").glob("*.svg")}


def test_figures_are_readable_on_light_and_dark_pages():
    figures = load(DOCS / "figures.py")
    for color in (figures.TEXT, figures.TEACHER, figures.STUDENT, figures.LOSS):
        # A white page, and the dark pages of the site and of code hosts.
        for ground in ("#ffffff", "#131416", "#0d1117"):
            light, dark = sorted((luminance(color), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4, (color, ground)


def test_markdown_of_docstrings():
    convert = load(DOCS / "_extensions" / "markdown_docstrings.py").to_restructured_text
    assert convert(["Call `f(x)`.", "", "```", "a = `b`", "```", "Text:", "- one", "- two"]) == [
        "Call ``f(x)``.",
        "",
        "",
        ".. code-block:: text",
        "",
        "    a = `b`",
        "",
        "Text:",
        "",
        "- one",
        "- two",
    ]
    assert convert(["Example:", ">>> f(1)"]) == ["", ".. rubric:: Example", "", ">>> f(1)"]
    # Code that is continued on the next line.
    assert convert(["A `Term(", "loss)`."]) == ["A ``Term(", "loss)``."]
