"""What would go wrong in a distillation, before it begins."""

from keras_distill.evaluation import check


def findings(lesson, material, batches):
    """What `check` finds, a list of findings.

    Args:
        lesson: The `Lesson`.
        material: The `Material`.
        batches: How many batches of examples it looks at.
    """
    distiller = lesson.distiller(material.taught_by, material.labels)
    # In an order of their own the first ones might all be of one class.
    return check(distiller, material.batches(seed=0), batches=batches)


def in_words(finding):
    return " ".join(f"{finding.what} {finding.seen} {finding.advice}".split())
