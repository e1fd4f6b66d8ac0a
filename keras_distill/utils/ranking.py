"""Choice of the largest of some numbers."""

from collections.abc import Sequence


def largest(scores: Sequence[float], count: int) -> list[int]:
    """Return the indices of the largest scores, in ascending order; of equal scores, the first ones.

    Args:
        scores: One number per candidate.
        count: How many are chosen.
    """
    return sorted(sorted(range(len(scores)), key=lambda index: -scores[index])[:count])
