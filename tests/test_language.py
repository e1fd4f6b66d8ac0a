"""Docstrings, messages and documents use plain technical English and the field's terms."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PYTHON = sorted(path for folder in ("keras_distill", "recipes", "tests") for path in (ROOT / folder).rglob("*.py"))
TEXTS = sorted(
    [ROOT / "README.md", ROOT / "BUILD.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("keras_distill/**/*.jinja")]
)

# A summary is a verb phrase or a noun phrase.
HEADLESS = re.compile(r"^(What|Which|Whether|How|Of|Where|Who|That which|Those)\b")
PHRASES = [
    # Negated nouns, inversions and archaic words.
    r"(is|are) no [a-z]+[.,:;]",
    r"anew|likewise|heeds?|heeded|for ever|as it was|of (its|their|our|your) own|goes on|none there|at hand|to be had",
    # Data do not speak.
    r"(teacher|student|cache|check|report|page|model)s? (says?|said|speaks?|spoke|tells?|thinks?|knows)",
    r"is told|are told|is asked|has said|has spoken|asks the teacher|a wish to|no wish to|no idea (what|which)",
    # Other words than the field's.
    r"is refused|are refused|was judged|judges|drowns?|held out|taught by",
    r"student alone|inner (layers?|activations?)|dark knowledge of|quantis|regularis|normalis(?!ed by the authors)",
    r"rounds? while|blocks share one set|peers that teach|own past|what it costs|machine that may be taken away",
    r"run that may be killed|examples of a step|draw the page|devices that share a step",
]
DIALECT = re.compile(r"\b(" + "|".join(PHRASES) + r")\b", re.IGNORECASE)
# (file, text): reason. The text is allowed in that file.
EXCEPTIONS = {
    ("tests/test_language.py", ""): "lists the phrases",
    ("docs/changelog.md", "| role `alone`"): "an old name, in the table of renamed names",
}


def documented(tree):
    """`(node, docstring)` of every module, class and function."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            yield node, ast.get_docstring(node)


def python_hits(source):
    tree = ast.parse(source)
    docstrings = set()
    for node, text in documented(tree):
        docstrings.add(id(node.body[0].value))
        if HEADLESS.match(text):
            yield node.body[0].lineno, "headless summary", text.splitlines()[0]
        for number, line in enumerate(text.splitlines()):
            if DIALECT.search(line):
                yield node.body[0].lineno + number, "phrase", line.strip()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        if is_text and id(node) not in docstrings and DIALECT.search(node.value):
            yield node.lineno, "phrase", node.value.strip().splitlines()[0]
    for number, line in enumerate(source.splitlines(), 1):
        comment = re.search(r"(?:^|\s)#\s(.*)", line)
        if comment and (DIALECT.search(comment[1]) or HEADLESS.match(comment[1])):
            yield number, "comment", comment[1]


def text_hits(source):
    for number, line in enumerate(source.splitlines(), 1):
        if DIALECT.search(line):
            yield number, "phrase", line.strip()


def is_excepted(path, text):
    name = str(path.relative_to(ROOT))
    return any(name == file and allowed in text for file, allowed in EXCEPTIONS)


@pytest.mark.parametrize("path", [*PYTHON, *TEXTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_wording(path):
    source = path.read_text(encoding="utf-8")
    hits = python_hits(source) if path.suffix == ".py" else text_hits(source)
    found = [f"{path}:{line}: {kind}: {text}" for line, kind, text in hits if not is_excepted(path, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        '"""What is refused."""',
        'def f():\n    """Whether it fits."""',
        'raise ValueError("The teacher has spoken.")',
        "x = 1  # Which of them.",
        '"""Return it.\n\nA run that may be killed.\n"""',
    ],
)
def test_the_check_finds(source):
    assert list(python_hits(source))


def test_the_check_finds_in_documents():
    assert list(text_hits("A student alone, held out."))
    assert not list(text_hits("The baseline on the validation split."))


def test_exceptions_are_needed():
    for file, _ in EXCEPTIONS:
        assert (ROOT / file).exists()


def test_no_address_of_a_package_registry():
    # Written in parts, so that this file does not contain one.
    hosts = re.compile(
        "|".join(("py" + r"pi\.org", "pythonhosted" + r"\.org", "npmjs" + r"\.(org|com)", "deb" + r"\.debian\.org"))
    )
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if (
            path.is_file()
            and path.suffix in (".py", ".md", ".json", ".toml", ".txt", ".jinja", "")
            and not any(
                part in (".git", "runs", "build", "__pycache__")
                or part.startswith(".venv")
                or part.endswith(("_cache", ".egg-info"))
                for part in parts
            )
        ):
            assert not hosts.search(path.read_text(encoding="utf-8", errors="ignore")), path
