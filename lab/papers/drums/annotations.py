"""The expert's judgement of grooves: reading the sheet and counting (section 5 of the paper)."""

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lab.errors import CorruptFileError, require

PATTERNS = ("consistent", "repetitive", "chaotic", "none")
EXCLUDED = "excluded"
_FIELDS = ("system", "name", "pattern", "fill", "measures_if_short", "musical")


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One groove as the drummer judged it.

    Attributes:
      pattern: one of PATTERNS, or "excluded".
      has_fill, is_musical: marked so; a blank is a no, as in the models' sheets.
      measures_if_short: sounding measures of a piece that ended early, else None.
    """

    system: str
    name: str
    pattern: str
    has_fill: bool
    is_musical: bool
    measures_if_short: int | None = None


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts of one system: rows in the sheet, usable ones, and of these by judgement."""

    rows: int
    usable: int
    pattern: dict[str, int]
    fills: int
    musical: int


def read_annotations(source: str | Path) -> list[Annotation]:
    """Reads a sheet: a CSV path, or the text of one (with its header line).

    Raises: CorruptFileError for missing columns or an unknown pattern.
    """
    if isinstance(source, str) and "\n" in source:
        text = source
    else:
        text = Path(source).read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    missing = set(_FIELDS) - set(rows.fieldnames or ())
    require(not missing, f"the annotations lack the columns {sorted(missing)}", CorruptFileError)
    return [_annotation(row, rows.line_num) for row in rows]


def _annotation(row: dict[str, str], line: int) -> Annotation:
    pattern = (row["pattern"] or "").strip().lower()
    require(
        pattern in (*PATTERNS, EXCLUDED),
        f"line {line} of the annotations: pattern {pattern!r}; accepted: "
        f"{', '.join((*PATTERNS, EXCLUDED))}",
        CorruptFileError,
    )
    short = (row["measures_if_short"] or "").strip()
    return Annotation(
        row["system"],
        row["name"],
        pattern,
        has_fill=_is_marked(row["fill"]),
        is_musical=_is_marked(row["musical"]),
        measures_if_short=int(float(short)) if short else None,
    )


def _is_marked(value: str | None) -> bool:
    return (value or "").strip().lower() in ("yes", "x", "1", "true")


def tally(annotations: Sequence[Annotation]) -> dict[str, Tally]:
    """Counts a system; excluded grooves count among the rows alone."""
    found = {}
    for system in dict.fromkeys(a.system for a in annotations):
        own = [a for a in annotations if a.system == system]
        usable = [a for a in own if a.pattern != EXCLUDED]
        found[system] = Tally(
            rows=len(own),
            usable=len(usable),
            pattern=dict(Counter(a.pattern for a in usable)),
            fills=sum(a.has_fill for a in usable),
            musical=sum(a.is_musical for a in usable),
        )
    return found
