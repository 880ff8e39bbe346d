"""The result of an experiment, and its file `result.json`."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from lab.errors import CorruptFileError, require
from lab.files import write_atomically
from lab.report.claims import VERDICTS, Claim, Measurement, format_number
from lab.report.plain import plain

SCHEMA = 1

Cell = Measurement | str | int | float | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the report: `rows` are sequences of cells, one for each of `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(str(column) for column in self.columns))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        for row in self.rows:
            require(
                len(row) == len(self.columns),
                f"table {self.title!r} has {len(self.columns)} columns, not {len(row)} as in {row}",
            )


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture: `path` relative to the run folder, a caption, and what a blind reader is told."""

    path: str
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What an experiment found. `main` gives the first six; `Run.finish` adds the rest.

    Attributes:
      title, summary: the paper's name, and what it is about in one sentence.
      claims, tables, figures, notes: what was found; notes are sentences for the reader.
      paper, preset, name, config: which experiment this was.
      seconds: wall time, compilation included, over all parts of a resumed run.
      machine, commit, code, date: where, with what and when it ran; `code` is a digest of the
        sources the result depends on, date is ISO 8601 in UTC.
    """

    title: str
    summary: str
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    paper: str = ""
    preset: str = ""
    name: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    machine: str = ""
    commit: str = ""
    code: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        for field in ("claims", "tables", "figures"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        notes = (self.notes,) if isinstance(self.notes, str) else tuple(self.notes)
        object.__setattr__(self, "notes", notes)
        repeated = [id for id, count in Counter(c.id for c in self.claims).items() if count > 1]
        require(not repeated, f"each claim needs an id of its own; repeated: {repeated}")

    def counts(self) -> dict[str, int]:
        """How many claims have each verdict, in the order of VERDICTS."""
        found = Counter(claim.verdict for claim in self.claims)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def to_json(self) -> str:
        """The text of `result.json`."""
        values = {"schema": SCHEMA, **plain(self)}
        for entry, claim in zip(values["claims"], self.claims, strict=True):
            entry["verdict"] = claim.verdict
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> Path:
        """Writes the result atomically. Raises: StorageError."""
        return write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Reads a `result.json`.

        Raises: CorruptFileError for a file that is truncated, of another schema, or whose
          verdicts do not follow from its numbers; FileNotFoundError.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            schema = values.pop("schema", None)
            if schema != SCHEMA:
                raise ValueError(f"its schema is {schema!r}, this version reads {SCHEMA}")
            return cls._from_plain(values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptFileError(
                f"{path} is not a result: {error}; delete it and run the experiment again"
            ) from error

    @classmethod
    def _from_plain(cls, values: dict[str, Any]) -> "Result":
        values = dict(values)
        values["claims"] = [_claim(entry) for entry in values["claims"]]
        values["tables"] = [_table(entry) for entry in values["tables"]]
        values["figures"] = [Figure(**entry) for entry in values["figures"]]
        values["seconds"] = float(values["seconds"])
        return cls(**values)


def format_cell(cell: Cell) -> str:
    """A table cell as text; an empty cell is a dash."""
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else _number_text(cell)


def _number_text(cell: Measurement | int | float) -> str:
    return str(cell) if isinstance(cell, Measurement) else format_number(cell)


def _measurement(entry: Any) -> Measurement | None:
    if entry is None:
        return None
    std = None if entry["std"] is None else float(entry["std"])
    return Measurement(float(entry["mean"]), std, int(entry["n"]), entry["unit"])


def _claim(entry: dict[str, Any]) -> Claim:
    entry = dict(entry)
    verdict = entry.pop("verdict")
    entry["measured"] = _measurement(entry["measured"])
    claim = Claim(**entry)
    if claim.verdict != verdict:
        raise ValueError(
            f"claim {claim.id} says {verdict!r} where its numbers say {claim.verdict!r}"
        )
    return claim


def _table(entry: dict[str, Any]) -> Table:
    entry = dict(entry)
    entry["rows"] = [
        [_measurement(cell) if isinstance(cell, dict) else cell for cell in row]
        for row in entry["rows"]
    ]
    return Table(**entry)
