"""Prompt and completion: what a language model is tuned on and asked to continue (Algorithm 3)."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from lab.errors import CorruptFileError, require
from lab.papers.drums.notation import END, MEASURE, SILENCE, separated

Strip = Literal["first_quarter", "measure", "none"]
PROMPT_LINES = 2 * MEASURE
MIN_LINES = 128
# How many lines of a measure must be silent for it to be dropped from the beginning.
_LINES_LOOKED_AT = {"first_quarter": 4, "measure": MEASURE}


@dataclasses.dataclass(frozen=True)
class Row:
    """One example: two given measures, the rest to be composed, and the performance's name."""

    prompt: str
    completion: str
    name: str = ""

    @property
    def num_completion_lines(self) -> int:
        """Lines to be predicted, `SEP` and `END` included."""
        return self.completion.count("\n") + 1

    def to_json(self) -> str:
        """The row as the released JSONL files have it."""
        return json.dumps(dataclasses.asdict(self))


def strip_silence(lines: Sequence[str], strip: Strip = "first_quarter") -> list[str]:
    """Drops silent measures from the beginning.

    The official code ("first_quarter") looks at a measure's first four lines only, so that one
    that has hits later is dropped whole; "measure" looks at all 16.
    """
    accepted = (*_LINES_LOOKED_AT, "none")
    require(strip in accepted, f"strip is {strip!r}; accepted: {', '.join(accepted)}")
    lines = list(lines)
    if strip == "none":
        return lines
    looked_at = _LINES_LOOKED_AT[strip]
    while lines and all(line.rstrip("\n") == SILENCE for line in lines[:looked_at]):
        lines = lines[MEASURE:]
    return lines


def trim_trailing_silence(lines: Sequence[str]) -> list[str]:
    """Drops silent measures from the end."""
    lines = list(lines)
    while len(lines) >= MEASURE and all(line.rstrip("\n") == SILENCE for line in lines[-MEASURE:]):
        lines = lines[:-MEASURE]
    return lines


def make_row(
    lines: Sequence[str],
    name: str = "",
    *,
    strip: Strip = "first_quarter",
    trim: bool = False,
    prompt_lines: int = PROMPT_LINES,
    min_lines: int = MIN_LINES,
) -> Row | None:
    """The row of a drumroll, or None where no more than `min_lines` lines are left.

    Args:
      lines: of the drumroll, each with its newline.
      trim: leave out the silence at the end (models otherwise learn to write it).
      prompt_lines: lines that are given.
      min_lines: a piece must have more.
    """
    lines = strip_silence(lines, strip)
    lines = trim_trailing_silence(lines) if trim else lines
    if len(lines) <= min_lines:
        return None
    completion = separated(lines[prompt_lines:]).strip("SEP\n")
    return Row(separated(lines[:prompt_lines]), f"{completion}\n{END}", name)


def save_rows(rows: Iterable[Row]) -> str:
    """The text of a JSONL file."""
    return "".join(f"{row.to_json()}\n" for row in rows)


def read_rows(text: str, source: str | Path = "rows") -> list[Row]:
    """Rows of a JSONL text. Raises: CorruptFileError naming the line."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            rows.append(Row(values["prompt"], values["completion"], values.get("name", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(
                f"{source}, line {number} is no row with prompt and completion: {line[:60]!r}"
            ) from error
    return rows
