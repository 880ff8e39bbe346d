"""Measurements with their spread over repeats, and the claims that are judged by them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lab.errors import require

HOLDS = "holds"
FAILS = "fails"
REPORTED = "reported"
NOT_TESTED = "not tested at this scale"
VERDICTS = (HOLDS, FAILS, REPORTED, NOT_TESTED)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A quantity measured once or several times; format it with `str`.

    Attributes: mean; std, the sample standard deviation (n - 1 in the denominator), None for a
    single value; n, the number of repeats; unit, as printed behind the number ("s", "x", "%").
    """

    mean: float
    std: float | None = None
    n: int = 1
    unit: str = ""

    @classmethod
    def of(cls, values: Any, unit: str = "") -> "Measurement":
        """Measures a number, or a sequence or array of repeats of any shape.

        Raises: InvalidInputError for no values, or values that are not real numbers.
        """
        try:
            array = np.asarray(values)
        except ValueError:  # rows of unequal length
            array = np.empty(0, object)
        require(array.dtype.kind not in "OUSc", f"a measurement needs real numbers, got {values!r}")
        flat = array.astype(np.float64).ravel()
        require(flat.size > 0, "a measurement needs at least one value, got none")
        with np.errstate(invalid="ignore", over="ignore"):
            std = float(flat.std(ddof=1)) if flat.size > 1 else None
            return cls(float(flat.mean()), std, int(flat.size), unit)

    @property
    def is_finite(self) -> bool:
        """Whether no repeat was NaN or infinite."""
        return math.isfinite(self.mean) and math.isfinite(self.std or 0.0)

    def __str__(self) -> str:
        gap = "" if self.unit in ("", "x", "%", "×") else " "
        if self.std is None:
            return f"{format_number(self.mean)}{gap}{self.unit}"
        mean, std = _with_spread(self.mean, self.std)
        return f"{mean} ± {std}{gap}{self.unit} (n={self.n})"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper, with the paper's value and the value measured here.

    Args:
      id: short name within the paper ("C1").
      statement: what the paper says, in a sentence.
      paper: the paper's own value, as text or a number.
      measured: a Measurement, a number or repeats; None where this preset does not test the claim.
      holds: the bar as a function of the measurement; None where the paper's spec sets none.
      note: anything the reader must know to read the number.
    """

    id: str
    statement: str
    paper: str
    measured: Measurement | None
    holds: Callable[[Measurement], bool] | bool | None = None
    note: str = ""

    def __post_init__(self) -> None:
        measured = self.measured
        if measured is not None and not isinstance(measured, Measurement):
            measured = Measurement.of(measured)
        holds, note = self.holds, self.note
        if measured is None:
            holds = None
        elif not measured.is_finite:
            holds, note = False, _joined(note, "the measured value is not finite")
        elif callable(holds):
            holds = bool(holds(measured))
        elif holds is not None:
            holds = bool(holds)
        paper = self.paper if isinstance(self.paper, str) else format_number(self.paper)
        settled = {"measured": measured, "holds": holds, "note": note, "paper": paper}
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def verdict(self) -> str:
        """One of VERDICTS, computed from the measurement and the bar."""
        if self.measured is None:
            return NOT_TESTED
        if self.holds is None:
            return REPORTED
        return HOLDS if self.holds else FAILS


def counted(verdict: str, count: int) -> str:
    """ "1 holds", "3 hold", "2 not tested": a number of claims of one verdict in words."""
    words = {HOLDS: "hold" if count != 1 else HOLDS, FAILS: "fail" if count != 1 else FAILS}
    return f"{count} {words.get(verdict, verdict.removesuffix(' at this scale'))}"


def format_number(value: Any) -> str:
    """A number as people write it: four significant digits, thousands separated."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def _with_spread(mean: float, std: float) -> tuple[str, str]:
    """Mean and spread with equal decimals: two significant digits of the spread."""
    if not (math.isfinite(mean) and math.isfinite(std)) or std == 0:
        return format_number(mean), format_number(std)
    decimals = 1 - math.floor(math.log10(float(f"{std:.2g}")))
    if decimals > 7 or max(abs(mean), std) >= 1e7:
        return f"{mean:.3g}", f"{std:.2g}"
    decimals = max(decimals, 0)
    return f"{mean:,.{decimals}f}", f"{std:,.{decimals}f}"


def _joined(note: str, more: str) -> str:
    if more in note:
        return note
    return f"{note}; {more}" if note else more
