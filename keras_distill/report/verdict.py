"""Summary of results in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_distill.report.table import count

if TYPE_CHECKING:
    from keras_distill.report.results import Results

# Shown on the page, so that the reader knows what "clear" means.
CRITERION = (
    "A difference counts as clear here when the mean numbers of errors differ by more than the larger of the two "
    "models' sample standard deviations over the seeds. This is a rule of thumb, not a test of significance."
)


def verdict(results: Results) -> list[str]:
    """Return sentences on each distilled model that has a baseline, and on the hyperparameter search.

    The sentences state plainly where distillation did not help and where the seeds differ more than the models.

    Args:
        results: A `Results`.

    Returns:
        One text per distilled model with a baseline, and one on the search if both of its models were trained.
    """
    distilled = [model for model in results.models if results.baseline(model)]
    recovered = {row.name: row.gap_recovered for row in results.table()}
    texts = [_compare_with_baseline(results, model, recovered[model.name], len(distilled) == 1) for model in distilled]
    return [*texts, *_search_verdict(results)]


def _compare_with_baseline(results, model, recovered, only):
    baseline, teacher = results.baseline(model), results.teacher()
    student = "the distilled student" if only else f"“{model.name}”"
    same_network = model.parameters == baseline.parameters
    other = "the same network trained without a teacher" if same_network else f"“{baseline.name}”"
    sentences, unclear = _difference("Distillation", model, student, baseline, other)
    if teacher and teacher.mean("accuracy") <= baseline.mean("accuracy"):
        sentences.append("The teacher is no better than the baseline, so there was no gap to recover.")
    elif recovered is not None and recovered > 0 and not unclear:
        sentences.append(f"{100 * recovered:.0f} % of the teacher-student gap in accuracy is recovered.")
    return " ".join(sentences)


def _search_verdict(results):
    """Compare the best hyperparameters of a search with the default ones."""
    search = results.search
    if search is None or None in (search.best_model, search.default_model):
        return []
    by_name = {model.name: model for model in results.models}
    best, default = by_name[search.best_model], by_name[search.default_model]
    student = f"with the hyperparameters of the best of {len(search.trials)} trials the student"
    sentences, _ = _difference("The search", best, student, default, "with the default ones")
    return [" ".join(sentences)]


def _difference(subject, model, name, other, other_name):
    """Compare the errors of two models with the spread over the seeds.

    Args:
        subject: The change between the two models, such as "Distillation".
        model: The `ModelResult` with the change.
        name: Its name in the sentence.
        other: The `ModelResult` without the change.
        other_name: Its name in the sentence.

    Returns:
        List of sentences; True if the difference is within the spread over the seeds.
    """
    errors, before = model.mean("errors"), other.mean("errors")
    spreads = [spread for spread in (model.spread("errors"), other.spread("errors")) if spread is not None]
    unclear = bool(spreads) and abs(errors - before) <= max(spreads)

    claim = f"{name} makes {_relative(errors, before)} {other_name}{_evidence(model, other)}"
    if errors == before:
        sentences = [f"{subject} made no difference here: {claim}."]
    elif unclear:
        sentences = [f"No clear difference: {claim}; the seeds differ as much (± {count(max(spreads))} errors)."]
    elif errors > before:
        sentences = [f"{subject} did not help here: {claim}."]
    else:
        sentences = [claim[0].upper() + claim[1:] + "."]
    if not spreads:
        sentences.append("One seed does not show how much of the difference is chance.")
    return sentences, unclear


def _relative(errors, before):
    if errors == before:
        return "as many errors as"
    word = "fewer" if errors < before else "more"
    if before == 0:
        return "more errors than"
    share = 100 * abs(errors - before) / before
    return f"{share:.0f} % {word} errors than" if share >= 1 else f"less than 1 % {word} errors than"


def _evidence(model, other):
    seeds = {len(model.runs), len(other.runs)}
    runs = " and ".join(str(number) for number in sorted(seeds))
    basis = "one seed" if seeds == {1} else f"means of {runs} seeds"
    return f" ({count(model.mean('errors'))} against {count(other.mean('errors'))}; {basis})"
