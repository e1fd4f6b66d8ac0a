"""Figures of the score of each class: baseline, distilled model and teacher."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_distill.experiment.model_result import ModelResult
from keras_distill.experiment.results import Results
from keras_distill.report.summary import main_arm
from keras_distill.utils.drawing import PAPER, SOFT, STEPS, Figure, colors, figure, shorten

# Classes in the figure that is always shown, and in each of those that are folded away.
_FIRST, _MORE = 12, 46


def class_figures(results: Results) -> list[Figure]:
    """Draw the score of each class, those that changed most first.

    Args:
        results: A `Results`.

    Returns:
        No `Figure` unless a student has scores per class that are finite; otherwise the first classes, then the others.
    """
    models = _shown_models(results)
    if not results.classes or not models or all(model.role == "teacher" for model in models):
        return []
    scores = np.array([model.per_class() for model in models])
    if not np.isfinite(scores).any():
        return []
    order = class_order(models, scores, results.score.sign)
    # A figure of one or two classes would be worse than a longer first one.
    first = len(order) if len(order) <= _FIRST + 2 else _FIRST
    chunks = [order[:first], *(order[start : start + _MORE] for start in range(first, len(order), _MORE))]
    ends = _limits(results.score, scores)
    return [_dots(results, models, scores, chunk, ends) for chunk in chunks]


def class_order(models: list[ModelResult], scores: np.ndarray, sign: int) -> list[int]:
    """Return the indices of the classes: the largest difference between the first two models first.

    Args:
        models: One or more models.
        scores: Score of each class, shape `[models, classes]`. Classes with an undefined difference come last.
        sign: 1 if a larger score is better, otherwise -1. A single model has its worst classes first.
    """
    key = -np.abs(scores[1] - scores[0]) if len(models) > 1 else sign * scores[0]
    return np.argsort(np.where(np.isnan(key), np.inf, key), kind="stable").tolist()


def _shown_models(results):
    """Return the first baseline of the first distilled model, that model, and the teacher, where they have scores."""
    student = main_arm(results)
    if student is None:
        pair = [model for model in results.models if model.role == "baseline"][:1]
    else:
        pair = [results.baseline(student), student]
    return [model for model in [*pair, results.teacher()] if model is not None and model.per_class() is not None]


def _dots(results, models, scores, order, ends):
    score, chosen = results.score, colors(results)
    change = len(models) > 1 and models[1].role != "teacher"
    with figure(0.85 + 0.2 * len(order)) as canvas:
        axes = canvas.subplots()
        rows = np.arange(len(order))
        if change:
            axes.hlines(rows, *score.scaled(scores[:2, order]), color=chosen[models[1].name], linewidth=1.2, alpha=0.6)
        for model, values in zip(models, scores[:, order]):
            color = chosen[model.name]
            marker = {
                "teacher": {"marker": "|", "ms": 10, "mew": 1.6},
                "baseline": {"marker": "o", "ms": 5.5, "mfc": PAPER, "mew": 1.4},
                "distilled": {"marker": "o", "ms": 6},
            }[model.role]
            label = shorten(model.name, 30)
            axes.plot(score.scaled(values), rows, linestyle="none", color=color, label=label, clip_on=False, **marker)
        if change:
            for row, (before, after) in enumerate(zip(*scores[:2, order])):
                text = "" if np.isnan(after - before) else _difference(score, after - before)
                axes.annotate(text, (1.03, row), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        axes.set_yticks(rows, [shorten(results.classes[index], 18) for index in order])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=ends, ylim=(len(order) - 0.4, -0.6), xlabel=score.axis_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.grid(True, axis="both")
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(SOFT)
        columns = 1 if sum(len(model.name) for model in models) > 36 else len(models)
        canvas.legend(loc="outside upper left", ncols=columns, handlelength=1.0, columnspacing=1.2)
        return Figure(canvas, _alt(results, models, scores, order), _caption(models, change, score))


def _difference(score, difference):
    text = f"{score.scaled(difference):+.1f}" if score.percent else f"{difference:+.2g}"
    return text.replace("-", "\u2212")


def _limits(score, scores):
    finite = score.scaled(scores[np.isfinite(scores)])
    if not finite.size:
        return 0, 1
    margin = 0.04 * (finite.max() - finite.min()) or 1.0
    return finite.min() - margin, finite.max() + margin


def _alt(results, models, scores, order):
    texts = []
    for index in order:
        values = ", ".join(f"{model.name} {results.score.text(scores[row, index])}" for row, model in enumerate(models))
        texts.append(f"{results.classes[index]}: {values}")
    return f"{results.score.name} of each class. {'; '.join(texts)}."


def _caption(models, change, score):
    if not change:
        return "Mean over the seeds."
    unit = "percentage points" if score.percent else score.unit or "the score"
    return (
        f"Mean over the seeds. On the right: {models[1].name} \u2212 {models[0].name}, in {unit}. Classes with the "
        "largest change first."
    )
