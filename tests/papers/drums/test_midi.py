"""Reading MIDI: what is taken, bad input, and files of strangers."""

import struct

import mido
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import CorruptFileError, DataError, LabError, MissingExtraError
from lab.papers.drums.grid import quantise
from lab.papers.drums.midi import read_midi
from tests.papers.drums.midi_files import midi_bytes

GOOD = midi_bytes([(0, 36, 100), (480, 38, 90), (960, 42, 1)], meter=(3, 4), tempo=600000)


def test_a_performance_has_notes_meter_and_tempo(tmp_path):
    path = tmp_path / "groove.mid"
    path.write_bytes(GOOD)
    performance = read_midi(path)
    assert performance.ticks.tolist() == [0, 480, 960]
    assert performance.notes.tolist() == [36, 38, 42]
    assert performance.velocities.tolist() == [100, 90, 1]
    assert performance.time_signature == (3, 4)
    assert performance.bpm == pytest.approx(100)
    assert performance.seconds_per_tick == pytest.approx(0.6 / 480)


def test_all_tracks_are_merged_in_time_unless_the_first_is_asked_for():
    file = mido.MidiFile(type=1)
    for tick, note in ((240, 36), (120, 38)):
        track = mido.MidiTrack([mido.Message("note_on", note=note, velocity=9, time=tick)])
        file.tracks.append(track)
    import io

    buffer = io.BytesIO()
    file.save(file=buffer)
    merged = read_midi(buffer.getvalue())
    assert merged.notes.tolist() == [38, 36]
    assert read_midi(buffer.getvalue(), tracks="first").notes.tolist() == [36]


def test_ends_of_notes_are_no_hits():
    extra = [(10, mido.Message("note_off", note=36)), (20, mido.Message("note_on", velocity=0))]
    assert len(read_midi(midi_bytes([(0, 36, 9)], extra=extra)).ticks) == 1


def _header(kind, tracks, division):
    return b"MThd" + struct.pack(">Lhhh", 6, kind, tracks, division)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated, or no MIDI"),
        (b"RIFF and so on", "no MIDI file"),
        (GOOD[:40], "truncated"),
        (_header(0, 0, 480), "has no tracks"),
        (_header(1, 1, -6360) + GOOD[14:], "SMPTE"),
        (_header(0, 1, 0) + GOOD[14:], "zero ticks"),
        (_header(2, 1, 480) + GOOD[14:], "MIDI type 2"),
        (GOOD[:22] + b"\xff" * 5000, "number without end"),
        (GOOD[:22] + b"\x00\xf0\xff\xff\xff\x7f", "exceeds maximum length"),
        (GOOD[:14] + b"XXXX" + GOOD[18:], "no MTrk header"),
    ],
)
def test_bad_files_are_named_with_the_reason(content, message):
    with pytest.raises(CorruptFileError, match=f"bad.mid.*{message}"):
        read_midi(content, source="bad.mid")


def test_a_meter_of_nothing_is_refused():
    content = midi_bytes(meter=(4, 4)).replace(b"\xff\x58\x04\x04", b"\xff\x58\x04\x00")
    with pytest.raises(DataError, match="meter 0/4"):
        read_midi(content)


def test_a_huge_file_is_refused_before_it_is_parsed():
    with pytest.raises(CorruptFileError, match="at most"):
        read_midi(GOOD + bytes(17_000_000))


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tenfold\[drums\]'"):
        read_midi(GOOD)


def _read_or_refuse(content: bytes) -> None:
    try:
        performance = read_midi(content)
        groove = quantise(performance)
    except LabError:
        return
    assert performance.ticks.dtype == np.int64
    assert (np.diff(performance.ticks) >= 0).all()
    assert groove.hits.sum() <= len(performance.ticks)


EVENTS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=6),
        st.tuples(st.integers(0, 127), st.integers(0, 255), st.integers(0, 255)).map(
            lambda x: bytes([x[0], 0x99, x[1], x[2]])
        ),
        st.tuples(st.integers(0, 127), st.binary(max_size=8)).map(
            lambda x: bytes([0, 0xFF, x[0], len(x[1])]) + x[1]
        ),
    ),
    max_size=20,
).map(b"".join)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60), EVENTS, st.integers(0, 3), st.integers(-32768, 32767), st.data())
def test_no_file_of_a_stranger_raises_anything_but_our_errors(noise, events, kind, division, data):
    _read_or_refuse(noise)
    track = b"MTrk" + struct.pack(">L", len(events)) + events
    _read_or_refuse(_header(kind, 1, division) + track)
    place = data.draw(st.integers(0, len(GOOD) - 1))
    _read_or_refuse(GOOD[:place] + noise[:3] + GOOD[place + data.draw(st.integers(0, 4)) :])
