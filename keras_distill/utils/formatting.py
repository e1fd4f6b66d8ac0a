"""Numbers and tables as people read them."""

UNKNOWN = "–"


def align_columns(lines, left=1):
    """Lines of cells in columns.

    Args:
        lines: Tuples of strings.
        left: How many columns stand to the left; numbers, to the right, come after them.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def percent_with_spread(fraction, spread=None):
    """`98.52 ± 0.12 %`, without the spread where there is none."""
    return f"{100 * fraction:.2f} %" if spread is None else f"{100 * fraction:.2f} ± {100 * spread:.2f} %"


def format_size(count):
    """Bytes as `812 B`, `3.62 kB` or `1.5 MB`, in powers of 1000."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.3g} {unit}" if count < 1e3 * power else f"{count / power:,.0f} {unit}"
    return f"{count:,.0f} B"
