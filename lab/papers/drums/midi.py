"""Reading drum performances from MIDI files, hostile ones included."""

import dataclasses
import io
import re
from pathlib import Path
from typing import Literal

import numpy as np

from lab.errors import CorruptFileError, DataError, require, require_extra

# A length of a few bytes is read as a variable-length number; a run of thousands of continuation
# bytes would make one of thousands of bytes. Longer runs occur in no text of a meta event.
_ENDLESS_NUMBER = re.compile(rb"[\x80-\xff]{4096}")
MAX_BYTES = 16_000_000
MAX_TICK = 2**50

Tracks = Literal["merge", "first"]


@dataclasses.dataclass(frozen=True)
class Performance:
    """Struck notes in time.

    Attributes:
      ticks: int64 [n], when, ascending; notes, velocities: int64 [n], MIDI numbers.
      ticks_per_quarter: the file's resolution.
      time_signature: (numerator, denominator), the last one of the file; None where it has none.
      bpm: quarter notes a minute at the beginning.
      num_ticks: the end of the longest track.
      num_time_signatures: how many the file has.
    """

    ticks: np.ndarray
    notes: np.ndarray
    velocities: np.ndarray
    ticks_per_quarter: int
    time_signature: tuple[int, int] | None
    bpm: float | None
    num_ticks: int
    num_time_signatures: int = 1

    @property
    def seconds_per_tick(self) -> float:
        """At the first tempo of the file, 120 a minute where it names none."""
        return 60.0 / ((self.bpm or 120.0) * self.ticks_per_quarter)


def read_midi(
    content: bytes | str | Path, *, tracks: Tracks = "merge", source: str = ""
) -> Performance:
    """Reads a MIDI file of type 0 or 1.

    Args:
      content: the file's bytes, or its path.
      tracks: take the notes of all tracks, or as the official code of the first alone.
      source: what errors call it; a path names itself.
    Raises: CorruptFileError naming the file: no MIDI, truncated, no tracks, SMPTE time, type 2;
      FileNotFoundError; MissingExtraError without the extra `drums`.
    """
    require(tracks in ("merge", "first"), f"tracks is {tracks!r}; accepted: 'merge', 'first'")
    if not isinstance(content, bytes):
        source, content = source or str(content), Path(content).read_bytes()
    source = source or "the MIDI data"
    file = _parsed(content, source)
    is_known = file.type in (0, 1)
    require(is_known, f"{source} is of MIDI type {file.type}; read are 0 and 1", CorruptFileError)
    require(len(file.tracks) > 0, f"{source} has no tracks", CorruptFileError)
    require(
        file.ticks_per_beat > 0,
        f"{source} counts time in SMPTE frames or zero ticks (division {file.ticks_per_beat}); "
        "export it with ticks per quarter note",
        CorruptFileError,
    )
    chosen = file.tracks[:1] if tracks == "first" else file.tracks
    events = [event for track in chosen for event in _with_ticks(track)]
    if len(chosen) > 1:
        events.sort(key=lambda event: event[0])
    return _performance(events, file, source)


def _parsed(content: bytes, source: str):
    mido = require_extra("mido", extra="drums")
    is_small = len(content) <= MAX_BYTES
    require(is_small, f"{source} has {len(content)} bytes; at most {MAX_BYTES}", CorruptFileError)
    is_bounded = _ENDLESS_NUMBER.search(content) is None
    require(is_bounded, f"{source} holds a number without end", CorruptFileError)
    try:
        return mido.MidiFile(file=io.BytesIO(content), clip=True)
    except EOFError as error:
        raise CorruptFileError(f"{source} is truncated, or no MIDI file") from error
    except Exception as error:  # mido raises errors of many types for a damaged event
        reason = str(error) or type(error).__name__
        raise CorruptFileError(f"{source} is damaged, or no MIDI file: {reason}") from error


def _with_ticks(track) -> list[tuple[int, object]]:
    tick, events = 0, []
    for message in track:
        tick = min(tick + message.time, MAX_TICK)
        events.append((tick, message))
    return events


def _performance(events, file, source) -> Performance:
    struck = [
        (tick, message.note, message.velocity)
        for tick, message in events
        if message.type == "note_on" and message.velocity > 0
    ]
    ticks, notes, velocities = np.array(struck, np.int64).reshape(-1, 3).T
    meters = [m for _, m in events if m.type == "time_signature"]
    tempos = [m.tempo for _, m in events if m.type == "set_tempo" and m.tempo > 0]
    meter = (meters[-1].numerator, meters[-1].denominator) if meters else None
    if meter is not None:
        require(min(meter) >= 1, f"{source} has the meter {meter[0]}/{meter[1]}", DataError)
    return Performance(
        ticks,
        notes,
        velocities,
        ticks_per_quarter=file.ticks_per_beat,
        time_signature=meter,
        bpm=60e6 / tempos[0] if tempos else None,
        num_ticks=max((tick for tick, _ in events), default=0),
        num_time_signatures=len(meters),
    )
