"""Timing in turn, and ratios of run times, on a machine with other load."""

import time

import keras
import numpy as np


def interleaved(functions, rounds, title):
    """Time functions in turn, so that other load on the machine slows all of them alike.

    Args:
        functions: `{name: function without arguments}`.
        rounds: Number of timings of each function, after one untimed call.
        title: Line above the progress bar.

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
    return {name: np.array(seconds) for name, seconds in times.items()}


def ratio(times, others):
    """Return the median over the rounds of the ratio of two times."""
    return float(np.median(times / others))


def exponent(sizes, seconds):
    """Return the slope of a line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def table(rows):
    """Return rows of texts, the first of which is the heading, as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def summary(results):
    """Print the ratios of each pair, and return their medians over the pairs.

    Args:
        results: `{name of a pair: {name of a ratio: ratio}}`.
    """
    columns = list(next(iter(results.values())))
    medians = {column: float(np.median([ratios[column] for ratios in results.values()])) for column in columns}
    rows = [["teacher -> student", *columns]]
    for name, ratios in (results | {"median": medians}).items():
        rows.append([name, *(f"{value:.3f}" for value in ratios.values())])
    print("\n" + table(rows) + "\n")
    return medians
