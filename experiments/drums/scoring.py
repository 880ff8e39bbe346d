"""The verb `score`: structure, copying and validity of grooves that lie in files."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import parse
from lab.errors import DatasetNotFoundError, InvalidInputError, require
from lab.files import write_atomically

Pieces = list[list[str]]
MIDI_SUFFIXES = (".mid", ".midi")
COLUMNS = {
    "pieces": "pieces",
    "mean": "mean stability",
    "gap": "gap",
    "within": "within",
    "zero_share": "zeros",
    "to_previous": "= previous",
    "to_prompt": "= prompt",
    "new_share": "new",
    "validity": "valid",
}


@dataclasses.dataclass(frozen=True)
class Score:
    """Measures grooves of one or more systems: how they repeat and vary, and whether they copy."""

    systems: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A system each: a folder of drumroll texts and MIDI files, one such file, or JSON of
    {system: {name: text}}, packed or not."""
    reference: Path | None = None
    """Texts or MIDI files in which measures are looked up; by default the training part of the
    Groove data, where it is here."""
    out: Path | None = None
    """Write all numbers, and the stabilities of every piece, as JSON too."""
    data_dir: Path | None = None
    """Folder of data sets, for the default reference."""
    debug: bool = False
    """Show the traceback of an error."""


def score(args: list[str]) -> int:
    """Prints a row of metrics a system."""
    from lab.report import Table
    from lab.report.markdown import table_markdown

    prog = "python -m experiments.drums score"
    options = parse(Score, args, prog=prog, description=Score.__doc__)
    require(len(options.systems) > 0, "name at least one folder or file to be scored")
    reference = _reference(options)
    found = {
        name: metrics_of(pieces, reference)
        for path in options.systems
        for name, pieces in read_systems(path).items()
    }
    rows = [[name, *(own[key] for key in COLUMNS)] for name, own in found.items()]
    note = "" if reference else "Nothing to look measures up in: name --reference."
    print(table_markdown(Table("Scores", ["system", *COLUMNS.values()], rows, note)))
    if options.out is not None:
        print(write_atomically(options.out, json.dumps(found, indent=1) + "\n"))
    return 0


def metrics_of(pieces: Pieces, reference: Pieces | None) -> dict:
    """All numbers of one system; "new_share" is None without a reference."""
    from lab.papers import drums

    metrics = drums.structure(pieces)
    to_previous, to_prompt = drums.identity_shares(pieces)
    new = drums.copying(pieces, reference, generated_only=True).new_share if reference else None
    return {
        "pieces": len(pieces),
        "mean": metrics.mean,
        "gap": metrics.gap,
        "within": metrics.within,
        "zero_share": metrics.zero_share,
        "to_previous": to_previous,
        "to_prompt": to_prompt,
        "new_share": new,
        "validity": drums.validity(pieces),
        "stabilities": [values.tolist() for values in metrics.stabilities],
    }


def read_systems(path: Path) -> dict[str, Pieces]:
    """The pieces of the systems in a folder or file, lines with their newlines, by name.

    Raises: InvalidInputError for a path without any, CorruptFileError for a file of another form.
    """
    from experiments.drums.facts import read_outputs

    if ".json" in path.suffixes:
        return read_outputs(path)
    suffixes = (".txt", *MIDI_SUFFIXES)
    found = sorted(p for p in path.rglob("*") if p.suffix in suffixes) if path.is_dir() else [path]
    if not all(p.is_file() for p in found) or not found:
        raise InvalidInputError(f"{path} holds no drumroll texts (.txt) and no MIDI files")
    # A groove that was written as text and as MIDI is one piece.
    texts = {p.with_suffix("") for p in found if p.suffix == ".txt"}
    chosen = [p for p in found if p.suffix == ".txt" or p.with_suffix("") not in texts]
    return {path.name: [_lines(p) for p in chosen]}


def _lines(path: Path) -> list[str]:
    from lab.papers import drums

    if path.suffix in MIDI_SUFFIXES:
        performance = drums.read_midi(path)
        text = drums.quantise(performance, num_measures=None, source=str(path)).text
    else:
        text = drums.drumroll_of(path.read_text(encoding="utf-8", errors="replace"))
    return text.splitlines(keepends=True)


def _reference(options: Score) -> Pieces | None:
    import lab.data
    from lab.papers import drums

    if options.reference is not None:
        systems: Sequence[Pieces] = list(read_systems(options.reference).values())
        return [lines for pieces in systems for lines in pieces]
    try:
        files = lab.data.load("groove", data_dir=options.data_dir)
    except DatasetNotFoundError:
        return None
    train = [file for file in drums.papers_files(files) if file.split == "train"]
    return drums.read_corpus(train).lines("train")
