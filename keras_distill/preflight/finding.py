"""What a check before training says."""

from typing import NamedTuple


class Finding(NamedTuple):
    """Something that is likely to spoil a training.

    Attributes:
        name: Which check found it, such as "learning rate too high".
        what: What is wrong, a sentence with the user's own names.
        seen: How it was seen, with numbers.
        advice: What to do.
    """

    name: str
    what: str
    seen: str
    advice: str

    def __str__(self):
        return f"{self.what}\n  Seen: {self.seen}\n  Do:   {self.advice}"
