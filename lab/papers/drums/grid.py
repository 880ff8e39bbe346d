"""From a performance to the grid of the drumroll (Algorithm 2), and what the grid leaves out."""

import dataclasses
import warnings
from typing import Literal

import numpy as np

from lab.errors import DataError, InvalidInputError, require
from lab.papers.drums.midi import Performance
from lab.papers.drums.notation import COLUMNS, STEPS_PER_QUARTER, WIDTH, text_of

# The MIDI notes that each column stands for; the first one is written.
ARTICULATIONS = {
    "crash": (49, 57, 55, 52),
    "ride": (51, 53, 59),
    "snare": (38, 40, 37),
    "kick": (36,),
    "hi-hat": (42, 46, 22, 26),
    "tom": (50, 48, 47, 45, 43, 58),
}
NOTES = tuple(ARTICULATIONS[column][0] for column in COLUMNS)
# Pedal hi-hat, tambourine, cowbell, claps: known, and left out.
DROPPED = (44, 54, 56, 39)
_NONE, _UNKNOWN = -1, -2
DEFAULT_METER = (4, 4)
MAX_STEPS = 1 << 17

StepRule = Literal["nearest", "official"]


class MeterError(DataError):
    """A piece has no meter, or one that the drumroll cannot hold."""


@dataclasses.dataclass(frozen=True)
class Groove:
    """A drum pattern on a grid, with how it was played where that is known.

    Attributes:
      hits: bool [steps, 6].
      meter: (beats a bar, 4); bpm: quarter notes a minute.
      velocities: int [steps, 6], of the loudest hit that fell there, 0 where none; or None.
      offsets: float [steps, 6], steps by which that hit came late, -0.5 to 0.5; or None.
      steps_per_quarter: of the grid.
      num_merged, num_ignored, num_unknown: hits that fell on another one; of instruments that are
        left out on purpose; of unknown notes.
    """

    hits: np.ndarray
    meter: tuple[int, int] = DEFAULT_METER
    bpm: float | None = None
    velocities: np.ndarray | None = None
    offsets: np.ndarray | None = None
    steps_per_quarter: int = STEPS_PER_QUARTER
    num_merged: int = 0
    num_ignored: int = 0
    num_unknown: int = 0

    @property
    def text(self) -> str:
        """The drumroll."""
        return text_of(self.hits)

    @property
    def steps_per_bar(self) -> int:
        return self.meter[0] * self.steps_per_quarter * 4 // self.meter[1]


def column_of(notes: np.ndarray) -> np.ndarray:
    """The column of each MIDI note, int [n]; -1 for those left out, -2 for unknown ones."""
    table = np.full(128, _UNKNOWN)
    table[list(DROPPED)] = _NONE
    for column, name in enumerate(COLUMNS):
        table[list(ARTICULATIONS[name])] = column
    return table[notes]


def steps_of(
    ticks: np.ndarray, ticks_per_quarter: int, steps_per_quarter: int = STEPS_PER_QUARTER
) -> np.ndarray:
    """The nearest step of each tick, halves up: floor((t + tpq / 2s) / (tpq / s)), s steps a
    quarter."""
    return (2 * steps_per_quarter * ticks + ticks_per_quarter) // (2 * ticks_per_quarter)


def official_steps_of(ticks: np.ndarray, ticks_per_quarter: int) -> np.ndarray:
    """The official code's steps, in whole ticks: -1 in the holes that a resolution which 8 does
    not divide leaves between them."""
    step, half = ticks_per_quarter // 4, ticks_per_quarter // 8
    require(step > 0, f"{ticks_per_quarter} ticks a quarter are too few for 16th notes", DataError)
    later = (ticks - (step - half)) // step + 1
    is_inside = (later >= 1) & (ticks < half + later * step)
    return np.where(ticks < half, 0, np.where(is_inside, later, -1))


