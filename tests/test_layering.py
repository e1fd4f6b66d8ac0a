"""Import order of the subpackages, and import time of the package."""

import ast
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "keras_distill"

# A subpackage may import those above it in this list, but not those on its own line.
LEVELS = [
    {"utils", "_compat"},
    {"types"},
    {"schedules", "models"},
    {"data"},
    {"mapping", "distribution"},
    {"losses", "heads", "teachers"},
    {"metrics"},
    {"training"},
    {"saving"},
    {"compression", "preflight"},
    {"cache"},
    {"language"},
    {"callbacks"},
    {"tuning"},
    {"experiment"},
    {"report"},
    {"pipelines"},
    {"cli"},
]
# Files of a catalog import only these files of the same folder, so that its entries are independent.
COMMON_FILES = {
    "base",
    "checks",
    "class_masks",
    "conversion",
    "distributions",
    "maths",
    "softened",
    "mean",
    "model",
    "numpy_teacher",
}
CATALOGS = {"losses", "heads", "teachers", "metrics"}


def level(module):
    return next(number for number, modules in enumerate(LEVELS) if module in modules)


def imports(path):
    """Return the modules of the package that a file imports, as tuples of names below `keras_distill`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "keras_distill":
            parts = tuple(node.module.split(".")[1:])
            yield from [parts] if parts else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "keras_distill")


FILES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_import_lower_levels_only(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for imported in imports(path):
        assert imported, f"{path} imports the whole package"
        if imported[0] == own[0]:
            if own[0] in CATALOGS:
                assert imported[1] in COMMON_FILES, f"{path} imports its sibling {imported[1]}"
        else:
            assert level(imported[0]) < level(own[0]), f"{path} imports {'.'.join(imported)} from above or beside"


def test_every_package_has_a_level():
    modules = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert modules == set().union(*LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_folders_are_not_nested(path):
    assert len(path.relative_to(PACKAGE).parts) <= 2


@pytest.mark.parametrize("folder", sorted(CATALOGS))
def test_every_file_of_a_catalog_is_exported(folder):
    listed = {imported[1] for imported in imports(PACKAGE / folder / "__init__.py") if len(imported) > 1}
    assert {path.stem for path in (PACKAGE / folder).glob("*.py")} - {
        "__init__",
        "checks",
        "class_masks",
        "distributions",
        "maths",
        "softened",
    } <= listed


def test_import_is_silent_and_loads_no_optional_packages():
    code = """
import sys, keras
before = set(sys.modules)
import keras_distill
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
optional = {"tfx", "apache_beam", "keras_tuner", "matplotlib", "jinja2", "sklearn", "tensorflow_datasets"}
heavy = loaded & (optional | {"onnxruntime", "ai_edge_litert"})
assert not heavy, heavy
assert not {"keras_distill.report", "keras_distill.tuning"} & set(sys.modules)
# Models that hold these are loaded by Keras alone.
for name in ("Quantized", "Folded", "Agreement", "KLDivergence", "Projection"):
    assert keras.saving.get_registered_object(f"keras_distill>{name}") is not None, name
"""
    environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "", "HOME": "/nonexistent"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_import_time():
    code = """
import time, keras, tensorflow
start = time.process_time()
import keras_distill
print(time.process_time() - start)
"""
    environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "", "HOME": "/nonexistent"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(run.stdout) < 0.3
