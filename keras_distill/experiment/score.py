"""Score by which an experiment compares models."""

import dataclasses
import math

from keras_distill.utils.formatting import percent_with_spread


@dataclasses.dataclass(frozen=True)
class Score:
    """Name and direction of the number by which models are compared.

    Args:
        name: Name for tables and figures, such as "accuracy" or "RMSE".
        higher_is_better: Whether a larger value is better. Defaults to True.
        percent: Whether the value is a fraction, shown in percent. Defaults to True.
        unit: Unit of a value that is not a fraction, such as "°C". Defaults to "", none.

    Example:

    >>> from keras_distill.experiment import Score
    >>> Score("accuracy").text(0.9756, 0.0017)
    '97.56 ± 0.17 %'
    >>> Score("RMSE", higher_is_better=False, percent=False).text(0.4312)
    '0.4312'
    """

    name: str
    higher_is_better: bool = True
    percent: bool = True
    unit: str = ""

    @property
    def sign(self) -> int:
        """1 if a larger value is better, otherwise -1."""
        return 1 if self.higher_is_better else -1

    @property
    def axis_label(self) -> str:
        """Label for the axis of a figure, with the unit."""
        unit = "%" if self.percent else self.unit
        return f"{self.name}, {unit}" if unit else self.name

    def scaled(self, value: float) -> float:
        """Return a value as it is shown: fractions in percent."""
        return 100 * value if self.percent else value

    def text(self, value: float, spread: float | None = None) -> str:
        """Format a value.

        Args:
            value: The score.
            spread: Standard deviation of the score. Defaults to None, which leaves it out.
        """
        if not math.isfinite(value):
            return "not finite"
        if self.percent:
            return percent_with_spread(value, spread)
        text = f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.2g}"
        return f"{text} {self.unit}".rstrip()

    def difference_text(self, difference: float) -> str:
        """Format a difference of two scores with its sign, in percentage points for fractions."""
        if self.percent:
            return f"{100 * difference:+.2f} points"
        return f"{difference:+.3g} {self.unit}".rstrip()

    def interval_text(self, low: float, high: float) -> str:
        """Format an interval of a difference, such as "+0.12 to +0.61"."""
        digits = "+.2f" if self.percent else "+.3g"
        return f"{self.scaled(low):{digits}} to {self.scaled(high):{digits}}"
