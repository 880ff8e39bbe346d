"""Grooves to MIDI files: players' way by default, the official script's bytes on request."""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lab.errors import InvalidInputError, require, require_extra
from lab.papers.drums.grid import NOTES, Groove
from lab.papers.drums.notation import HIT, WIDTH

DRUM_CHANNEL = 9  # the tenth, counted from 0: General MIDI's percussion
TICKS_PER_QUARTER = 480
VELOCITY = 100
NOTE_TICKS = 60
STEP_TICKS = TICKS_PER_QUARTER // 4
DEFAULT_BPM = 120.0

Style = Literal["standard", "official"]


def write_midi(
    groove: Groove, *, bpm: float | None = None, num_bars: int | None = None, loops: int = 1
) -> bytes:
    """A MIDI file (type 0) of exactly so many whole bars, which can be looped without a gap.

    Notes are on the drum channel, 60 ticks long, in the groove's velocities and offsets where it
    has them; the first hit cannot come early, nothing rings over the end.

    Args:
      bpm: by default the groove's, else 120.
      num_bars: of the file; by default as many as hold all steps. A shorter groove is followed by
        rests, a longer one cut.
      loops: how often it is played.
    """
    mido = require_extra("mido", extra="drums")
    bpm = bpm or groove.bpm or DEFAULT_BPM
    require(4 <= bpm <= 1000, f"bpm is {bpm}; accepted: 4 to 1000")
    require(loops >= 1, f"loops must be at least 1, got {loops}")
    per_bar = groove.steps_per_bar
    num_bars = num_bars or max(1, -(-len(groove.hits) // per_bar))
    require(num_bars >= 1, f"num_bars must be at least 1, got {num_bars}")
    ticks_per_step = TICKS_PER_QUARTER // groove.steps_per_quarter
    end = num_bars * per_bar * ticks_per_step
    once = _note_events(groove, num_bars * per_bar, ticks_per_step, end)
    notes = sorted((loop * end + tick, *event) for loop in range(loops) for tick, *event in once)
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=round(60e6 / bpm), time=0))
    beats, unit = groove.meter
    track.append(mido.MetaMessage("time_signature", numerator=beats, denominator=unit, time=0))
    now = 0
    for tick, is_on, note, velocity in notes:
        kind = "note_on" if is_on else "note_off"
        message = {"channel": DRUM_CHANNEL, "note": note, "velocity": velocity, "time": tick - now}
        track.append(mido.Message(kind, **message))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=loops * end - now))
    return _saved(mido, 0, [track])


def _note_events(groove: Groove, num_steps: int, ticks_per_step: int, end: int) -> list[tuple]:
    """(tick, is_on, note, velocity) of every note's beginning and end, in ticks of one loop."""
    events = []
    for step, column in np.argwhere(groove.hits[:num_steps]).tolist():
        late = 0.0 if groove.offsets is None else groove.offsets[step, column]
        start = round((step + float(late)) * ticks_per_step)
        start = min(max(start, 0), end - 1)
        loud = VELOCITY if groove.velocities is None else int(groove.velocities[step, column])
        events.append((start, True, NOTES[column], min(max(loud, 1), 127)))
        length = min(NOTE_TICKS, ticks_per_step)
        events.append((min(start + length, end), False, NOTES[column], 0))
    return events


def write_official_midi(text: str) -> bytes:
    """The bytes that the official script makes of a drumroll text (Algorithm 5).

    Two tracks at 120 a minute in 4/4; notes on channel 1, without an end; a silent step is a ride
    note of velocity 0. Any character but `o` is a rest, any line but an empty one a step.

    Raises: InvalidInputError for a hit behind the sixth character.
    """
    mido = require_extra("mido", extra="drums")
    head, track = mido.MidiTrack(), mido.MidiTrack()
    head.append(mido.MetaMessage("set_tempo", tempo=500000, time=0))
    head.append(mido.MetaMessage("time_signature", numerator=4, denominator=4, time=0))
    head.append(mido.MetaMessage("key_signature", key="C", time=0))
    head.append(mido.MetaMessage("end_of_track", time=1))
    track.append(mido.Message("program_change", channel=9, program=0, time=0))
    is_first = True
    for line in (line for line in text.split("\n") if line):
        notes = _official_notes(line) or [(NOTES[1], 0)]
        for place, (note, velocity) in enumerate(notes):
            # The piece's very first hit comes at once, a first rest after a step.
            delta = 0 if place or (is_first and velocity) else STEP_TICKS
            track.append(mido.Message("note_on", note=note, velocity=velocity, time=delta))
            is_first = is_first and not velocity
    track.append(mido.MetaMessage("end_of_track", time=1))
    return _saved(mido, 1, [head, track])


def _official_notes(line: str) -> list[tuple[int, int]]:
    columns = [i for i, c in enumerate(line) if c == HIT]
    if columns and columns[-1] >= WIDTH:
        raise InvalidInputError(f"{line[:20]!r} has a hit behind its {WIDTH} columns")
    return [(NOTES[column], VELOCITY) for column in columns]


def _saved(mido, kind: int, tracks: Sequence) -> bytes:
    file = mido.MidiFile(type=kind, ticks_per_beat=TICKS_PER_QUARTER)
    file.tracks.extend(tracks)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()
