"""Transfer sets: further examples that the teacher labels."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_distill.data.augmentation import Augmentation
from keras_distill.utils.arguments import check_integer, check_number


@dataclasses.dataclass(frozen=True)
class TransferSet:
    """Further examples that a student is trained on, and their share of each batch.

    A teacher adds most to the labels on examples that it was not trained on. These may be examples without labels, or
    be made from the training examples by an augmentation.

    Args:
        examples: An `Augmentation`, or a function with the same arguments; or unlabeled examples: arrays or a
            `tf.data.Dataset`. A student without a teacher can be trained on them only if they come with labels,
            `(x, y)`.
        share: Share of these examples in each batch, in (0, 1). Defaults to 0.5.
        size: Number of new examples per training example that an augmentation makes, >= 1. The teacher labels them
            once. Defaults to 10.
        seed: Seed of the augmentation, an integer >= 0. Defaults to 0.

    Raises:
        ValueError: If a number is out of its range.

    Reference:
        Bucila, Caruana and Niculescu-Mizil, KDD 2006, https://doi.org/10.1145/1150402.1150464

    Example:

    >>> from keras_distill.data import Mixup, TransferSet
    >>> transfer = TransferSet(Mixup(), share=0.5, size=4)
    """

    examples: Any
    share: float = 0.5
    size: int = 10
    seed: int = 0

    def __post_init__(self):
        check_number(self.share, "share", above=0, below=1)
        check_integer(self.size, "size")
        check_integer(self.seed, "seed", at_least=0)

    @property
    def augmentation(self) -> Callable[..., Any] | None:
        """The augmentation; None for given examples."""
        return self.examples if callable(self.examples) else None

    def description(self) -> dict[str, Any]:
        """Return the settings, `{name: JSON value}`."""
        if self.augmentation is None:
            return {"examples": "given", "share": self.share}
        name = repr(self.examples) if isinstance(self.examples, Augmentation) else self.augmentation.__name__
        return {"examples": name, "share": self.share, "size": self.size, "seed": self.seed}

    @property
    def mixes_labels(self) -> bool:
        """True if labels are mixtures, so that class labels must be one-hot."""
        return isinstance(self.examples, Augmentation) and self.examples.mixes_labels


def as_transfer_set(value: Any) -> TransferSet | None:
    """Return a `TransferSet`; an augmentation or examples get the default settings.

    Args:
        value: A `TransferSet`, or its `examples`; or None.
    """
    return value if value is None or isinstance(value, TransferSet) else TransferSet(value)
