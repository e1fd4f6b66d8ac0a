"""The how-to guides: their code runs as printed, and they cover every finding and every task."""

import importlib
import inspect
import pathlib
import re
import shlex

import pytest

from keras_distill.cli import main

ROOT = pathlib.Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
# {page: number of blocks that cannot run in this environment}. A page that is not listed runs completely.
NOT_RUN = {
    "beam": 1,
    "checkpoints": 1,
    "devices": 4,
    "monitoring": 2,
    "teachers": 3,
    "tfx": 1,
}
PAGES = sorted(path.stem for path in HOWTO.glob("*.md") if path.stem != "index")


def blocks(page):
    return [match.groupdict() for match in FENCE.finditer((HOWTO / f"{page}.md").read_text(encoding="utf-8"))]


def commands(code):
    """The commands of a shell block, without comments; a backslash continues a line."""
    lines = code.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip() and not line.startswith("#")]


def run_shell(code):
    for program, *arguments in commands(code):
        assert program == "keras-distill", f"'{program}' needs the comment '<!-- not run: reason -->'."
        assert main(arguments) == 0, arguments


@pytest.mark.slow  # Minutes, most of them for the experiments of a few pages.
@pytest.mark.parametrize("page", PAGES)
def test_page_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    runnable = [block for block in blocks(page) if block["reason"] is None]
    assert runnable or page in NOT_RUN
    for block in runnable:
        assert block["language"] in ("python", "sh", "text"), block["language"]
        if block["language"] == "python":
            exec(compile(block["code"], f"{page}.md", "exec"), namespace)  # noqa: S102
        elif block["language"] == "sh":
            run_shell(block["code"])


def test_on_policy_distillation_instead_of_causal_lm_fit(tmp_path, monkeypatch):
    """In at most 15 lines, after the blocks that make the tokenizer and the models of the page."""
    monkeypatch.chdir(tmp_path)
    code = [block["code"] for block in blocks("language_models") if block["language"] == "python"]
    (shown,) = (block for block in code if "fit(prompts.map(" in block)
    assert len(shown.splitlines()) <= 15
    (models,) = (re.search(r"def causal_lm\(.*?\n\n", block, re.S)[0] for block in code if "def causal_lm(" in block)
    imports = "import keras\nfrom keras_distill import Distiller, Term\n"
    tokenizer = next(block for block in code if "preprocessor = " in block)
    namespace = {}
    exec("\n".join((imports, tokenizer, models, shown)), namespace)  # noqa: S102
    assert namespace["student"].generate("a cab ").startswith("a cab ")


def test_blocks_that_are_not_run():
    counts = {page: sum(block["reason"] is not None for block in blocks(page)) for page in PAGES}
    assert {page: count for page, count in counts.items() if count} == NOT_RUN


def test_python_that_is_not_run_is_valid():
    for page in PAGES:
        for block in blocks(page):
            if block["language"] == "python":
                compile(block["code"], f"{page}.md", "exec")


def findings():
    """Names of all findings in the source of `keras_distill.preflight`, constants included."""
    folder = pathlib.Path(importlib.import_module("keras_distill.preflight").__file__).parent
    names = set()
    for path in sorted(folder.glob("*_checks.py")):
        module = importlib.import_module(f"keras_distill.preflight.{path.stem}")
        for argument in re.findall(r"\bFinding\(\s*(.*?),\s", inspect.getsource(module), re.S):
            quoted = re.findall(r'"([^"]+)"', argument)
            names.update(quoted or [getattr(module, argument)])
    return names


def test_every_finding_has_a_section():
    headings = re.findall(r"^### (.+)$", (HOWTO / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(findings()) >= 23
    assert findings() <= set(headings)


def test_errors_are_those_of_the_package():
    """The fixed parts of each message in the table are in the source."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "keras_distill").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)
    table = (HOWTO / "troubleshooting.md").read_text(encoding="utf-8").partition("## Errors that people meet")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(messages) >= 10
    for message in messages:
        for part in message.split(" ... "):
            assert part.strip(" .") in source, (message, part)
