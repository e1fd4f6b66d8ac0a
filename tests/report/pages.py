"""HTML pages as parsed by the tests."""

import html.parser

VOID = {"meta", "img", "br", "link"}
TEXTS = {"h1", "h2", "h3", "p", "td", "th", "title", "dd", "dt", "pre", "li", "figcaption", "a", "strong", "summary"}


class Page(html.parser.HTMLParser):
    """Parsed page: elements with their attributes, the texts of each kind of element, and tables as rows of text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.tables = [], [], {tag: [] for tag in TEXTS}, {}
        self._rows, self._cell = None, None
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag in TEXTS:
            self.texts[tag].append("")
        if tag == "table":
            self._rows = self.tables[attributes["aria-labelledby"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = {"text": "", "note": "", **attributes}
            self._rows[-1].append(self._cell)
        if tag not in VOID:
            self.open.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()[0] == tag, f"</{tag}> has no opening tag"

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        for tag in TEXTS & set(tags):
            self.texts[tag][-1] += data.replace("\n", " ")
        if {"td", "th"} & set(tags):
            self._cell["note" if self.open[-1][1] == "note" else "text"] += data.strip()

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def headings(self, label):
        """Return the texts of the first row of the table that the element with this id labels."""
        return [cell["text"] for cell in self.tables[label][0]]

    def table(self, label, part="text"):
        """Return texts, "note" for the small print, of the rows below the headings, with plain blanks and hyphens."""
        return [[plain(cell[part]) for cell in row] for row in self.tables[label][1:]]

    def cards(self, label):
        """Return `{heading: text}` for each row, as a phone shows it."""
        return [{cell["data-label"]: plain(cell["text"]) for cell in row[1:]} for row in self.tables[label][1:]]


def plain(text):
    """Return a text without typographic blanks and signs."""
    return text.replace("\u00a0", " ").replace("\u2212", "-").replace("\u2011", "-")
