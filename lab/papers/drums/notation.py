"""The drumroll: a drum performance as text, one line a 16th note, one character a drum.

A line is six characters, `o` a hit and `-` a rest, in the order of COLUMNS. A "measure" is 16 lines
whatever the meter. A language model reads measures with a line `SEP` behind each, and `END` last.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lab.errors import CorruptFileError, InvalidInputError, require

COLUMNS = ("crash", "ride", "snare", "kick", "hi-hat", "tom")
WIDTH = len(COLUMNS)
MEASURE = 16
STEPS_PER_QUARTER = 4
HIT, REST = "o", "-"
SILENCE = REST * WIDTH
SEPARATOR, END = "SEP", "END"

OnError = Literal["raise", "drop", "repair"]


@dataclasses.dataclass(frozen=True)
class Malformed:
    """A line that is no line of a drumroll: its number from 1, and its text."""

    number: int
    text: str


def hits_of(lines: Sequence[str]) -> np.ndarray:
    """bool [steps, 6] of well-formed lines, with or without their newlines."""
    return np.array([[c == HIT for c in line[:WIDTH]] for line in lines], bool).reshape(-1, WIDTH)


def text_of(hits: np.ndarray) -> str:
    """The drumroll of hits, bool [steps, 6]: each line ended by a newline."""
    hits = np.asarray(hits)
    require(
        hits.ndim == 2 and hits.shape[1] == WIDTH,
        f"hits are [steps, {WIDTH}], got shape {hits.shape}",
    )
    return "".join("".join(HIT if hit else REST for hit in step) + "\n" for step in hits)


def lines_of(text: str) -> list[str]:
    """Lines without their newlines, CRLF accepted, a missing last newline too."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def is_line(line: str) -> bool:
    """Whether a line, without its newline, is well formed."""
    return len(line) == WIDTH and set(line) <= {HIT, REST}


def parse_drumroll(text: str, on_error: OnError = "raise") -> tuple[np.ndarray, list[Malformed]]:
    """Hits of a drumroll text, `SEP`, `END` and blank lines left out.

    Args:
      on_error: what to do with a malformed line. "raise"; "drop" it; or "repair": pad with rests or
        cut to six characters, anything but a hit being a rest.
    Returns: (bool [steps, 6], the malformed lines).
    Raises: CorruptFileError listing the first malformed lines.
    """
    accepted = ("raise", "drop", "repair")
    require(on_error in accepted, f"on_error is {on_error!r}; accepted: {', '.join(accepted)}")
    kept, malformed = [], []
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip() in ("", SEPARATOR, END):
            continue
        if is_line(line):
            kept.append(line)
            continue
        malformed.append(Malformed(number, line))
        if on_error == "repair":
            repaired = "".join(HIT if c == HIT else REST for c in line[:WIDTH])
            kept.append(repaired.ljust(WIDTH, REST))
    if malformed and on_error == "raise":
        shown = ", ".join(f"line {m.number} {m.text[:20]!r}" for m in malformed[:3])
        raise CorruptFileError(
            f"{len(malformed)} malformed lines of a drumroll: {shown}; a line is {WIDTH} "
            f"characters of {HIT!r} and {REST!r}. on_error='repair' or 'drop' goes on"
        )
    return hits_of(kept), malformed


def drumroll_of(generated: str) -> str:
    """The drumroll text of a prompt with its continuation: `SEP` lines removed, cut at `END`.

    The last line keeps its missing newline, so that a partial line can be told.
    """
    return generated.replace(f"{SEPARATOR}\n", "").split(END)[0]


def prompt_of(hits: np.ndarray, num_measures: int = 2) -> str:
    """The prompt of a groove's first measures, `SEP` behind each.

    Args: hits bool [steps, 6], at least `num_measures` x 16 steps.
    Raises: InvalidInputError for a shorter or a silent beginning.
    """
    hits = np.asarray(hits, bool)
    steps = num_measures * MEASURE
    require(
        len(hits) >= steps,
        f"a prompt needs {num_measures} measures of {MEASURE} steps, got {len(hits)} steps",
    )
    measures = hits[:steps].reshape(num_measures, MEASURE, WIDTH)
    silent = [i + 1 for i, measure in enumerate(measures) if not measure.any()]
    require(
        not silent,
        f"a prompt needs {num_measures} measures that are not empty; measure {silent} is: strip "
        "the silence before the first hit, or choose another passage",
    )
    return separated(text_of(measures.reshape(-1, WIDTH)).splitlines(keepends=True))


def check_prompt(text: str) -> str:
    """A prompt with normalised line ends, checked: whole measures of 16 lines, `SEP` behind each.

    Raises: InvalidInputError.
    """
    lines = lines_of(text)
    wrong = [line for line in lines if line != SEPARATOR and not is_line(line)]
    if wrong:
        raise InvalidInputError(
            f"{wrong[0]!r} is no line of a prompt: {WIDTH} characters of {HIT!r} and {REST!r}, "
            f"or {SEPARATOR}"
        )
    drums = [line for line in lines if line != SEPARATOR]
    require(
        len(drums) > 0 and len(drums) % MEASURE == 0,
        f"a prompt is whole measures of {MEASURE} lines, got {len(drums)} lines",
    )
    return separated([f"{line}\n" for line in drums])


def separated(lines: Sequence[str]) -> str:
    """Lines, each with its newline, joined with a `SEP` line after every 16th."""
    parts = []
    for number, line in enumerate(lines, start=1):
        parts.append(line)
        if number % MEASURE == 0:
            parts.append(f"{SEPARATOR}\n")
    return "".join(parts)


def piano_roll_text(hits: np.ndarray, *, steps_per_measure: int = MEASURE) -> str:
    """The groove as people read it: a row a drum, a column a step, `|` between measures."""
    hits = np.asarray(hits, bool)
    names = [name.rjust(max(map(len, COLUMNS))) for name in COLUMNS]
    rows = []
    for column, name in enumerate(names):
        steps = "".join(HIT if hit else REST for hit in hits[:, column])
        bars = [steps[i : i + steps_per_measure] for i in range(0, len(steps), steps_per_measure)]
        rows.append(f"{name} |{'|'.join(bars)}|")
    return "\n".join(rows)
