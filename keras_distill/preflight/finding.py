"""Record of a problem found by a pre-flight check."""

from typing import NamedTuple


class Finding(NamedTuple):
    """Diagnostic of a distillation setup: a problem that will probably harm training.

    Attributes:
        name: Name of the problem, e.g. "learning rate too high". Stable, to select findings by.
        what: Description of the problem in one sentence, with the names of layers, taps and terms.
        seen: Measurements behind the diagnostic, as a sentence.
        advice: Likely cause and what to do.

    Example:

    >>> print(Finding("dead features", "The student outputs 0 at 'relu'.", "Largest value 0.", "Tap another layer."))
    The student outputs 0 at 'relu'.
      Seen: Largest value 0.
      Do:   Tap another layer.
    """

    name: str
    what: str
    seen: str
    advice: str

    def __str__(self):
        return f"{self.what}\n  Seen: {self.seen}\n  Do:   {self.advice}"


def capitalize(text: str) -> str:
    """Return the text with its first letter in upper case, all others unchanged."""
    return text[0].upper() + text[1:]
