"""MIDI files written by hand, for tests."""

import io

import mido


def midi_bytes(notes=(), *, meter=(4, 4), tempo=500000, tpq=480, kind=0, extra=(), channel=9):
    """A file of notes (tick, note, velocity), with `extra` (tick, mido message) put in."""
    events = [
        (tick, mido.Message("note_on", channel=channel, note=n, velocity=v)) for tick, n, v in notes
    ]
    head = []
    if meter is not None:
        numbers = {"numerator": meter[0], "denominator": meter[1]}
        head.append((0, mido.MetaMessage("time_signature", **numbers)))
    if tempo is not None:
        head.append((0, mido.MetaMessage("set_tempo", tempo=tempo)))
    track, now = mido.MidiTrack(), 0
    for tick, message in sorted([*head, *events, *extra], key=lambda event: event[0]):
        track.append(message.copy(time=tick - now))
        now = tick
    file = mido.MidiFile(type=kind, ticks_per_beat=tpq)
    file.tracks.append(track)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()
