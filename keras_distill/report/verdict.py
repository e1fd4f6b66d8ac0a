"""What the numbers say, in words."""

from keras_distill.report.table import count

# Shown on the page, so that the reader knows what "clear" means.
CRITERION = (
    "A difference counts as clear here when the mean numbers of errors differ by more than the larger of the two "
    "models' sample standard deviations over the seeds. This is a rule of thumb, not a test of significance."
)


def verdict(results):
    """One or more sentences per distilled model that has a baseline, and on what a search of hyperparameters bought.

    Says plainly where distillation did not help and where the seeds differ more than the models.
    """
    distilled = [model for model in results.models if results.baseline(model)]
    recovered = {row.name: row.recovered for row in results.table()}
    said = [_compare(results, model, recovered[model.name], len(distilled) == 1) for model in distilled]
    return [*said, *_bought(results)]


def _compare(results, model, recovered, only):
    alone, teacher = results.baseline(model), results.teacher()
    student = "the distilled student" if only else f"“{model.name}”"
    other = "the same network trained alone" if model.parameters == alone.parameters else f"“{alone.name}”"
    sentences, unclear = _judged("Distillation", model, student, alone, other)
    if teacher and teacher.mean("accuracy") <= alone.mean("accuracy"):
        sentences.append("The teacher is no better than the student trained alone, so there was no gap to close.")
    elif recovered is not None and recovered > 0 and not unclear:
        sentences.append(f"That is {100 * recovered:.0f} % of the gap in accuracy between student and teacher.")
    return " ".join(sentences)


def _bought(results):
    """Of a search, whether its best hyperparameters are better than the default ones."""
    search = results.search
    if search is None or None in (search.found, search.defaults):
        return []
    found, defaults = (
        next(model for model in results.models if model.name == name) for name in (search.found, search.defaults)
    )
    student = f"with the hyperparameters of the best of {len(search.trials)} trials the student"
    sentences, _ = _judged("The search", found, student, defaults, "with the default ones")
    return [" ".join(sentences)]


def _judged(what, model, name, other, others_name):
    """Sentences on whether something helped, the seeds considered; and whether nobody can tell.

    Args:
        what: That which may have helped, such as "Distillation".
        model: The `ModelResult` with it.
        name: What to call it.
        other: The one without.
        others_name: What to call that.
    """
    errors, before = model.mean("errors"), other.mean("errors")
    spreads = [spread for spread in (model.spread("errors"), other.spread("errors")) if spread is not None]
    unclear = bool(spreads) and abs(errors - before) <= max(spreads)

    claim = f"{name} makes {_relative(errors, before)} {others_name}{_evidence(model, other)}"
    if errors == before:
        sentences = [f"{what} made no difference here: {claim}."]
    elif unclear:
        sentences = [f"No clear difference: {claim}; the seeds differ as much (± {count(max(spreads))} errors)."]
    elif errors > before:
        sentences = [f"{what} did not help here: {claim}."]
    else:
        sentences = [claim[0].upper() + claim[1:] + "."]
    if not spreads:
        sentences.append("With one seed nobody can tell how much of the difference is chance.")
    return sentences, unclear


def _relative(errors, before):
    if errors == before:
        return "as many errors as"
    word = "fewer" if errors < before else "more"
    if before == 0:
        return "more errors than"
    share = 100 * abs(errors - before) / before
    return f"{share:.0f} % {word} errors than" if share >= 1 else f"less than 1 % {word} errors than"


def _evidence(model, alone):
    seeds = {len(model.runs), len(alone.runs)}
    runs = " and ".join(str(number) for number in sorted(seeds))
    basis = "one seed" if seeds == {1} else f"means of {runs} seeds"
    return f" ({count(model.mean('errors'))} against {count(alone.mean('errors'))}; {basis})"
