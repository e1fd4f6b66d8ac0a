"""Progress on terminals and in log files."""

import sys

import keras

# Seconds between two lines of long work where lines cannot be rewritten.
LOG_INTERVAL = 30.0
_TERMINAL_INTERVAL = 0.05


def is_rewritable() -> bool:
    """Return whether a printed line can be rewritten: on a terminal or in a notebook, not in a log file."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def progress_bar(target: int | None, unit: str, verbose: int = 1) -> keras.utils.Progbar:
    """Return a progress bar of Keras that writes to a log file every 30 seconds only.

    Args:
        target: Number of steps; None if it is not known.
        unit: Name of a step.
        verbose: 1 shows the bar, 0 is silent. Defaults to 1.
    """
    interval = _TERMINAL_INTERVAL if is_rewritable() else LOG_INTERVAL
    return keras.utils.Progbar(target, unit_name=unit, verbose=verbose, interval=interval)
