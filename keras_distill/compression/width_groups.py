"""Widths of layers that must stay equal or proportional to each other, in groups."""

import dataclasses
import math
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class Width:
    """Size of an axis as a linear expression, `sum(coefficient * variable) + constant`.

    Attributes:
        terms: Pairs `(variable, coefficient)`, sorted by variable.
        constant: Part of the size that no variable changes.
    """

    terms: tuple[tuple[int, Fraction], ...] = ()
    constant: Fraction = Fraction(0)

    def __add__(self, other):
        terms = dict(self.terms)
        for variable, coefficient in other.terms:
            terms[variable] = terms.get(variable, 0) + coefficient
        return Width(tuple(sorted((v, c) for v, c in terms.items() if c)), self.constant + other.constant)

    def __mul__(self, factor):
        return Width(tuple((v, c * factor) for v, c in self.terms if factor), self.constant * factor)


class WidthGroups:
    """Variables for widths, each proportional to the root of its group.

    A weighted union-find: `variable = factor * root`. A group may be fixed, e.g. because it is added to an input.

    Args:
        factor: Factor of all widths that are not fixed, in (0, 1].
    """

    def __init__(self, factor: float):
        self._factor = factor
        self._sizes, self._parents, self._divisors, self._targets = [], [], [], []
        self._fixed = set()

    def add(self, size: int, target: int | None = None) -> Width:
        """Return a new variable.

        Args:
            size: Its present size.
            target: Its new size, if it cannot be chosen. Defaults to None.
        """
        self._sizes.append(size)
        self._parents.append((len(self._parents), Fraction(1)))
        self._divisors.append(1)
        self._targets.append(target)
        width = Width(((len(self._sizes) - 1, Fraction(1)),))
        if size == 1:
            self.fix(width)
        return width

    def resolve(self, width: Width) -> Width:
        """Return a width in terms of the roots of the groups that are not fixed."""
        resolved = Width((), width.constant)
        for variable, coefficient in width.terms:
            root, factor = self._root(variable)
            term = Width(((root, coefficient * factor),))
            resolved += Width((), self._old(term)) if root in self._fixed else term
        return resolved

    def variable_of(self, width: Width) -> Width:
        """Return what a width is proportional to if it depends on one group, or else the width itself."""
        resolved = self.resolve(width)
        if len(resolved.terms) == 1 and not resolved.constant:
            return Width(((resolved.terms[0][0], Fraction(1)),))
        return resolved

    def size(self, width: Width) -> int:
        """Return the present size."""
        return int(self._old(width))

    def new_size(self, width: Width) -> int:
        """Return the size after scaling."""
        resolved = self.resolve(width)
        return int(sum(c * self._new_root(v) for v, c in resolved.terms) + resolved.constant)

    def fix(self, width: Width) -> None:
        """Keep the present size."""
        self._fixed |= {self._root(variable)[0] for variable, _ in width.terms}

    def is_fixed(self, width: Width) -> bool:
        """Return whether the size cannot change."""
        return not self.resolve(width).terms

    def make_divisible(self, width: Width) -> None:
        """Require that the size stays an integer where it is a fraction of a variable."""
        for variable, coefficient in self.resolve(width).terms:
            self._divisors[variable] = math.lcm(self._divisors[variable], coefficient.denominator)

    def equate(self, first: Width, second: Width) -> None:
        """Require that two widths of the same size stay equal.

        Sums of several variables are equated term by term if their sizes agree. Otherwise all variables are fixed.
        """
        first, second = self.resolve(first), self.resolve(second)
        if first == second:
            return
        alike = first.constant == second.constant and self._term_sizes(first) == self._term_sizes(second)
        if not alike:
            self.fix(first)
            self.fix(second)
            return
        for (one, one_coefficient), (other, other_coefficient) in zip(first.terms, second.terms):
            self._join(one, one_coefficient, other, other_coefficient)

    def _join(self, one, one_coefficient, other, other_coefficient):
        """Join two variables, `one_coefficient * one = other_coefficient * other`, under the smaller one."""
        (one, one_factor), (other, other_factor) = self._root(one), self._root(other)
        if one == other:
            if one_coefficient * one_factor != other_coefficient * other_factor:
                self._fixed.add(one)
            return
        if self._sizes[one] > self._sizes[other]:
            one, other = other, one
        factor = Fraction(self._sizes[other], self._sizes[one])
        self._parents[other] = one, factor
        self._divisors[one] = math.lcm(self._divisors[one], factor.denominator * self._divisors[other])
        targets = {self._targets[one], self._targets[other]} - {None}
        self._targets[one] = self._targets[one] if self._targets[one] is not None else self._targets[other]
        if other in self._fixed or len(targets) > 1 or targets and factor != 1:
            self._fixed.add(one)

    def _root(self, variable):
        factor = Fraction(1)
        while self._parents[variable][0] != variable:
            variable, step = self._parents[variable]
            factor *= step
        return variable, factor

    def _old(self, width):
        return sum(c * self._sizes[v] for v, c in width.terms) + width.constant

    def _term_sizes(self, width):
        return [coefficient * self._sizes[variable] for variable, coefficient in width.terms]

    def _new_root(self, root):
        if self._targets[root] is not None:
            return self._targets[root]
        return scaled_width(self._sizes[root], self._factor, self._divisors[root])


def scaled_width(size: int, factor: float, divisor: int = 1) -> int:
    """Return a width times a factor, rounded, at least 1 and at most the width itself.

    A multiple of 8 of at least 16 is rounded to a multiple of 8; of 4, 2 or 1 where this would not make it smaller.

    Args:
        size: The width.
        factor: Number in (0, 1].
        divisor: Integer of which the result is a multiple, unless it is the width itself. Defaults to 1.
    """
    if factor == 1:
        return size
    for unit in (8, 4, 2, 1) if size % 8 == 0 and size >= 16 else (1,):
        step = math.lcm(unit, divisor)
        rounded = max(1, math.floor(size * factor / step + 0.5)) * step
        if rounded < size:
            return rounded
    return size


def scaled_heads(heads: list[int], factor: float) -> list[int]:
    """Return numbers of attention heads times a factor, in the same proportion to each other.

    Args:
        heads: Numbers of heads, such as those of the queries and those of the keys.
        factor: Number in (0, 1].
    """
    common = math.gcd(*heads)
    return [number * max(1, math.floor(common * factor + 0.5)) // common for number in heads]
