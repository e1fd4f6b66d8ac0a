"""Docstrings, messages and documents use plain technical English and the field's terms."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Folders that building the documentation makes.
BUILT = {"_build", "api"}


def sources(folder, pattern):
    """Files of a folder, without those that building the documentation makes."""
    return (path for path in (ROOT / folder).rglob(pattern) if not BUILT & set(path.relative_to(ROOT).parts))


PYTHON = sorted(path for folder in ("keras_distill", "recipes", "tests", "docs") for path in sources(folder, "*.py"))
TEXTS = sorted(
    [ROOT / "README.md", ROOT / "BUILD.md", *ROOT.glob("keras_distill/**/*.jinja")]
    + [path for pattern in ("*.md", "*.txt") for path in sources("docs", pattern)]
)

# A summary is a verb phrase or a noun phrase.
HEADLESS = re.compile(r"^(What|Which|Whether|How|Of|Where|Who|That which|Those)\b")
# {pattern: a sentence that only this pattern matches}.
PHRASES = {
    # Negated nouns, inversions and archaic words.
    r"(is|are) no [a-z]+(?=[.,:;])": "It is no number.",
    r"anew": "Train it anew",
    r"likewise": "The student likewise",
    r"heed(s|ed)?": "A loss that heeds the mask",
    r"for ever": "It runs for ever",
    r"as it was": "It is left as it was",
    r"of (its|their|our|your) own": "A head of its own",
    r"goes on": "Training goes on",
    r"none there": "There is none there",
    r"at hand": "The labels at hand",
    r"to be had": "Where it is to be had",
    # Data do not speak.
    r"(teacher|student|cache|check|report|page|model)s? (says?|said|speaks?|spoke|tells?|thinks?|knows)": "A page says",
    r"(is|are) told": "The user is told",
    r"is asked": "It is asked",
    r"has said": "It has said so",
    r"has spoken": "One that has spoken",
    r"asks the teacher": "It asks the teacher",
    r"(a|no) wish to": "Given a wish to train",
    r"no idea (what|which)": "There is no idea which",
    # Other words than the field's.
    r"(is|are) refused": "It is refused",
    r"was judged|judges": "The loss judges",
    r"drowns?": "The noise drowns it",
    r"held out": "What is held out",
    r"taught by": "A student taught by an ensemble",
    r"student alone": "The student alone",
    r"inner (layers?|activations?)": "Some inner layer",
    r"dark knowledge of": "The dark knowledge of a network",
    r"(quantis|regularis)\w*": "Weights are quantised",
    r"normalis(?!ed by the authors)\w*": "Logits are normalised",
    r"rounds? while": "It rounds while learning",
    r"blocks share one set": "The blocks share one set",
    r"peers that teach": "Two peers that teach one another",
    r"own past": "The student's own past",
    r"what it costs": "See what it costs",
    r"machine that may be taken away": "A machine that may be taken away",
    r"run that may be killed": "A run that may be killed",
    r"examples of a step": "The examples of a step",
    r"draw the page": "Then draw the page",
    r"devices that share a step": "All devices that share a step",
}
DIALECT = re.compile(r"\b(" + "|".join(PHRASES) + r")\b", re.IGNORECASE)
# (file, text): reason. A hit that contains the text is allowed in that file.
EXCEPTIONS = {
    ("tests/test_language.py", ""): "lists the phrases",
    ("docs/changelog.md", "| role `alone`"): "an old name, in the table of renamed names",
}
# A line of a document that is a paragraph by itself or begins one: a list item, a row of a table, a heading, a fence.
BEGINS = re.compile(r"\s*([-*+] |\d+\. |\||#|```)")


def phrases(text):
    """`(line offset, excerpt)` of each phrase, also of those that are wrapped."""
    joined = " ".join(text.split())
    for match in DIALECT.finditer(joined):
        yield (
            _line_of_word(text, joined[: match.start()].count(" ")),
            joined[max(match.start() - 60, 0) : match.end() + 60],
        )


def _line_of_word(text, index):
    for number, line in enumerate(text.splitlines()):
        index -= len(line.split())
        if index < 0:
            return number
    raise AssertionError("a text with fewer words")


def paragraphs(text):
    """`(line offset, paragraph)` of a docstring or a document."""
    start, lines = 0, []
    for number, line in enumerate([*text.splitlines(), ""]):
        if lines and (not line.strip() or BEGINS.match(line) or lines[-1].lstrip().startswith(("|", "#", "```"))):
            yield start, "\n".join(lines)
            lines = []
        if line.strip():
            start = start if lines else number
            lines.append(line)


def comments(source):
    """`(line, text)` of the comments; those of consecutive lines are one text."""
    start, lines = 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        follows = lines and token.start[0] == start + len(lines) and token.line.lstrip().startswith("#")
        if lines and not follows:
            yield start, "\n".join(lines)
            lines = []
        start = start if lines else token.start[0]
        lines.append(token.string.lstrip("# "))
    if lines:
        yield start, "\n".join(lines)


def docstrings(tree):
    """Constants that are docstrings of a module, class or function."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            yield node.body[0].value


