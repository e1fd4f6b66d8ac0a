"""Summary of results in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from keras_distill.experiment.advice import advice

if TYPE_CHECKING:
    from keras_distill.experiment.results import Results
    from keras_distill.experiment.statistics import Comparison

# Shown with the verdict, so that the reader knows what "clear" means and what the intervals are.
CRITERION = (
    "Arms are paired by seed: same initial weights, same order of the examples. A difference counts as clear if the "
    "two-sided paired t-test over the seeds gives p < 0.05. The interval over seeds is that of the mean difference; "
    "the interval over examples resamples the evaluation examples for the trained models (bootstrap)."
)


def verdict(results: Results) -> list[str]:
    """Return sentences on each comparison of the results, and on the hyperparameter search.

    The sentences state plainly where distillation did not help and where the difference may be chance.

    Args:
        results: A `Results`.

    Returns:
        One text per comparison, one on the search if both of its models were trained, and `advice` if there is any.
    """
    search = results.search
    searched = None if search is None else (search.best_model, search.default_model)
    texts = [_sentences(results, each) for each in results.comparisons if (each.model, each.baseline) != searched]
    for each in results.comparisons:
        if search is not None and (each.model, each.baseline) == searched:
            texts.append(f"Search over {len(search.trials)} trials: {_sentences(results, each)}")
    return [*texts, *filter(None, [advice(results)])]


def evidence(results: Results, comparison: Comparison) -> str:
    """Return the numbers behind a comparison, such as "+0.32 points, 95 % interval over 5 seeds +0.12 to +0.52".

    Args:
        results: A `Results`.
        comparison: One of its comparisons.
    """
    score, parts = results.score, [results.score.difference_text(comparison.difference)]
    if comparison.interval is not None:
        parts.append(f"95 % interval over {comparison.seeds} seeds {score.interval_text(*comparison.interval)}")
        parts.append(f"paired t-test {p_text(comparison.p)}")
    if comparison.sign_flip_p is not None:
        parts.append(f"sign-flip test {p_text(comparison.sign_flip_p)}")
    if comparison.example_interval is not None:
        interval = score.interval_text(*comparison.example_interval)
        parts.append(f"95 % interval over {results.split} examples {interval}")
    return ", ".join(parts)


def p_text(p: float | None) -> str:
    """Return a p-value as "p = 0.012" or "p < 0.001"."""
    if p is None:
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _sentences(results, comparison):
    by_name = {model.name: model for model in results.models}
    model, baseline, score = by_name[comparison.model], by_name[comparison.baseline], results.score
    values = [score.text(each.mean(), each.spread()) for each in (model, baseline)]
    better = score.sign * comparison.difference
    if not math.isfinite(comparison.difference):
        claim = "No difference is defined, since a score is not finite"
    elif comparison.seeds == 1:
        claim = "One seed does not show how much of the difference is chance"
    elif not comparison.clear:
        claim = "No clear difference"
    elif better > 0:
        claim = "Clearly better"
    else:
        claim = "Clearly worse"
    sentences = [
        f"{claim}: {score.name} {values[0]} of \u201c{model.name}\u201d against {values[1]} of "
        f"\u201c{baseline.name}\u201d ({evidence(results, comparison)})."
    ]
    teacher = results.teacher()
    if teacher is not None and results.baseline(model) is baseline:
        sentences.append(_gap(score, model, baseline, teacher, comparison))
    return " ".join(filter(None, sentences))


def _gap(score, model, baseline, teacher, comparison):
    gap = score.sign * (teacher.mean() - baseline.mean())
    if not math.isfinite(gap):
        return ""
    if gap <= 1e-9:
        return "The teacher is no better than the baseline, so there is no gap to recover."
    if not comparison.clear or score.sign * comparison.difference <= 0:
        return ""
    return f"{100 * score.sign * comparison.difference / gap:.0f} % of the teacher-student gap is recovered."
