"""Text formatting of numbers and tables."""

import pytest

from keras_distill.utils.formatting import align_columns, format_count, format_size, percent_with_spread


def test_tables_are_aligned():
    assert align_columns([("model", "size"), ("a", "1,000"), ("student", "7")]) == (
        "model     size\na        1,000\nstudent      7"
    )
    assert align_columns([("a", "b", "c"), ("tap", "x", "1,000")], left=2) == "a    b      c\ntap  x  1,000"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (3_616, "3.62 kB"),
        (50_000, "50 kB"),
        (1_504_824, "1.5 MB"),
        (999_960, "1 MB"),
        (12_000_000_000, "12 GB"),
    ],
)
def test_sizes(count, text):
    assert format_size(count) == text


@pytest.mark.parametrize(("count", "text"), [(9, "9"), (9_120, "9.12 k"), (1_040_000, "1.04 M"), (3.2e12, "3,200 G")])
def test_counts(count, text):
    assert format_count(count) == text


def test_percentages():
    assert percent_with_spread(0.98523) == "98.52 %"
    assert percent_with_spread(0.98523, 0.0012) == "98.52 ± 0.12 %"