def python_hits(source):
    tree = ast.parse(source)
    documented = list(docstrings(tree))
    for node in documented:
        if HEADLESS.match(node.value.lstrip()):
            yield node.lineno, "headless summary", node.value.strip().splitlines()[0]
        for start, paragraph in paragraphs(node.value):
            for offset, text in phrases(paragraph):
                yield node.lineno + start + offset, "phrase", text
    inside = {id(node) for node in documented}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        if is_text and id(node) not in inside:
            yield from ((node.lineno + offset, "phrase", text) for offset, text in phrases(node.value))
    for start, comment in comments(source):
        for number, line in enumerate(comment.splitlines()):
            if HEADLESS.match(line):
                yield start + number, "headless comment", line
        yield from ((start + offset, "phrase", text) for offset, text in phrases(comment))


def text_hits(source):
    for start, paragraph in paragraphs(source):
        yield from ((1 + start + offset, "phrase", text) for offset, text in phrases(paragraph))


def hits_of(path):
    source = path.read_text(encoding="utf-8")
    return python_hits(source) if path.suffix == ".py" else text_hits(source)


def is_excepted(path, text):
    name = str(path.relative_to(ROOT))
    return any(name == file and allowed in text for file, allowed in EXCEPTIONS)


@pytest.mark.parametrize("path", [*PYTHON, *TEXTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_wording(path):
    found = [f"{path}:{line}: {kind}: {text}" for line, kind, text in hits_of(path) if not is_excepted(path, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        '"""What is refused."""',
        'def f():\n    """Whether it fits."""',
        'raise ValueError("The teacher has spoken.")',
        "x = 1  # Which of them.",
        '"""Return it.\n\nA run that may be killed.\n"""',
        '"""Return it.\n\nA run that may\nbe killed.\n"""',
        'raise ValueError("The teacher has " "spoken.")',
        "# The student\n# alone.\nx = 1",
    ],
)
def test_the_check_finds(source):
    assert list(python_hits(source))


@pytest.mark.parametrize("pattern", PHRASES)
def test_each_phrase_is_found(pattern):
    ((_, text),) = phrases(PHRASES[pattern])
    assert re.search(pattern, text, re.IGNORECASE)


def test_the_check_finds_in_documents():
    assert list(text_hits("A student alone, held out."))
    assert list(text_hits("# Title\n\nThe baseline\nand a student\nalone.")) == [
        (4, "phrase", "The baseline and a student alone.")
    ]
    assert not list(text_hits("The baseline on the validation split."))
    # Cells, items and paragraphs are not joined.
    for text in ("| student |\n| alone |", "- the student\n- alone", "The student\n\nalone"):
        assert not list(text_hits(text))


@pytest.mark.parametrize(("file", "allowed"), EXCEPTIONS)
def test_exceptions_are_needed(file, allowed):
    assert any(allowed in text for _, _, text in hits_of(ROOT / file))


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
