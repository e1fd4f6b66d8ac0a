"""Links of README, BUILD and the site lead to files and headings that exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [path for path in DOCS.rglob("*.md") if not {"_build", "api"} & set(path.relative_to(DOCS).parts)]
TEXTS = sorted([ROOT / "README.md", ROOT / "BUILD.md", DOCS / "llms.txt", *PAGES])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text):
    """Anchors of the headings, as MyST and code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(path, text):
    """Targets of a text's links that do not exist, relative to the path."""
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = path.parent / name
        if not other.exists() or (anchor and anchor not in anchors(other.read_text() if name else text)):
            yield target


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
    assert not list(broken(path, path.read_text(encoding="utf-8")))


def test_the_check_finds():
    text = "# First heading\n\n[a](#first-heading) [b](#second) [c](missing.md) [d](../setup.py) [e](https://x.org)"
    assert list(broken(DOCS / "index.md", text)) == ["#second", "missing.md"]


def test_every_page_is_reached():
    """The table of contents of each folder names its pages."""
    for path in PAGES:
        name = path.relative_to(DOCS).with_suffix("").as_posix()
        folder = path.parent if path.stem != "index" else path.parent.parent
        if name == "index":
            continue
        indices = [DOCS / "project/index.md"] if name == "changelog" else [folder / "index.md"]
        entry = "../changelog" if name == "changelog" else path.relative_to(folder).with_suffix("").as_posix()
        assert any(re.search(rf"^{entry}$", index.read_text(), re.MULTILINE) for index in indices), name


def test_llms_txt_lists_the_pages():
    listed = set(LINK.findall((DOCS / "llms.txt").read_text(encoding="utf-8")))
    folders = ("start", "howto", "concepts", "reference", "migrating")
    pages = {path.relative_to(DOCS).as_posix() for path in PAGES if path.parent.name in folders}
    assert {page for page in pages if not page.endswith("index.md")} <= listed


def test_images_have_text_alternatives():
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"!\[\s*\]\(", text), path
        for figure in re.findall(r"^```\{(?:figure|image)\}.*?^```$", text, re.DOTALL | re.MULTILINE):
            assert re.search(r"^:alt: \S", figure, re.MULTILINE), (path, figure)
