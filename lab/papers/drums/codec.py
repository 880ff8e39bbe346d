"""What a grid keeps of a performance: round trips, errors of onset, velocity and timing."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lab.errors import require, require_given
from lab.papers.drums.grid import Groove, column_of, steps_of
from lab.papers.drums.midi import Performance
from lab.papers.drums.midi_writing import VELOCITY
from lab.papers.drums.notation import MEASURE, WIDTH

# Loudness in the notation with velocities, from soft to loud, and what each is read back as.
LEVELS = ".oO"
LEVEL_STARTS = (1, 50, 100)
LEVEL_VELOCITIES = (30, 75, 115)


@dataclasses.dataclass(frozen=True)
class RoundTrip:
    """Errors over all struck notes of the six drums, of performances of any meter.

    Attributes:
      steps_per_quarter: of the grid.
      num_hits: struck; kept_share: those that no louder hit on the same place took with it.
      onset_ms: mean absolute error of the onset where only the step is kept; onset_ms_95, its 95th
        percentile.
      velocity_error: mean absolute error where every hit is played at 100 (plain drumroll);
        level_error: with the three levels of the velocity notation.
      timing_ms: mean absolute error of kept hits where offsets are kept beside the grid: 0 to
        rounding, the grid then loses only merged hits.
      lines_per_bar: of the text, in bars of 4/4.
    """

    steps_per_quarter: int
    num_hits: int
    kept_share: float
    onset_ms: float
    onset_ms_95: float
    velocity_error: float
    level_error: float
    timing_ms: float
    lines_per_bar: int


def round_trip(performances: Sequence[Performance], steps_per_quarter: int) -> RoundTrip:
    """Writes performances on a grid and reads them back."""
    parts = [_errors(performance, steps_per_quarter) for performance in performances]
    parts = [part for part in parts if len(part["onset"])]
    require(len(parts) > 0, "the performances have no hits of the six drums")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    onset = np.abs(joined["onset"])
    kept = joined["is_kept"]
    return RoundTrip(
        steps_per_quarter,
        num_hits=len(onset),
        kept_share=float(kept.mean()),
        onset_ms=float(onset.mean()),
        onset_ms_95=float(np.quantile(onset, 0.95)),
        velocity_error=float(np.abs(joined["velocity"] - VELOCITY).mean()),
        level_error=float(np.abs(joined["velocity"] - joined["level"]).mean()),
        timing_ms=float(np.abs(joined["timing"][kept]).mean()),
        lines_per_bar=4 * steps_per_quarter,
    )


def _errors(performance: Performance, steps_per_quarter: int) -> dict[str, np.ndarray]:
    columns = column_of(performance.notes)
    known = columns >= 0
    ticks, columns = performance.ticks[known], columns[known]
    velocities = performance.velocities[known]
    resolution = performance.ticks_per_quarter
    steps = steps_of(ticks, resolution, steps_per_quarter)
    per_step = resolution / steps_per_quarter
    milliseconds = 1000 * performance.seconds_per_tick
    late = ticks / per_step - steps
    # Offsets are kept in single precision, as a file of them would.
    back = (steps + np.float32(late)) * per_step
    return {
        "onset": (ticks - steps * per_step) * milliseconds,
        "timing": (ticks - back) * milliseconds,
        "velocity": velocities,
        "level": velocity_of_level(level_of_velocity(velocities)),
        "is_kept": _loudest(steps * WIDTH + columns, velocities),
    }


def _loudest(places: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """Whether each hit is the loudest on its place, of equals the first."""
    order = np.lexsort((np.arange(len(places)), -velocities, places))
    is_first = np.ones(len(places), bool)
    is_first[1:] = places[order][1:] != places[order][:-1]
    kept = np.zeros(len(places), bool)
    kept[order] = is_first
    return kept


def level_of_velocity(velocities: np.ndarray) -> np.ndarray:
    """The level 0..2 of velocities 1..127."""
    return np.searchsorted(LEVEL_STARTS, velocities, side="right") - 1


def velocity_of_level(levels: np.ndarray) -> np.ndarray:
    """The velocity that a level is read back as."""
    return np.asarray(LEVEL_VELOCITIES)[levels]


def velocity_text(groove: Groove) -> str:
    """The drumroll with loudness, an extension of ours: `.` soft, `o` medium, `O` loud.

    Raises: InvalidInputError for a groove without velocities.
    """
    velocities = require_given(groove.velocities, "the groove has no velocities; humanise it first")
    signs = np.where(groove.hits, level_of_velocity(np.maximum(velocities, 1)), -1)
    return "".join("".join(("-" + LEVELS)[s + 1] for s in step) + "\n" for step in signs)


def read_velocity_text(text: str) -> Groove:
    """The groove of a drumroll with loudness, in 4/4. Raises: InvalidInputError."""
    lines = text.replace("\r\n", "\n").split()
    for line in lines:
        is_good = len(line) == WIDTH and set(line) <= {"-", *LEVELS}
        require(is_good, f"{line[:20]!r} is no line of a drumroll with loudness")
    signs = np.array([[("-" + LEVELS).index(c) for c in line] for line in lines], int)
    signs = signs.reshape(-1, WIDTH)
    velocities = np.where(signs > 0, velocity_of_level(np.maximum(signs - 1, 0)), 0)
    return Groove(signs > 0, velocities=velocities)


def tokens_per_bar(performances: Sequence[Performance]) -> dict[str, float]:
    """Mean tokens a bar of 4/4 in several notations, over performances in 4/4.

    The drumroll has a line a step and one behind each measure. REMI (Huang & Yang, 2020) as MidiTok
    writes drums has a bar token, a position for each distinct 16th that sounds, and pitch, velocity
    and duration for each hit; PerTok a time shift, a micro-timing, pitch and velocity for each.
    """
    bars = hits = places = 0
    for performance in performances:
        if performance.time_signature != (4, 4):
            continue
        columns = column_of(performance.notes)
        steps = steps_of(performance.ticks[columns >= 0], performance.ticks_per_quarter)
        if len(steps):
            bars += int(steps.max()) // MEASURE + 1
            hits += len(steps)
            places += len(np.unique(steps))
    require(bars > 0, "there are no performances in 4/4")
    return {
        "drumroll, a token a line": MEASURE + 1.0,
        "REMI (counted)": 1 + (places + 3 * hits) / bars,
        "PerTok (counted)": 1 + 4 * hits / bars,
    }
