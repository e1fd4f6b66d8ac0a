"""What comes out of `distill`: its files, and what is said of it."""

import csv
import io
import json
import pathlib
import shlex
import sys
import time

from keras_distill.cache import fingerprint
from keras_distill.report import ModelResult, Results, evaluation
from keras_distill.utils.files import atomic_write

from .training import BASELINE, DISTILLED

_STUDENTS = {DISTILLED: "", BASELINE: "_alone"}
_PAGE, _NUMBERS = "report.html", "results.json"
FILES = (
    *(f"student{suffix}.keras" for suffix in _STUDENTS.values()),
    *(f"history{suffix}.csv" for suffix in _STUDENTS.values()),
    _PAGE,
    _NUMBERS,
)
_CHOSEN = ("dataset", "split", "feature", "scale", "validation", "temperature", "alpha", "batch_size", "epochs")
_CHOSEN += ("optimizer", "learning_rate", "seed", "baseline")


def settings(options, lesson):
    """What the trained weights depend on, `{name: value}`."""
    return {
        "teacher": fingerprint.of_weights(lesson.teacher.weights),
        "student": fingerprint.of_weights(lesson.student.weights),
        **{name: getattr(options, name) for name in _CHOSEN},
        "features": [f"{each.loss} {each.student}:{each.teacher}:{each.weight:g}" for each in options.features],
        "cached": options.cache is not None,
    }


def earlier(folder, settings):
    """The `Results` of a run that ended here with the same settings, or None."""
    try:
        results = Results.load(folder / _NUMBERS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return results if results.settings == json.loads(json.dumps(settings)) else None


def tell(results):
    """Says in words what came out."""
    print("\n".join(["", results.text(), "", results.description, *results.verdict(), ""]))


class Judge:
    """Judges a student before and after, and its teacher, by what is held out. Made before training begins.

    Args:
        options: Of the command.
        lesson: The `Lesson`.
        material: The `Material`.
        settings: What `settings` gives.
    """

    def __init__(self, options, lesson, material, settings):
        self._options = options
        self._lesson = lesson
        self._settings = settings
        self._folder = pathlib.Path(options.out)
        self._started = time.time()
        self._inputs, labels = material.judging()
        self._teacher = self._said(lesson.teacher)
        self._by_teacher = labels is None
        self._labels = self._teacher.argmax(-1) if self._by_teacher else labels
        self._before = self._run(self._said(lesson.student)).accuracy

    def results(self, trained, findings):
        """The `Results` of `{name: Trained}`, with the `Finding`s from before; they are also written."""
        models = {"teacher": self._lesson.teacher}
        models |= {f"student {name}": each.model for name, each in trained.items()}
        times = evaluation.prediction_milliseconds(models, self._inputs)
        teacher = self._run(self._teacher)
        judged = [ModelResult("teacher", "teacher", self._lesson.teacher.count_params(), [teacher], times["teacher"])]
        # As everywhere, the student alone comes first.
        for name in reversed(list(trained)):
            student, history, _ = trained[name]
            run, title = self._run(self._said(student), history), f"student {name}"
            judged.append(ModelResult(title, name, student.count_params(), [run], times[title]))
        results = Results(
            title=f"'{self._lesson.student.name}' learns from '{self._lesson.teacher.name}'",
            description=self._in_words(teacher.accuracy, judged[-1].mean("accuracy")),
            settings=self._settings,
            classes=[str(number) for number in range(self._lesson.classes)],
            models=judged,
            temperature=self._options.temperature,
            command=shlex.join(self._options.command),
            seconds=time.time() - self._started,
            seeds=[self._options.seed],
            examples=evaluation.least_confident_examples(models, self._inputs, self._labels),
            findings={f"student {DISTILLED}": findings},
        )
        self._write(results, trained)
        return results

    def _said(self, model):
        return model.predict(self._inputs, batch_size=self._options.batch_size, verbose=0)

    def _run(self, logits, history=None):
        return evaluation.evaluate_predictions(logits, self._labels, self._options.seed, history or {})

    def _in_words(self, teacher, student):
        before, teacher, student = (f"{100 * each:.2f} %" for each in (self._before, teacher, student))
        if self._by_teacher:
            return (
                f"There are no labels. Of {len(self._labels):,} held-out examples the student gives {student} the "
                f"class that its teacher gives them; before it was trained, {before}."
            )
        return (
            f"Of {len(self._labels):,} held-out examples the teacher gets {teacher} right, the student {student}; "
            f"before it was trained, {before}."
        )

    def _write(self, results, trained):
        for name, each in trained.items():
            self._lesson.save(each.model, self._folder / f"student{_STUDENTS[name]}.keras")
            with atomic_write(self._folder / f"history{_STUDENTS[name]}.csv") as file:
                file.write(_csv(each.history).encode())
        try:
            from keras_distill.report import write_page

            write_page(results, self._folder / _PAGE)
        except ImportError as error:
            print(f"There is no {_PAGE}: {error} Then: keras-distill report {self._folder}", file=sys.stderr)
        # Last: it says that all is there.
        results.save(self._folder / _NUMBERS)


def _csv(history):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history])
    writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values()), 1))
    return text.getvalue()
