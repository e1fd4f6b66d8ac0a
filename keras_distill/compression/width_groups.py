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
    """Variables for widths, and what they depend on.

    A variable is free, fixed (e.g. because it is added to an input), or stands for an expression of other variables
    (e.g. because it is added to their concatenation).

    Args:
        factor: Factor of all widths that are not fixed, in (0, 1].
    """

    def __init__(self, factor: float):
        self._factor = factor
        self._sizes, self._divisors, self._targets = [], [], []
        self._expressions, self._fixed = {}, set()

    def add(self, size: int, target: int | None = None) -> Width:
        """Return a new variable.

        Args:
            size: Its present size.
            target: Its new size, if it cannot be chosen. Defaults to None.
        """
        self._sizes.append(size)
        self._divisors.append(1)
        self._targets.append(target)
        width = Width(((len(self._sizes) - 1, Fraction(1)),))
        if size == 1:
            self.fix(width)
        return width

    def resolve(self, width: Width) -> Width:
        """Return a width in terms of the free variables."""
        resolved = Width((), width.constant)
        for variable, coefficient in width.terms:
            if variable in self._expressions:
                resolved += self.resolve(self._expressions[variable]) * coefficient
            elif variable in self._fixed:
                resolved += Width((), coefficient * self._sizes[variable])
            else:
                resolved += Width(((variable, coefficient),))
        return resolved

    def variable_of(self, width: Width) -> Width:
        """Return the free variable that a width is proportional to, or else the width in terms of several."""
        resolved = self.resolve(width)
        if len(resolved.terms) == 1 and not resolved.constant:
            return Width(((resolved.terms[0][0], Fraction(1)),))
        return resolved

    def size(self, width: Width) -> int:
        """Return the present size."""
        return int(sum(c * self._sizes[v] for v, c in width.terms) + width.constant)

    def new_size(self, width: Width) -> int:
        """Return the size after scaling."""
        resolved = self.resolve(width)
        return int(sum(c * self._new_size(v) for v, c in resolved.terms) + resolved.constant)

    def fix(self, width: Width) -> None:
        """Keep the present size."""
        self._fixed |= {variable for variable, _ in self.resolve(width).terms}

    def is_fixed(self, width: Width) -> bool:
        """Return whether the size cannot change."""
        return not self.resolve(width).terms

    def make_divisible(self, width: Width, divisor: int = 1) -> None:
        """Require that the size is an integer, a multiple of a divisor.

        Args:
            width: A width, which may be a fraction of a variable.
            divisor: An integer >= 1. Defaults to 1.
        """
        for variable, coefficient in self.resolve(width).terms:
            multiple = coefficient.denominator * (divisor // math.gcd(divisor, coefficient.numerator))
            self._divisors[variable] = math.lcm(self._divisors[variable], multiple)

    def equate(self, first: Width, second: Width) -> None:
        """Require that two widths of the same size stay equal.

        If one of them is a variable, it then stands for the other one. Sums of variables are equated term by term if
        the sizes of these agree. Otherwise all variables are fixed.
        """
        first, second = self.resolve(first), self.resolve(second)
        if first == second or self._substitute(first, second) or self._substitute(second, first):
            return
        pairs = list(zip(first.terms, second.terms))
        alike = first.constant == second.constant and self._term_sizes(first) == self._term_sizes(second)
        if alike and len(pairs) > 1:
            for one, other in pairs:
                self.equate(Width((one,)), Width((other,)))
        else:
            self.fix(first)
            self.fix(second)

    def _substitute(self, one, other):
        """Let a variable stand for an expression, if possible. Of two variables, the larger one does."""
        if len(one.terms) != 1 or one.constant or not other.terms:
            return False
        ((variable, coefficient),) = one.terms
        expression = other * (1 / coefficient)
        divisor, target = self._divisors[variable], self._targets[variable]
        single = len(other.terms) == 1
        if variable in dict(other.terms) or single and self._sizes[other.terms[0][0]] > self._sizes[variable]:
            return False
        if expression.constant % divisor or expression.constant.denominator > 1:
            return False
        if target is not None:
            replaced = other.terms[0][0]
            if not single or expression.terms[0][1] != 1 or self._targets[replaced] not in (None, target):
                return False
            self._targets[replaced] = target
        self._expressions[variable] = expression
        self.make_divisible(expression, divisor)
        return True

    def _term_sizes(self, width):
        return [coefficient * self._sizes[variable] for variable, coefficient in width.terms]

    def _new_size(self, variable):
        if self._targets[variable] is not None:
            return self._targets[variable]
        return scaled_width(self._sizes[variable], self._factor, self._divisors[variable])


def scaled_width(size: int, factor: float, divisor: int = 1) -> int:
    """Return a width times a factor, rounded, at least 1 and at most the width itself.

    A multiple of 8 of at least 16 is rounded to a multiple of 8; of 4, 2 or 1 where this would not make it smaller, or
    where the product is less than 8.

    Args:
        size: The width.
        factor: Number in (0, 1].
        divisor: Integer of which the result is a multiple, unless it is the width itself. Defaults to 1.
    """
    if factor == 1:
        return size
    units = (8, 4, 2, 1) if size % 8 == 0 and size >= 16 else (1,)
    for unit in [unit for unit in units if unit <= max(size * factor, 1)]:
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
