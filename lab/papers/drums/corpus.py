"""The Groove data as the paper uses it: files, names, splits, texts and rows (C1)."""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence

from lab.data.groove import GrooveFile
from lab.papers.drums.grid import Groove, MeterError, quantise
from lab.papers.drums.midi import read_midi
from lab.papers.drums.rows import Row, Strip, make_row

SPLITS = {"train": "train", "validation": "dev", "test": "test"}
SESSIONS = ("session1", "session2", "session3")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Drum texts of a set of performances.

    Attributes: texts, split ("train", "dev", "test") -> name -> drumroll; grooves, name -> Groove,
      as it was played; rows, split -> prompts and completions; num_files, before those of other
      meters were skipped; skipped, their names.
    """

    texts: dict[str, dict[str, str]]
    grooves: dict[str, Groove]
    rows: dict[str, list[Row]]
    num_files: int
    skipped: tuple[str, ...]

    def lines(self, split: str) -> list[list[str]]:
        """The lines of every text of a split, newlines kept, in the order of names."""
        texts = self.texts[split]
        return [texts[name].splitlines(keepends=True) for name in sorted(texts)]


def papers_files(files: Iterable[GrooveFile], *, fills: bool = False) -> list[GrooveFile]:
    """The beats played in the sessions, without the evaluation sessions.

    Args: fills, add the fills among the training files (the paper does not use them).
    """
    return [
        f
        for f in files
        if f.session in SESSIONS
        and (f.kind == "beat" or (fills and f.kind == "fill" and f.split == "train"))
    ]


def held_out_drummer(files: Sequence[GrooveFile], drummer: int) -> list[GrooveFile]:
    """The files with another split: one drummer is the test, all that were his training is left
    out of it; what was test or validation of others is validation."""
    moved = []
    for file in files:
        others = "train" if file.split == "train" else "validation"
        split = "test" if file.drummer == drummer else others
        moved.append(dataclasses.replace(file, split=split))
    return moved


def read_corpus(
    files: Sequence[GrooveFile],
    *,
    official: bool = True,
    strip: Strip = "first_quarter",
    trim: bool = False,
) -> Corpus:
    """Converts performances to texts and rows.

    Args:
      files: such as `papers_files` chooses; fills and other sessions are taken as they are given.
      official: the first track and the official step ranges; otherwise the library's defaults. On
        the Groove files both give the same.
      strip, trim: as in `lab.papers.drums.rows.make_row`.
    """
    texts: dict[str, dict[str, str]] = {split: {} for split in SPLITS.values()}
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS.values()}
    grooves, skipped = {}, []
    for file in files:
        split = SPLITS[file.split]
        tracks, rule = ("first", "official") if official else ("merge", "nearest")
        performance = read_midi(file.midi, tracks=tracks, source=file.path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a silent piece is one of the data set's facts
                groove = quantise(performance, step_rule=rule, source=file.path)
        except MeterError:
            skipped.append(file.name)
            continue
        texts[split][file.name] = groove.text
        grooves[file.name] = groove
        lines = groove.text.splitlines(keepends=True)
        row = make_row(lines, file.name, strip=strip, trim=trim)
        if row is not None:
            rows[split].append(row)
    return Corpus(texts, grooves, rows, len(files), tuple(skipped))
