"""Fair ratios on a machine that others use, too."""

import time

import keras
import numpy as np


def interleaved(functions, rounds, title):
    """Times functions that take turns, so that whatever slows the machine slows all of them.

    Args:
        functions: `{name: function without arguments}`.
        rounds: How often each is timed, after one call that is not.
        title: Shown before the progress bar.

    Returns:
        `{name: seconds of each round, shape [rounds]}`.
    """
    print(title)
    bar = keras.utils.Progbar(rounds + 1, unit_name="round")
    times = {name: [] for name in functions}
    random = np.random.default_rng(0)
    for round in range(rounds + 1):
        for name in random.permutation(list(functions)):
            start = time.perf_counter()
            functions[name]()
            if round:
                times[name].append(time.perf_counter() - start)
        bar.update(round + 1)
    return {name: np.array(taken) for name, taken in times.items()}


def ratio(times, others):
    """Median over the rounds of one time as a multiple of another of the same round."""
    return float(np.median(times / others))


def table(rows):
    """Rows of texts, the first of which is the heading, as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def summary(found):
    """Prints the ratios of each pair, and returns their medians over the pairs.

    Args:
        found: `{name of a pair: {name of a ratio: ratio}}`.
    """
    columns = list(next(iter(found.values())))
    medians = {column: float(np.median([ratios[column] for ratios in found.values()])) for column in columns}
    rows = [["teacher -> student", *columns]]
    for name, ratios in (found | {"median": medians}).items():
        rows.append([name, *(f"{value:.3f}" for value in ratios.values())])
    print("\n" + table(rows) + "\n")
    return medians
