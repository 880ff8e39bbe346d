"""The pieces that a run is about, and the parts of a run that are measured once and kept."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lab.data
from experiments.drums import Config, Texts
from lab.data.groove import GrooveFile, read_groove
from lab.errors import InvalidInputError
from lab.files import write_atomically
from lab.papers import drums
from lab.papers.drums.corpus import Corpus
from lab.report import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
    """Rows and texts by split ("train", "dev", "test"), and the data set's files if there is one.

    `lines` holds every text's lines with newlines, in the order of names.
    """

    rows: dict[str, list[drums.Row]]
    lines: dict[str, list[list[str]]]
    corpus: Corpus | None = None
    files: tuple[GrooveFile, ...] = ()
    place: Path | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts of the test rows, in the order of names."""
        return [row.prompt for row in self.test]

    @property
    def test(self) -> list[drums.Row]:
        return sorted(self.rows["test"], key=lambda row: row.name)


def load_pieces(config: Config, run: Run) -> Pieces:
    """The Groove data, or our library. Raises: DatasetNotFoundError, InvalidInputError."""
    if config.corpus == "library":
        return _library(config)
    if config.corpus != "groove":
        raise InvalidInputError(f"corpus is {config.corpus!r}; accepted: 'groove', 'library'")
    files = tuple(lab.data.load("groove", data_dir=run.data_dir))
    texts = config.texts
    with run.progress("MIDI to drumrolls", 1) as task:
        corpus = drums.read_corpus(
            chosen_files(texts, files), official=texts.official, strip=texts.strip, trim=texts.trim
        )
        task.advance(1, files=corpus.num_files)
    lines = {split: corpus.lines(split) for split in corpus.texts}
    place = lab.data.locate("groove", run.data_dir)
    return Pieces(corpus.rows, lines, corpus, files, place)


def chosen_files(texts: Texts, files: Sequence[GrooveFile]) -> list[GrooveFile]:
    """The files that a run is about, by its options."""
    chosen = drums.papers_files(files, fills=texts.fills)
    if texts.held_out_drummer is not None:
        chosen = drums.held_out_drummer(chosen, texts.held_out_drummer)
    if texts.extra is not None:
        known = {file.name for file in chosen}
        extra = drums.papers_files(read_groove(texts.extra), fills=texts.fills)
        chosen += [
            file
            for file in extra
            if file.split == "train"
            and file.drummer != texts.held_out_drummer
            and file.name not in known
        ]
    return chosen


def _library(config: Config) -> Pieces:
    held_out = max(config.library_pieces // 8, 2)
    sizes = {"train": config.library_pieces, "dev": held_out, "test": held_out}
    rows = {
        split: drums.library_rows(size, seed=config.seed * 3 + order)
        for order, (split, size) in enumerate(sizes.items())
    }
    lines = {split: [lines_of_row(row) for row in rows[split]] for split in rows}
    return Pieces(rows, lines)


def lines_of_row(row: drums.Row) -> list[str]:
    """Lines of a row's whole groove, newlines kept."""
    return drums.drumroll_of(row.prompt + row.completion).splitlines(keepends=True)


def kept(run: Run, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` finds, a dict of plain values; a resumed run reads it from its folder."""
    path = run.checkpoints / f"{name}.json"
    if not path.is_file():
        found = measure()
        write_atomically(path, json.dumps(found, default=_plain))
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not plain")
