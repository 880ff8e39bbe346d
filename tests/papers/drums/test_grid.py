"""MIDI to the grid: steps, articulations, meters, warnings; and MIDI out."""

import io
import warnings

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lab.errors import DataError, InvalidInputError
from lab.papers.drums.grid import (
    NOTES,
    Groove,
    MeterError,
    official_steps_of,
    quantise,
    steps_of,
)
from lab.papers.drums.midi import read_midi
from lab.papers.drums.midi_writing import write_midi, write_official_midi
from tests.papers.drums.midi_files import midi_bytes


def read(*notes, **options):
    return read_midi(midi_bytes(notes, **options))


@given(st.integers(0, 10**7), st.integers(1, 2000), st.sampled_from([2, 3, 4, 6, 12]))
def test_a_tick_goes_to_the_nearest_step_halves_up(tick, tpq, per_quarter):
    from fractions import Fraction

    exact = Fraction(tick * per_quarter, tpq)
    nearest = (exact + Fraction(1, 2)).__floor__()
    assert steps_of(np.array([tick]), tpq, per_quarter).tolist() == [nearest]


@given(st.integers(0, 10**6), st.integers(1, 100).map(lambda n: 8 * n))
def test_the_official_ranges_agree_where_8_divides_the_resolution(tick, tpq):
    ticks = np.array([tick])
    assert official_steps_of(ticks, tpq).tolist() == steps_of(ticks, tpq).tolist()


def test_official_ranges_are_those_of_the_released_loop():
    tpq = 220
    ranges = [(0, int(tpq / 8))]
    step, half = int(tpq / 4), int(tpq / 8)
    ranges += [(step - half + (k - 1) * step, step + half + (k - 1) * step) for k in range(1, 40)]
    for tick in range(0, 1500):
        wanted = next((k for k, (a, b) in enumerate(ranges) if a <= tick < b), -1)
        assert official_steps_of(np.array([tick]), tpq).tolist() == [wanted]


def test_pieces_are_sixteen_bars_padded_or_cut():
    assert len(quantise(read((0, 36, 9), meter=(3, 4))).hits) == 192
    assert len(quantise(read((0, 36, 9), meter=(5, 4))).hits) == 320
    long = quantise(read((0, 36, 9), (480 * 64, 38, 9)))
    assert long.hits.sum() == 1
    whole = quantise(read((0, 36, 9), (480 * 64, 38, 9)), num_measures=None)
    assert whole.hits.shape == (17 * 16, 6)
    assert whole.hits.sum() == 2


def test_several_hits_on_a_place_keep_the_loudest():
    groove = quantise(read((0, 38, 40), (20, 40, 90), (30, 37, 60)))
    assert groove.velocities[0].tolist() == [0, 0, 90, 0, 0, 0]
    assert groove.offsets[0, 2] == pytest.approx(20 / 120)
    assert groove.num_merged == 2


def test_meters():
    with pytest.warns(UserWarning, match="names no meter"):
        assert quantise(read((0, 36, 9), meter=None)).meter == (4, 4)
    with pytest.raises(MeterError, match="names no meter"):
        quantise(read((0, 36, 9), meter=None), missing_meter="skip")
    with pytest.raises(MeterError, match="6/8"):
        quantise(read((0, 36, 9), meter=(6, 8)), source="jig.mid")
    change = [(480, mido.MetaMessage("time_signature", numerator=3, denominator=4))]
    with pytest.warns(UserWarning, match="changes its meter"):
        assert quantise(read((0, 36, 9), extra=change)).meter == (3, 4)


def test_unknown_and_ignored_notes_are_counted():
    with pytest.warns(UserWarning, match=r"1 hits of unknown drums left out: \[35\]"):
        groove = quantise(read((0, 35, 9), (0, 36, 9), (0, 44, 9)))
    assert (groove.num_unknown, groove.num_ignored) == (1, 1)
    with pytest.raises(DataError, match=r"unknown drum notes \[35\]"):
        quantise(read((0, 35, 9)), strict=True)
    with pytest.warns(UserWarning, match="no hits of the six drums"):
        assert not quantise(read((0, 44, 9))).hits.any()
    with pytest.warns(UserWarning, match="no hits of the six drums"):
        assert not quantise(read()).hits.any()


def test_a_piece_without_end_is_refused():
    with pytest.raises(InvalidInputError, match="name fewer measures"):
        quantise(read((0, 36, 9), (10**8, 36, 9)), num_measures=None)


GRIDS = st.integers(1, 60).flatmap(lambda n: arrays(bool, (n, 6)))


@settings(deadline=None, max_examples=40)
@given(GRIDS, st.integers(1, 7), st.integers(30, 300))
def test_a_file_has_whole_bars_in_its_meter_and_tempo_and_reads_back(hits, beats, bpm):
    groove = Groove(hits, meter=(beats, 4))
    performance = read_midi(write_midi(groove, bpm=bpm))
    bars = -(-len(hits) // (4 * beats))
    assert performance.num_ticks == bars * beats * 480
    assert performance.time_signature == (beats, 4)
    assert performance.bpm == pytest.approx(bpm, rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = quantise(performance, num_measures=bars).hits
    assert np.array_equal(back[: len(hits)], hits)
    assert not back[len(hits) :].any()


def test_files_are_on_the_drum_channel_and_every_note_ends_within():
    hits = np.ones((16, 6), bool)
    offsets = np.full((16, 6), 0.49)
    groove = Groove(hits, velocities=np.full((16, 6), 55), offsets=offsets)
    file = mido.MidiFile(file=io.BytesIO(write_midi(groove, loops=2)))
    sounding, now = set(), 0
    for message in file.tracks[0]:
        now += message.time
        if message.is_meta:
            continue
        assert message.channel == 9
        if message.type == "note_on":
            assert message.velocity == 55
            assert message.note not in sounding
            sounding.add(message.note)
        else:
            sounding.remove(message.note)
    assert not sounding
    assert now == 2 * 4 * 480
    starts = [m for m in file.tracks[0] if m.type == "note_on"]
    assert len(starts) == 2 * 96


def test_fewer_and_more_bars_than_the_groove_has():
    groove = Groove(np.ones((32, 6), bool))
    assert len(read_midi(write_midi(groove, num_bars=1)).ticks) == 96
    assert read_midi(write_midi(groove, num_bars=5)).num_ticks == 5 * 4 * 480
    with pytest.raises(InvalidInputError, match="bpm is 2000"):
        write_midi(groove, bpm=2000)
    with pytest.raises(InvalidInputError, match="loops"):
        write_midi(groove, loops=0)


def test_official_bytes_take_carriage_returns_for_rests():
    assert write_official_midi("o-----\r\n") == write_official_midi("o-----\n")
    with pytest.raises(InvalidInputError, match="behind its 6 columns"):
        write_official_midi("------o\n")
    assert NOTES == (49, 51, 38, 36, 42, 50)
