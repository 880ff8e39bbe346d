"""The library, the synthesiser, humanising, the codec, and counted lines."""

import io
import wave

import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.drums.codec import (
    read_velocity_text,
    round_trip,
    tokens_per_bar,
    velocity_text,
)
from lab.papers.drums.feel import feel_errors, humanise, measured_feel, plain_feel
from lab.papers.drums.grid import Groove
from lab.papers.drums.library import groove, library_rows, style_bars, style_names
from lab.papers.drums.markov import fit_lines
from lab.papers.drums.midi import read_midi
from lab.papers.drums.synthesis import SAMPLE_RATE, drum_sound, render, wav_bytes
from tests.papers.drums.midi_files import midi_bytes


def test_every_style_sounds_and_differs():
    assert len(style_names()) >= 12
    bars = [style_bars(name) for name in style_names()]
    assert all(bar.any() for style in bars for bar in (style.bar, style.variant, style.fill))
    assert len({style.bar.tobytes() for style in bars}) == len(bars)
    assert np.array_equal(groove("funk", 8, seed=1).hits, groove("funk", 8, seed=1).hits)
    assert groove("funk", 7).hits.shape == (7 * 16, 6)
    with pytest.raises(InvalidInputError, match="no style 'polka'"):
        groove("polka")
    rows = library_rows(25)
    assert len({row.name for row in rows}) == 25
    assert rows == library_rows(25)


def test_a_sound_lasts_the_bars_and_loops_without_a_seam():
    hits = np.zeros((16, 6), bool)
    hits[15, 0] = True  # a crash that rings over the end
    sound = render(Groove(hits), bpm=120)
    assert len(sound) == 2 * SAMPLE_RATE
    assert np.abs(sound).max() <= 0.9 + 1e-6
    assert np.abs(sound[:2000]).max() > 0.01
    twice = render(Groove(hits), bpm=120, loops=2)
    assert np.array_equal(twice, np.tile(sound, 2))
    assert not render(Groove(np.zeros((16, 6), bool))).any()
    with pytest.raises(InvalidInputError, match="bpm is 1"):
        render(Groove(hits), bpm=1)


def test_drums_differ_in_pitch_and_length():
    def centre(drum):
        spectrum = np.abs(np.fft.rfft(drum_sound(drum)))
        frequency = np.fft.rfftfreq(len(drum_sound(drum)), 1 / SAMPLE_RATE)
        return (spectrum * frequency).sum() / spectrum.sum()

    assert centre("kick") < centre("snare") < centre("hi-hat")
    assert len(drum_sound("crash")) > len(drum_sound("hi-hat"))


def test_wav_files_can_be_read_by_others():
    with wave.open(io.BytesIO(wav_bytes(np.array([0.0, 1.0, -1.0], np.float32)))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 1, 2)
        samples = np.frombuffer(file.readframes(3), "<i2")
    assert samples.tolist() == [0, 32767, -32767]


def test_humanising_moves_hits_within_bounds_and_by_seed():
    stiff = groove("funk", 4)
    first, again, other = (humanise(stiff, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.hits, stiff.hits)
    assert np.array_equal(first.offsets, again.offsets)
    assert not np.array_equal(first.offsets, other.offsets)
    assert np.abs(first.offsets).max() <= 0.5
    loud = first.velocities[stiff.hits]
    assert loud.min() >= 1
    assert loud.max() <= 127
    assert first.offsets[stiff.hits].std() > 0.02
    assert not first.velocities[~stiff.hits].any()


def test_a_measured_feel_beats_a_plain_one_on_its_own_drummer():
    stiff = groove("rock", 16)
    shape = stiff.hits.shape
    late = np.where(np.arange(shape[0])[:, None] % 4 == 2, 0.3, 0.0) * np.ones(shape)
    loud = np.where(np.arange(shape[0])[:, None] % 4 == 0, 120, 40) * np.ones(shape, int)
    played = Groove(stiff.hits, velocities=loud * stiff.hits, offsets=late * stiff.hits)
    errors = [feel_errors(f, [played]) for f in (measured_feel([played]), plain_feel())]
    assert errors[0][0] < errors[1][0]
    assert errors[0][1] < errors[1][1]
    with pytest.raises(InvalidInputError, match="played grooves"):
        measured_feel([stiff])


def test_round_trips_lose_what_the_grid_cannot_hold():
    notes = [(0, 36, 100), (65, 36, 20), (130, 38, 80), (480, 42, 60)]
    performances = [read_midi(midi_bytes(notes))]
    coarse, fine = (round_trip(performances, n) for n in (4, 24))
    assert coarse.num_hits == 4
    # ticks 65 and 130 both go to step 1 (tick 120), of other drums; nothing is merged
    assert coarse.kept_share == 1.0
    step_ms = 500 / 480
    assert coarse.onset_ms == pytest.approx((55 + 10) / 4 * step_ms)
    assert fine.onset_ms < coarse.onset_ms
    assert coarse.timing_ms < 1e-3
    assert coarse.velocity_error == pytest.approx((0 + 80 + 20 + 40) / 4)
    flam = [read_midi(midi_bytes([(0, 36, 100), (10, 36, 120)]))]
    assert round_trip(flam, 4).kept_share == 0.5
    with pytest.raises(InvalidInputError, match="no hits"):
        round_trip([read_midi(midi_bytes([]))], 4)


def test_tokens_a_bar_are_counted():
    performances = [read_midi(midi_bytes([(0, 36, 9), (0, 42, 9), (480, 38, 9)]))]
    counts = tokens_per_bar(performances)
    assert counts["drumroll, a token a line"] == 17
    assert counts["REMI (counted)"] == 1 + 2 + 9
    assert counts["PerTok (counted)"] == 1 + 12


def test_the_notation_with_loudness_reads_back_to_its_levels():
    played = humanise(groove("samba", 2), seed=0)
    text = velocity_text(played)
    back = read_velocity_text(text)
    assert np.array_equal(back.hits, played.hits)
    assert velocity_text(back) == text
    with pytest.raises(InvalidInputError, match="no velocities"):
        velocity_text(groove("samba", 2))
    with pytest.raises(InvalidInputError, match="no line"):
        read_velocity_text("x-----\n")


def test_counted_lines_are_probabilities_and_prefer_what_they_saw():
    rows = library_rows(20)
    model = fit_lines(rows, 3)
    for context in ([], [1, 2], [70 % 64] * 5):
        assert model.probabilities(context).sum() == pytest.approx(1)
    assert model.nats_per_line(rows) < fit_lines(rows, 0).nats_per_line(rows)
    text = model.compose(rows[0].prompt, seed=1)
    assert text == model.compose(rows[0].prompt, seed=1)
    assert text.startswith(rows[0].prompt)
    with pytest.raises(InvalidInputError, match="no rows"):
        fit_lines([])
