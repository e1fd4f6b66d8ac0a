"""Images of predictions: input, label and the prediction of each model."""

from keras_distill.experiment.results import Results
from keras_distill.report.photos import Photo, photo


def rows(results: Results) -> list[list[tuple[str, Photo]]]:
    """Return one row per picture of the `Results`: `(caption, Photo)` of input, label, students and teacher.

    Args:
        results: A `Results`.
    """
    teacher = results.teacher()
    names = [model.name for model in results.models if model is not teacher]
    names += [] if teacher is None else [teacher.name]
    return [_row(number, picture, names) for number, picture in enumerate(results.pictures, 1)]


def _row(number, picture, names):
    given = [("input", picture.image), ("label", picture.label)]
    predicted = [(name, picture.predictions[name]) for name in names if name in picture.predictions]
    alts = [f"Input of example {number}.", f"Label of example {number}."]
    alts += [f"Prediction of \u201c{name}\u201d for example {number}." for name, _ in predicted]
    return [(name, photo(image, alt)) for (name, image), alt in zip([*given, *predicted], alts, strict=True)]
