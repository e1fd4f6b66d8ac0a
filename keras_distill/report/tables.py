"""Tables of the page as rows of text."""

import dataclasses
import re
from collections.abc import Sequence

from keras_distill.compression import profiling
from keras_distill.experiment import table, verdict
from keras_distill.experiment.results import Results
from keras_distill.report import confusions
from keras_distill.report.summary import ratio_text
from keras_distill.report.svg import css_color
from keras_distill.tuning.search import Search
from keras_distill.utils.drawing import colors
from keras_distill.utils.formatting import UNKNOWN

# Tables with more columns become one card per row on a tablet as well, or on any screen.
_TABLET_COLUMNS, _MOST_COLUMNS = 5, 10


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts of a table. A page shows it as one card per row where it would not fit.

    Attributes:
        headings: One text per column.
        rows: Rows of cells, each a pair of a text and a note in small print, which may be empty.
        colors: A CSS color for each row. Defaults to none.
        links: An address for each row, or "" for none. Defaults to none.
        marked: Indices `(row, column)` of highlighted cells. Defaults to none.
    """

    headings: tuple[str, ...]
    rows: list[list[tuple[str, str]]]
    colors: list[str] = dataclasses.field(default_factory=list)
    links: list[str] = dataclasses.field(default_factory=list)
    marked: frozenset[tuple[int, int]] = frozenset()

    @property
    def layout(self) -> str:
        """CSS class: the width of the screen below which rows become cards."""
        if len(self.headings) > _MOST_COLUMNS:
            return "cards"
        return "tablet" if len(self.headings) > _TABLET_COLUMNS else "phone"


def results_table(results: Results) -> Table:
    """Return one row per model: the columns of the text table, with sizes and spread of the latency in small print.

    Args:
        results: A `Results`. Columns without any number are left out.
    """
    chosen, rows = colors(results), []
    for model, row in zip(results.models, results.table()):
        notes = {
            results.score.name: f"{len(model.runs)} seeds" if len(model.runs) > 1 else "1 seed",
            "parameters": _smaller(row.compression),
            "ms/example": _quartiles(model.latency),
            "gap recovered": _interval(row.gap_interval),
        }
        cells = zip(table.headings(results), table.cells(results, row))
        rows.append([(typeset(text), notes.get(heading, "")) for heading, text in cells])
    return without_empty_columns(table.headings(results), rows, [css_color(color) for color in chosen.values()])


def comparisons_table(results: Results) -> Table:
    """Return one row per comparison: difference, intervals and p-values.

    Args:
        results: A `Results`. Columns without any number are left out.
    """
    score, rows = results.score, []
    for each in results.comparisons:
        intervals = [each.interval, each.example_interval]
        texts = [UNKNOWN if interval is None else score.interval_text(*interval) for interval in intervals]
        flip = UNKNOWN if each.sign_flip_p is None else verdict.p_text(each.sign_flip_p).removeprefix("p = ")
        p = UNKNOWN if each.p is None else verdict.p_text(each.p).removeprefix("p = ")
        cells = [
            f"{each.model} \u2212 {each.baseline}",
            typeset(score.difference_text(each.difference)),
            typeset(texts[0]),
        ]
        cells += [p.removeprefix("p "), flip.removeprefix("p "), typeset(texts[1])]
        rows.append([(cell, "") for cell in cells])
    headings = (
        "comparison",
        f"difference in {score.name}",
        "95 % interval over seeds",
        "p, paired t\u2011test",
        "p, sign\u2011flip test",
        f"95 % interval over {results.split} examples",
    )
    return without_empty_columns(headings, rows)


def profiles_table(results: Results) -> Table:
    """Return one row per exported file.

    Args:
        results: A `Results`. Columns without any number are left out.
    """
    chosen, score, rows = colors(results), results.score, []
    for number, profile in enumerate(results.profiles, 1):
        name, form, _, *others, threads = profile.cells(results.profiles[0])
        cells = [(f"{number}. {name}", form)]
        cells.append((UNKNOWN if profile.score is None else typeset(score.text(profile.score, profile.spread)), ""))
        notes = {
            "ms median / p95": "" if threads == UNKNOWN else f"{threads} threads" if threads != "1" else "1 thread"
        }
        cells += [(text, notes.get(heading, "")) for heading, text in zip(profiling.HEADINGS[3:], others)]
        rows.append(cells)
    headings = ("file", score.name, *profiling.HEADINGS[3:-1])
    return without_empty_columns(headings, rows, [css_color(chosen[each.model]) for each in results.profiles])


def search_table(search: Search) -> Table:
    """Return the best trials of a hyperparameter search.

    Args:
        search: A `Search`.
    """
    return text_table([heading.replace("_", " ") for heading in search.headings()], search.rows())


def confusions_table(results: Results) -> Table:
    """Return the most frequent confusions: errors per run of each model.

    Args:
        results: A `Results`.
    """
    headings, rows = confusions.frequent(results)
    pairs = [(f"{true} \u2192 {guess}", *counts) for true, guess, *counts in rows]
    return text_table(("true \u2192 predicted class", *headings[2:]), pairs)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of plain texts.

    Args:
        headings: One text per column.
        rows: Rows of texts.
    """
    return Table(tuple(headings), [[(cell, "") for cell in row] for row in rows])