def quantise(
    performance: Performance,
    *,
    num_measures: int | None = 16,
    steps_per_quarter: int = STEPS_PER_QUARTER,
    step_rule: StepRule = "nearest",
    missing_meter: Literal["assume", "skip"] = "assume",
    strict: bool = False,
    source: str = "the piece",
) -> Groove:
    """Puts a performance on the grid: `num_measures` bars, padded with rests or cut.

    Args:
      num_measures: None: as many bars as it has.
      step_rule: "official" stops at the first hit that falls into a hole of its ranges.
      missing_meter: "assume" 4/4 with a warning, or "skip": raise MeterError.
      strict: an unknown note is an error, not a warning.
    Raises: MeterError for a missing or a non-x/4 meter; DataError for an unknown note, if strict.
    """
    accepted = ("nearest", "official")
    require(step_rule in accepted, f"step_rule is {step_rule!r}; accepted: {', '.join(accepted)}")
    coarse = step_rule == "nearest" or steps_per_quarter == STEPS_PER_QUARTER
    require(coarse, "the official step rule knows 16th notes only")
    meter = _meter_of(performance, missing_meter, source)
    resolution = performance.ticks_per_quarter
    if step_rule == "nearest":
        steps = steps_of(performance.ticks, resolution, steps_per_quarter)
    else:
        steps = official_steps_of(performance.ticks, resolution)
    steps_per_bar = meter[0] * steps_per_quarter
    num_steps = _num_steps(steps, steps_per_bar, num_measures, source)
    is_past = (steps < 0) | (steps >= num_steps)
    # The first hit that is out of range ends the reading, as in the official code.
    read = slice(0, int(np.argmax(is_past)) if is_past.any() else len(steps))
    columns, steps = column_of(performance.notes[read]), steps[read]
    _complain(performance.notes[read], columns, strict, source)
    kept = columns >= 0
    exact = performance.ticks[read][kept] * steps_per_quarter / resolution
    velocities = performance.velocities[read][kept]
    return Groove(
        **_arrays(steps[kept], columns[kept], velocities, exact, num_steps),
        meter=meter,
        bpm=performance.bpm,
        steps_per_quarter=steps_per_quarter,
        num_ignored=int((columns == _NONE).sum()),
        num_unknown=int((columns == _UNKNOWN).sum()),
    )


def _arrays(steps, columns, velocities, exact, num_steps) -> dict:
    """The grid's arrays; of several hits on one place the loudest, of equals the first."""
    shape = (num_steps, WIDTH)
    loudness, offsets = np.zeros(shape, np.int64), np.zeros(shape)
    order = np.lexsort((-np.arange(len(steps)), velocities))  # the last one written stays
    loudness[steps[order], columns[order]] = velocities[order]
    offsets[steps[order], columns[order]] = np.clip(exact[order] - steps[order], -0.5, 0.5)
    hits = loudness > 0
    return {
        "hits": hits,
        "velocities": loudness,
        "offsets": offsets,
        "num_merged": len(steps) - int(hits.sum()),
    }


def _meter_of(performance, missing_meter, source) -> tuple[int, int]:
    meter = performance.time_signature
    if meter is None:
        require(missing_meter == "assume", f"{source} names no meter", MeterError)
        warnings.warn(f"{source} names no meter; 4/4 is assumed", stacklevel=3)
        return DEFAULT_METER
    require(
        meter[1] == 4,
        f"{source} is in {meter[0]}/{meter[1]}; a drumroll holds meters of quarters (x/4)",
        MeterError,
    )
    if performance.num_time_signatures > 1 and missing_meter == "assume":
        warnings.warn(
            f"{source} changes its meter; the last one, {meter[0]}/4, counts for all", stacklevel=3
        )
    return meter


def _num_steps(steps, steps_per_bar, num_measures, source) -> int:
    if num_measures is None:
        num_measures = max(1, -(-(int(steps.max(initial=0)) + 1) // steps_per_bar))
    require(num_measures >= 1, f"num_measures must be positive, got {num_measures}")
    total = num_measures * steps_per_bar
    if total > MAX_STEPS:
        raise InvalidInputError(
            f"{source} would have {total} steps; at most {MAX_STEPS}: name fewer measures"
        )
    return total


def _complain(notes, columns, strict, source) -> None:
    unknown = sorted(set(notes[columns == _UNKNOWN].tolist()))
    require(not (strict and unknown), f"{source} has unknown drum notes {unknown}", DataError)
    if unknown:
        count = int((columns == _UNKNOWN).sum())
        warnings.warn(f"{source}: {count} hits of unknown drums left out: {unknown}", stacklevel=3)
    if not (columns >= 0).any():
        warnings.warn(f"{source} has no hits of the six drums: all rests", stacklevel=3)
