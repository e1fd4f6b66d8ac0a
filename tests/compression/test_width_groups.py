"""Groups of widths that depend on each other."""

from fractions import Fraction

import pytest

from keras_distill.compression.width_groups import WidthGroups, scaled_heads, scaled_width


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        (64, 0.5, 32),
        (24, 0.5, 16),
        (16, 0.25, 4),
        (16, 0.8, 12),
        (10, 0.5, 5),
        (9, 0.5, 5),
        (3, 0.1, 1),
        (1, 0.5, 1),
        (768, 1 / 3, 256),
        (64, 1.0, 64),
    ],
)
def test_scaled_widths(size, factor, expected):
    assert scaled_width(size, factor) == expected


def test_a_scaled_width_is_a_multiple_of_the_divisor():
    assert scaled_width(48, 0.5, divisor=6) == 24
    assert scaled_width(30, 0.5, divisor=6) == 18
    # No smaller multiple.
    assert scaled_width(6, 0.5, divisor=6) == 6


@pytest.mark.parametrize(
    ("heads", "factor", "expected"),
    [([12], 0.5, [6]), ([8, 2], 0.5, [4, 1]), ([8, 1], 0.5, [8, 1]), ([3], 0.5, [2]), ([2], 0.1, [1])],
)
def test_scaled_heads_keep_their_proportion(heads, factor, expected):
    assert scaled_heads(heads, factor) == expected


def test_equal_widths_are_fixed_together():
    groups = WidthGroups(0.5)
    one, other, third = groups.add(32), groups.add(32), groups.add(32)
    groups.equate(one, other)
    assert groups.new_size(one) == groups.new_size(other) == 16
    groups.fix(other)
    assert groups.new_size(one) == 32 and groups.is_fixed(one)
    groups.equate(third, one)
    assert groups.is_fixed(third)


def test_a_width_can_be_a_sum():
    groups = WidthGroups(0.5)
    parts = groups.add(24), groups.add(40)
    joined = groups.add(64)
    groups.equate(joined, parts[0] + parts[1])
    assert groups.new_size(joined) == groups.new_size(parts[0]) + groups.new_size(parts[1]) == 16 + 24
    groups.fix(joined)
    assert groups.new_size(parts[0]) == 24


def test_sums_of_the_same_sizes_are_equal_term_by_term():
    groups = WidthGroups(0.5)
    one, other = [groups.add(16), groups.add(32)], [groups.add(16), groups.add(32)]
    groups.equate(one[0] + one[1], other[0] + other[1])
    groups.fix(one[0])
    assert groups.is_fixed(other[0]) and not groups.is_fixed(other[1])


def test_other_sums_are_fixed():
    groups = WidthGroups(0.5)
    one, other = [groups.add(16), groups.add(32)], [groups.add(24), groups.add(24)]
    groups.equate(one[0] + one[1], other[0] + other[1])
    assert all(groups.is_fixed(width) for width in one + other)


def test_a_multiple_of_a_width():
    groups = WidthGroups(0.5)
    units, channels = groups.add(1200), groups.add(12)
    groups.equate(units, channels * 100)
    assert (groups.new_size(units), groups.new_size(channels)) == (600, 6)


def test_a_fraction_of_a_width_stays_an_integer():
    groups = WidthGroups(0.5)
    whole = groups.add(30)
    third = whole * Fraction(1, 3)
    groups.make_divisible(third)
    assert groups.new_size(whole) % 3 == 0 and groups.new_size(third) * 3 == groups.new_size(whole)


def test_contradictory_proportions_are_fixed():
    groups = WidthGroups(0.5)
    width = groups.add(32)
    groups.equate(width, width * Fraction(1, 2))
    assert groups.is_fixed(width)


def test_widths_of_one_are_fixed():
    groups = WidthGroups(0.5)
    assert groups.is_fixed(groups.add(1))