def measurement(results: Results) -> str:
    """Return how scores and latencies were measured, as sentences below the table.

    Args:
        results: A `Results`.
    """
    score, examples = results.score, "" if results.num_examples is None else f"{results.num_examples:,} examples of "
    sentences = [f"{capitalize(score.name)} on {examples}the {results.split} split: mean"]
    several = any(len(model.runs) > 1 for model in results.models)
    sentences[0] += " \u00b1 sample standard deviation over the seeds." if several else " over the seeds."
    if not score.higher_is_better:
        sentences[0] += " Lower is better."
    if results.teacher() is not None:
        inverse = "" if score.higher_is_better else " (inverted, since lower is better)"
        sentences.append(f"Retained: {score.name} relative to the teacher\u2019s{inverse}.")
    sizes = sorted({model.latency.batch_size for model in results.models if model.latency is not None})
    if sizes:
        batches = " and ".join(map(str, sizes))
        sentences.append(
            f"ms/example: median and quartiles of predictions with batch size {batches}, on {hardware(results)}."
        )
    if any(row.gap_recovered is not None for row in results.table()):
        sentences.append(
            "Gap recovered: (distilled \u2212 baseline) / (teacher \u2212 baseline), with its 95 % interval over seeds "
            "for the given gap."
        )
    return " ".join(sentences)


def hardware(results: Results) -> str:
    """Return the machine in a few words: accelerators, or the processor and its cores.

    Args:
        results: A `Results`.
    """
    accelerators, machine = results.machine.get("accelerators") or [], results.machine
    cores = f", {machine['cores']} cores" if machine.get("cores") else ""
    return ", ".join(accelerators) if accelerators else f"{machine.get('processor') or 'an unknown processor'}{cores}"


def capitalize(text: str) -> str:
    """Return a text with its first letter in upper case, except for abbreviations such as "mIoU".

    Args:
        text: Text for a heading or the start of a sentence.
    """
    return text[:1].upper() + text[1:] if text.partition(" ")[0].islower() else text


def typeset(text: str) -> str:
    """Return a text with minus signs before numbers, and without line breaks in "\u00b1 0.1 %", "p = 0.1" and "t-test".

    Args:
        text: Text with numbers.
    """
    text = re.sub(r"(?<![\w-])-(?=[\d.])", "\u2212", text)
    text = re.sub(r"\bp ([=<]) ", "p\u00a0\\1\u00a0", text)
    return (
        text.replace(" \u00b1 ", "\u00a0\u00b1\u00a0")
        .replace(" %", "\u00a0%")
        .replace("t-test", "t\u2011test")
        .replace("p-value", "p\u2011value")
    )


def _smaller(compression):
    if compression is None or ratio_text(compression) == "1.0x":
        return ""
    return f"{ratio_text(compression)} smaller" if compression > 1 else f"{ratio_text(1 / compression)} larger"


def _quartiles(latency):
    return "" if latency is None else f"{latency.low:.3g} to {latency.high:.3g}"


def _interval(interval):
    return "" if interval is None else typeset("{:.0f} to {:.0f} %".format(*(100 * bound for bound in interval)))


def without_empty_columns(
    headings: Sequence[str],
    rows: list[list[tuple[str, str]]],
    row_colors: Sequence[str] = (),
    links: Sequence[str] = (),
) -> Table:
    """Return a table without the columns that contain no number.

    Args:
        headings: One text per column.
        rows: Rows of cells, as in `Table`.
        row_colors: A CSS color for each row. Defaults to none.
        links: An address for each row. Defaults to none.
    """
    shown = [place for place in range(len(headings)) if {row[place][0] for row in rows} != {UNKNOWN}]
    cells = [[row[place] for place in shown] for row in rows]
    return Table(tuple(headings[place] for place in shown), cells, list(row_colors), list(links))
