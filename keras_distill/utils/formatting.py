"""Text formatting of numbers and tables."""

from collections.abc import Sequence

# Stands in tables for a value that is not known.
UNKNOWN = "–"


def align_columns(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return the cells of a table as text with aligned columns.

    Args:
        lines: Rows of cells, all of the same length.
        left: Number of columns that are aligned to the left. The columns after them are aligned to the right, as
            numbers are. Defaults to 1.

    Returns:
        The rows, joined by line breaks; two spaces separate columns.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def format_percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as percent, such as "12.3 %".

    Args:
        fraction: Number, 1 for 100 %.
        digits: Digits after the decimal point. Defaults to 1.
    """
    return f"{100 * fraction:.{digits}f} %"


def percent_with_spread(fraction: float, spread: float | None = None) -> str:
    """Return a fraction as a percentage, such as "98.52 ± 0.12 %".

    Args:
        fraction: 0 to 1.
        spread: Standard deviation as a fraction, 0 to 1. Defaults to None, which leaves it out.
    """
    return format_percent(fraction, 2) if spread is None else f"{100 * fraction:.2f} ± {100 * spread:.2f} %"


def format_size(count: float) -> str:
    """Return a number of bytes as "812 B", "3.62 kB" or "1.5 MB", in powers of 1000."""
    text = format_count(count)
    return f"{text}B" if " " in text else f"{text} B"


def format_count(count: float) -> str:
    """Return a large number as "812", "9.12 k", "1.5 M" or "3.2 G"."""
    # 999,999 is "1 M", not "1e+03 k".
    rounded = float(f"{count:.3g}")
    for unit, power in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rounded >= power:
            return f"{rounded / power:.3g} {unit}" if rounded < 1e3 * power else f"{count / power:,.0f} {unit}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Format a duration as "1 h 2 min", "2 min 3 s" or "4.5 s".

    Args:
        seconds: Duration in seconds.
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count_noun(count: int, noun: str) -> str:
    """Return "1 batch", "8 batches" or "2 epochs"."""
    plural = noun + ("es" if noun.endswith("tch") else "s")
    return f"{count:,} {noun if count == 1 else plural}"
