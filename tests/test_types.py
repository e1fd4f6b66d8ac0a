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
    missing = missing_return_values(public_functions())
    assert not missing, "\n".join(missing)


def missing_return_values(functions):
    """Names of functions without an annotated return value."""
    return sorted(
        name
        for path in {path for path, _ in functions}
        for node, line in definitions(path)
        if (name := functions.get((path, line))) and node.returns is None and node.name != "__init__"
    )


def missing_parameters(functions, folder, tmp_path):
    """`(messages, number of analyzed files)` of functions with parameters that are not annotated."""
    configuration = {
        "include": [str(folder)],
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
    missing = []
    spans = {path: [(node.lineno, node.end_lineno, line) for node, line in definitions(path)] for path, _ in functions}
    for diagnostic in report["generalDiagnostics"]:
        path, line = diagnostic["file"], diagnostic["range"]["start"]["line"] + 1
        enclosing = [span for span in spans.get(path, ()) if span[0] <= line <= span[1]]
        name = functions.get((path, max(enclosing)[2])) if enclosing else None
        if name:
            missing.append(f"{name}: {diagnostic['message']}")
    return sorted(missing), report["summary"]["filesAnalyzed"]


def test_parameters_are_annotated(tmp_path):
    missing, analyzed = missing_parameters(public_functions(), ROOT / "keras_distill", tmp_path)
    # A run that analyzed nothing would find nothing.
    assert analyzed > 150
    assert not missing, "\n".join(missing)


def test_missing_annotations_are_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def annotated(x: int) -> int:\n    return x\n\n\ndef bare(x, y: int):\n    return x\n")
    functions = {(str(file), 1): "annotated", (str(file), 5): "bare"}
    assert missing_return_values(functions) == ["bare"]
    missing, analyzed = missing_parameters(functions, tmp_path, tmp_path)
    assert analyzed == 1 and len(missing) == 1
    assert missing[0].startswith("bare: ") and '"x"' in missing[0]
