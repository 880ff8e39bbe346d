"""The paper's own commands: generating, MIDI to drumroll and back; `score` is in `scoring`."""

import dataclasses
import warnings
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.command import parse
from experiments.drums.scoring import score
from lab.errors import DatasetNotFoundError, InvalidInputError, require
from lab.files import write_atomically

_PROG = "python -m experiments.drums"
PathArgument = Annotated[Path, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Generate:
    """Continues a groove to a MIDI file, a WAV file and a drumroll of exactly the asked bars."""

    prompt: Path | None = None
    """A MIDI file or a drumroll text, whose first two sounding measures are continued."""
    style: str = "rock"
    """Without --prompt: a style of the built-in library to begin from."""
    bars: int = 8
    """Bars of the file, the given ones included."""
    bpm: float | None = None
    """Quarter notes a minute; by default those of the prompt, else 120."""
    meter: str | None = None
    """Beats a bar over 4, such as 3/4; by default those of the prompt, else 4/4."""
    seed: int = 0
    """The same seed gives the same groove."""
    count: int = 1
    """How many grooves, all in one compiled call."""
    temperature: float = 0.9
    """0 takes the most likely token."""
    top_k: int | None = None
    """Keep so many likely tokens."""
    top_p: float | None = None
    """Keep likely tokens of this mass."""
    min_p: float | None = None
    """Keep tokens at least so likely, relative to the most likely one."""
    repetition: float | None = None
    """Penalty of tokens that have come; 1 is none."""
    candidates: int = 4
    """Drawn for every groove; the one with the fewest silent measures is written."""
    weights: str = "auto"
    """A saved model or GGUF file; smollm2; or auto: the newest model of a run, else smollm2."""
    prompt_included: bool = True
    """Begin the file with the given measures."""
    humanise: bool = False
    """Give the hits velocities and small delays of their own."""
    loops: int = 1
    """How often the groove is played in the files."""
    out: Path = Path("groove")
    """Where to write: <out>.mid, <out>.wav and <out>.txt."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the weights in decoding; auto: bfloat16 where the machine multiplies it natively."""
    runs_dir: Path = Path("runs")
    """Folder of runs, for --weights auto."""
    data_dir: Path | None = None
    """Folder of data sets, for smollm2."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class ToDrumroll:
    """Writes the drumroll of a MIDI file, and shows it as people read it."""

    midi: PathArgument
    """The file."""
    out: Path | None = None
    """Where the text goes; by default it is printed."""
    measures: int = 16
    """Bars, padded or cut; 0 for as many as the piece has."""
    official: bool = False
    """The released script's behaviour: first track, its step ranges, unknown notes are errors."""
    tracks: Literal["merge", "first"] = "merge"
    """Take the notes of all tracks, or of the first alone."""
    strict: bool = False
    """Refuse unknown drums and a missing meter instead of warning."""
    loudness: bool = False
    """Write the notation with three levels of loudness (an extension)."""
    show: bool = False
    """Show the piano roll instead of the lines."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class ToMidi:
    """Writes the MIDI file of a drumroll text, and its sound on request."""

    text: PathArgument
    """The file."""
    out: Path | None = None
    """Where the MIDI goes; by default beside the text."""
    bpm: float = 120.0
    """Quarter notes a minute."""
    meter: str = "4/4"
    """Beats a bar over 4."""
    official: bool = False
    """The released script's bytes."""
    malformed: Literal["raise", "drop", "repair"] = "raise"
    """Malformed lines stop it, are left out, or mended."""
    wav: bool = False
    """Write the sound too."""
    humanise: bool = False
    """Give the hits velocities and small delays of their own."""
    seed: int = 0
    """Of --humanise."""
    debug: bool = False
    """Show the traceback of an error."""


def generate(args: list[str]) -> int:
    """Continues a MIDI file or a library groove to MIDI and WAV of exactly the asked bars."""
    options = parse(Generate, args, prog=f"{_PROG} generate", description=Generate.__doc__)
    from lab.papers import drums

    start = _prompt_groove(options)
    prompt = drums.prompt_of_groove(start)
    meter = _meter(options.meter) if options.meter else start.meter
    model, source = _model(options)
    dtype = drums.decoding_dtype() if options.dtype == "auto" else options.dtype
    composer = drums.Composer(model, dtype=dtype, cache_step=256)
    sampled = ("temperature", "top_k", "top_p", "min_p", "repetition")
    grooves = drums.compose_bars(
        composer,
        [prompt] * options.count,
        num_bars=options.bars,
        meter=meter,
        bpm=options.bpm or start.bpm or 120.0,
        with_prompt=options.prompt_included,
        seeds=[options.seed + i for i in range(options.count)],
        candidates=options.candidates,
        **{name: getattr(options, name) for name in sampled},
    )
    print(f"{source}: {options.count} x {options.bars} bars of {meter[0]}/4")
    for number, groove in enumerate(grooves):
        if options.humanise:
            groove = drums.humanise(groove, seed=options.seed + number)
        end = "" if options.count == 1 else f"-{number + 1}"
        base = options.out.with_name(f"{options.out.name}{end}")
        _write(base, groove, options.bars, options.loops)
    return 0


def _write(base: Path, groove, num_bars: int, loops: int) -> None:
    from lab.papers import drums

    sizes = {"num_bars": num_bars, "loops": loops}
    files = {
        ".mid": drums.write_midi(groove, **sizes),
        ".wav": drums.wav_bytes(drums.render(groove, **sizes)),
        ".txt": groove.text,
    }
    print(drums.piano_roll_text(groove.hits, steps_per_measure=groove.steps_per_bar))
    for suffix, content in files.items():
        print(write_atomically(base.with_name(base.name + suffix), content))


def _prompt_groove(options: Generate):
    """The groove to be continued."""
    from lab.papers import drums

    if options.prompt is None:
        return drums.groove(options.style, 4, seed=options.seed)
    content = _content(options.prompt)
    if content[:4] == b"MThd" or options.prompt.suffix.lower() in (".mid", ".midi"):
        performance = drums.read_midi(content, source=str(options.prompt))
        return drums.quantise(performance, num_measures=None, source=str(options.prompt))
    text = content.decode("utf-8", errors="replace")
    hits, _ = drums.parse_drumroll(text)
    return drums.Groove(hits)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error


def _meter(text: str) -> tuple[int, int]:
    beats, _, unit = text.partition("/")
    is_meter = beats.isdigit() and unit == "4" and 1 <= int(beats) <= 32
    require(is_meter, f"meter is {text!r}; accepted: x/4, such as 4/4 or 3/4")
    return int(beats), 4


def _model(options: Generate):
    """The model to use, and what it is in words."""
    import lab.data
    from lab.papers import drums

    if options.weights not in ("auto", "smollm2"):
        path = Path(options.weights)
        require(path.is_file(), f"there is no file {path}; --weights takes a saved model or GGUF")
        return drums.open_model(path), str(path)
    if options.weights == "auto":
        saved = options.runs_dir.glob("drums/*/*.safetensors")
        newest = max(saved, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            return drums.open_model(newest), str(newest)
    try:
        path = lab.data.locate("smollm2", options.data_dir)
    except DatasetNotFoundError as error:
        raise DatasetNotFoundError(
            f"no model is here: run `{_PROG}` (a small one, a minute) or `{_PROG} bench`, fetch "
            "`python -m experiments data --fetch smollm2`, or name --weights"
        ) from error
    return drums.open_model(path), "SmolLM2 as it was pre-trained, not tuned on drums"


def midi2drumroll(args: list[str]) -> int:
    """Writes or shows the drumroll of a MIDI file."""
    options = parse(ToDrumroll, args, prog=f"{_PROG} midi2drumroll", description=ToDrumroll.__doc__)
    from lab.papers import drums

    tracks, rule = ("first", "official") if options.official else (options.tracks, "nearest")
    strict = options.official or options.strict
    content, source = _content(options.midi), str(options.midi)
    groove = drums.quantise(
        drums.read_midi(content, tracks=tracks, source=source),
        num_measures=options.measures or None,
        step_rule=rule,
        missing_meter="skip" if strict else "assume",
        strict=strict,
        source=source,
    )
    if options.show:
        print(drums.piano_roll_text(groove.hits, steps_per_measure=groove.steps_per_bar))
        return 0
    text = drums.velocity_text(groove) if options.loudness else groove.text
    if options.out is None:
        print(text, end="")
    else:
        print(write_atomically(options.out, text))
    return 0


def drumroll2midi(args: list[str]) -> int:
    """Writes the MIDI file of a drumroll text."""
    options = parse(ToMidi, args, prog=f"{_PROG} drumroll2midi", description=ToMidi.__doc__)
    from lab.papers import drums

    text = _content(options.text).decode("utf-8", errors="replace")
    out = options.out or options.text.with_suffix(".mid")
    if options.official:
        print(write_atomically(out, drums.write_official_midi(text)))
        return 0
    hits, malformed = drums.parse_drumroll(text, options.malformed)
    require(len(hits) > 0, f"{options.text} holds no lines of a drumroll")
    if malformed:
        done = {"drop": "left out", "repair": "repaired"}[options.malformed]
        warnings.warn(f"{len(malformed)} malformed lines were {done}", stacklevel=1)
    groove = drums.Groove(hits, meter=_meter(options.meter), bpm=options.bpm)
    if options.humanise:
        groove = drums.humanise(groove, seed=options.seed)
    print(write_atomically(out, drums.write_midi(groove)))
    if options.wav:
        sound = drums.wav_bytes(drums.render(groove))
        print(write_atomically(out.with_suffix(".wav"), sound))
    return 0


VERBS = {
    "generate": generate,
    "midi2drumroll": midi2drumroll,
    "drumroll2midi": drumroll2midi,
    "score": score,
}
