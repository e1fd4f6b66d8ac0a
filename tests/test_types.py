"""Public signatures are annotated."""

import ast
import inspect
import json
import pathlib
import subprocess
import sys

import pytest

from tests.support.public import PUBLIC

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parent.parent
# Overrides of Keras and KerasTuner, whose signatures are documented there.
OVERRIDES = {
    "build",
    "call",
    "compile_from_config",
    "compute_loss",
    "compute_metrics",
    "compute_output_shape",
    "fit",
    "from_config",
    "get_config",
    "load_own_variables",
    "result",
    "save_own_variables",
    "set_model",
    "summary",
    "test_step",
    "train_step",
    "update_state",
}


def public_functions():
    """`{(file, first line): name}` of public functions, constructors and methods."""
    found = {}
    for name, value in PUBLIC.items():
        functions = {name: value}
        if inspect.isclass(value):
            functions = {
                f"{name}.{key}": getattr(member, "__func__", getattr(member, "fget", member))
                for key, member in vars(value).items()
                if (key == "__init__" or not key.startswith(("_", "on_"))) and key not in OVERRIDES
            }
        for full, function in functions.items():
            if inspect.isfunction(function) and function.__module__.startswith("keras_distill"):
                code = inspect.unwrap(function).__code__
                # The constructor of a dataclass is generated.
                if code.co_filename != "<string>":
                    found[code.co_filename, code.co_firstlineno] = full
    return found


def definitions(path):
    """`(node, first line)` of every function of a file, decorators included."""
    for node in ast.walk(ast.parse(pathlib.Path(path).read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def test_every_public_function_is_found():
    functions = public_functions()
    assert len(functions) > 150
    names = set(functions.values())
    assert "keras_distill.training.term.Term.compare" in names
    assert "keras_distill.training.distiller.Distiller.__init__" in names


def test_return_values_are_annotated():
    functions, missing = public_functions(), []
    for path in {path for path, _ in functions}:
        for node, line in definitions(path):
            name = functions.get((path, line))
            if name and node.returns is None and node.name != "__init__":
                missing.append(name)
    assert not missing, "\n".join(sorted(missing))


def test_parameters_are_annotated(tmp_path):
    configuration = {
        "include": [str(ROOT / "keras_distill")],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "off",
        "reportMissingParameterType": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(configuration))
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "-p",
        str(tmp_path),
        "--outputjson",
        "--pythonpath",
        sys.executable,
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(run.stdout)
    # A run that analyzed nothing would find nothing.
    assert report["summary"]["filesAnalyzed"] > 150, run.stderr
    functions, missing = public_functions(), []
    spans = {path: [(node.lineno, node.end_lineno, line) for node, line in definitions(path)] for path, _ in functions}
    for diagnostic in report["generalDiagnostics"]:
        path, line = diagnostic["file"], diagnostic["range"]["start"]["line"] + 1
        enclosing = [span for span in spans.get(path, ()) if span[0] <= line <= span[1]]
        name = functions.get((path, max(enclosing)[2])) if enclosing else None
        if name:
            missing.append(f"{name}: {diagnostic['message']}")
    assert not missing, "\n".join(sorted(missing))
