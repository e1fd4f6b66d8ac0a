"""Page of the MNIST recipe: digits that a student recognizes and has never seen."""

import base64
import dataclasses
import html
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_distill.utils.files import atomic_write

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; font-size: .9rem; }
th:first-child, td:first-child { text-align: left; }
ol { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; list-style: none; }
li { width: 4rem; text-align: center; border: 3px solid; border-radius: .4rem; font-size: .9rem; background: #fff; }
li img { width: 100%; image-rendering: pixelated; display: block; }
.recognized { border-color: #0072b2; }
.before { border-color: #bbb; }
.wrong { border-color: #d55e00; }
"""
_LEGEND = (
    ("recognized", "recognized once the biases are shifted"),
    ("before", "recognized before as well"),
    ("wrong", "not recognized"),
)
# Images that the page shows for each student.
_SHOWN = 72


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Predictions of the students of one transfer set, before and after their biases are shifted.

    Args:
        name: Name of the students, such as "distilled, without 3s".
        unseen: Digits that are missing in the transfer set.
        images: Images of the evaluation split, shape `[examples, 28, 28, 1]`, 0 to 1.
        labels: Labels of the evaluation split.
        before: Predicted classes for each seed, shape `[seeds, examples]`.
        after: Predicted classes after the shift, of the same shape.
        shifts: Shift of the biases for each seed.
        paper: Errors in the paper before and after the shift, such as `("206", "109")`.
    """

    name: str
    unseen: Sequence[int]
    images: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    shifts: Sequence[float]
    paper: Sequence[str]

    def is_unseen(self) -> np.ndarray:
        """Return a mask of the examples whose digit is missing in the transfer set."""
        return np.isin(self.labels, self.unseen)

    def errors(self) -> dict[str, list[int]]:
        """Return the number of errors for each seed, `{when: [errors]}`."""
        wrong = {"before": self.before != self.labels, "after": self.after != self.labels}
        everywhere = {f"errors {when}": each.sum(1).tolist() for when, each in wrong.items()}
        unseen = {
            f"errors {when}, unseen digits": each[:, self.is_unseen()].sum(1).tolist() for when, each in wrong.items()
        }
        return {**everywhere, **unseen}


def write_page(outcomes: Sequence[Outcome], folder: pathlib.Path) -> None:
    """Write missing_digits.html and missing_digits.json, and print the numbers of errors.

    Args:
        outcomes: The outcomes, in the order of the page.
        folder: The folder.
    """
    numbers = {
        outcome.name: {
            "shifts": [round(shift, 1) for shift in outcome.shifts],
            "examples": len(outcome.labels),
            "unseen examples": int(outcome.is_unseen().sum()),
            **outcome.errors(),
        }
        for outcome in outcomes
    }
    for name, content in (("html", _page(outcomes)), ("json", f"{json.dumps(numbers, indent=2)}\n")):
        with atomic_write(folder / f"missing_digits.{name}") as file:
            file.write(content.encode())
    for name, values in numbers.items():
        print(f"{name}: {values}")
    print(f"Wrote missing_digits.html, missing_digits.json to {folder}")


def _page(outcomes):
    rows = "".join(_row(outcome) for outcome in outcomes)
    legend = "".join(f'<li class="{kind}" style="width: auto; padding: 0 .5rem">{text}</li>' for kind, text in _LEGEND)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Digits that a student has never seen</title><style>{_STYLE}</style></head><body>
<h1>Digits that a student has never seen</h1>
<p>The transfer set, by which the teacher trains the student, lacks some digits. The soft targets of the others contain
how similar they are to the missing ones. A shift of the biases of the output layer corrects for classes that are too
rare or too frequent in the transfer set. It is this one number that is chosen on all training images and their labels,
those of the missing digits included; no weight is trained on them.</p>
<p>Errors on {len(outcomes[0].labels):,} evaluation images; mean and sample standard deviation over the seeds.</p>
<table><tr><th>student</th><th>errors</th><th>of unseen digits</th><th>shift</th><th>errors after</th>
<th>of unseen digits</th><th>in the paper</th></tr>{rows}</table>
<ol>{legend}</ol>
{"".join(_images(outcome) for outcome in outcomes)}
</body></html>
"""


def _row(outcome):
    errors, unseen = outcome.errors(), f"of {outcome.is_unseen().sum():,}"
    cells = [
        outcome.name,
        _mean(errors["errors before"]),
        f"{_mean(errors['errors before, unseen digits'])} {unseen}",
        _mean(outcome.shifts),
        _mean(errors["errors after"]),
        f"{_mean(errors['errors after, unseen digits'])} {unseen}",
        ", then ".join(outcome.paper),
    ]
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _mean(values):
    mean = f"{np.mean(values):+.1f}" if isinstance(values[0], float) else f"{np.mean(values):,.0f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):,.1f}"


def _images(outcome):
    first = np.flatnonzero(outcome.is_unseen())[:_SHOWN]
    items = "".join(
        _item(outcome.images[index], outcome.labels[index], outcome.before[0, index], outcome.after[0, index])
        for index in first
    )
    title = f"{outcome.name}: the first {len(first)} images of unseen digits"
    return f"<h2>{html.escape(title)}</h2><p>Prediction before → after the shift, first seed.</p><ol>{items}</ol>"


def _item(image, label, before, after):
    kind = "wrong" if after != label else "before" if before == label else "recognized"
    png = tf.io.encode_png(np.uint8(255 - 255 * image)).numpy()
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<li class="{kind}"><img src="{source}" alt="Image of a {label}">{before} → {after}</li>'
