"""A small drum synthesiser: kick, snare, hi-hat, tom, ride and crash from sines and noise."""

import functools
import io
import wave

import numpy as np

from lab.errors import require
from lab.papers.drums.grid import Groove
from lab.papers.drums.midi_writing import DEFAULT_BPM, VELOCITY
from lab.papers.drums.notation import COLUMNS

SAMPLE_RATE = 44_100
_GAINS = {"crash": 0.45, "ride": 0.35, "snare": 0.8, "kick": 1.0, "hi-hat": 0.35, "tom": 0.8}


def render(
    groove: Groove, *, bpm: float | None = None, num_bars: int | None = None, loops: int = 1
) -> np.ndarray:
    """The sound of a groove, float32 [samples] in -1..1, of exactly so many bars.

    What rings over the end is mixed into the beginning, so that the sound loops without a seam.

    Args: as `lab.papers.drums.midi_writing.write_midi`.
    """
    bpm = bpm or groove.bpm or DEFAULT_BPM
    require(4 <= bpm <= 1000, f"bpm is {bpm}; accepted: 4 to 1000")
    require(loops >= 1, f"loops must be at least 1, got {loops}")
    seconds_per_step = 60.0 / bpm / groove.steps_per_quarter
    num_bars = num_bars or max(1, -(-len(groove.hits) // groove.steps_per_bar))
    num_steps = num_bars * groove.steps_per_bar
    total = round(num_steps * seconds_per_step * SAMPLE_RATE)
    sound = np.zeros(total)
    for step, column in np.argwhere(groove.hits[:num_steps]).tolist():
        late = 0.0 if groove.offsets is None else float(groove.offsets[step, column])
        loud = VELOCITY if groove.velocities is None else groove.velocities[step, column]
        start = max(0, round((step + late) * seconds_per_step * SAMPLE_RATE))
        hit = drum_sound(COLUMNS[column]) * (float(loud) / 127) ** 1.5
        _add_around(sound, hit, start)
    peak = np.abs(sound).max(initial=0.0)
    sound = sound * (0.9 / peak) if peak > 0.9 else sound
    return np.tile(sound, loops).astype(np.float32)


def wav_bytes(sound: np.ndarray) -> bytes:
    """A WAV file, 16 bit mono, of float samples in -1..1."""
    samples = np.round(np.clip(sound, -1, 1) * 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


@functools.cache
def drum_sound(drum: str) -> np.ndarray:
    """One hit of a drum, float64 [samples], at full velocity."""
    rng = np.random.default_rng(COLUMNS.index(drum))
    sound = {
        "kick": lambda: _swept(0.35, 150, 48, 0.03, 0.11) + 0.4 * _noise(rng, 0.35, 0.004),
        "tom": lambda: _swept(0.4, 190, 105, 0.05, 0.13) + 0.1 * _noise(rng, 0.4, 0.02),
        "snare": lambda: (
            0.5 * _swept(0.25, 240, 180, 0.02, 0.05) + 0.7 * _high(_noise(rng, 0.25, 0.07), 1500)
        ),
        "hi-hat": lambda: _high(_noise(rng, 0.12, 0.025), 7000),
        "ride": lambda: 0.6 * _metal(0.8, 0.22) + 0.3 * _high(_noise(rng, 0.8, 0.05), 6000),
        "crash": lambda: _high(_noise(rng, 1.6, 0.4), 3500) + 0.2 * _metal(1.6, 0.3),
    }[drum]()
    fade = np.minimum(1, np.arange(len(sound))[::-1] / (0.01 * SAMPLE_RATE))
    return _GAINS[drum] * sound * fade / np.abs(sound).max()


def _add_around(sound: np.ndarray, hit: np.ndarray, start: int) -> None:
    """Adds a hit, going on at the beginning behind the end."""
    while len(hit):
        part = hit[: len(sound) - start]
        sound[start : start + len(part)] += part
        hit, start = hit[len(part) :], 0


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _swept(seconds, high, low, fall, decay) -> np.ndarray:
    """A sine that falls from `high` to `low` Hz."""
    time = _time(seconds)
    frequency = low + (high - low) * np.exp(-time / fall)
    return np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE) * np.exp(-time / decay)


def _noise(rng, seconds, decay) -> np.ndarray:
    time = _time(seconds)
    return rng.standard_normal(len(time)) * np.exp(-time / decay)


def _metal(seconds, decay) -> np.ndarray:
    """Inharmonic partials, as of struck metal."""
    time = _time(seconds)
    partials = (2310, 3127, 4180, 5411, 6953, 8245)
    return sum(np.sin(2 * np.pi * f * time) for f in partials) * np.exp(-time / decay)


def _high(sound: np.ndarray, cutoff: float) -> np.ndarray:
    """The part of a sound above a frequency, Hz."""
    spectrum = np.fft.rfft(sound)
    frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / (1 + (cutoff / np.maximum(frequency, 1)) ** 4), len(sound))
