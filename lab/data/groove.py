"""The Groove MIDI Dataset (Gillick et al., 2019): drum performances as MIDI files.

Read from the publisher's folder, packed or not, or from a folder of tensorflow-datasets.
"""

import contextlib
import csv
import dataclasses
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lab.data.archives import member_content
from lab.errors import CorruptFileError, DatasetNotFoundError, require, require_extra

SPLITS = ("train", "validation", "test")
TEXTS_FILE = "drumroll_text.tar.gz"
_FIELDS = ("drummer", "session", "style", "bpm", "beat_type", "time_signature", "split")


@dataclasses.dataclass(frozen=True)
class GrooveFile:
    """One performance.

    Attributes:
      path: below the data set's folder, "drummer1/session1/1_funk_80_beat_4-4.mid".
      session: "session1" .. "session3" or "eval_session".
      style: "funk", or with a second part "latin/brazilian-baiao".
      kind: "beat" or "fill"; time_signature: "4-4".
      split: one of SPLITS.
      midi: the file's bytes.
    """

    path: str
    drummer: int
    session: str
    style: str
    bpm: float
    kind: str
    time_signature: str
    split: str
    midi: bytes = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """`<drummer>_<file name>`, which tells it from all others."""
        return f"{self.drummer}_{PurePosixPath(self.path).stem}"


@dataclasses.dataclass(frozen=True)
class DrumTexts:
    """The texts that the drums paper made of the data set.

    Attributes: texts, split ("train", "dev", "test") -> name -> drumroll; rows, split -> the JSONL
      text of prompts and completions.
    """

    texts: dict[str, dict[str, str]]
    rows: dict[str, str]


def read_groove(path: str | Path) -> list[GrooveFile]:
    """All performances, in the order of `info.csv`.

    Args: path, what `lab.data.locate("groove")` finds: the tar archive, an `info.csv`, or the
      `dataset_info.json` of a folder of tensorflow-datasets. A zip archive does too, and so does
      the folder of E-GMD, whose table has another name and the same columns.
    Raises: DatasetNotFoundError, CorruptFileError.
    """
    path = Path(path)
    if path.name == "dataset_info.json":
        return list(_from_tfds(path.parent))
    if path.is_dir():
        others = sorted(path.glob("*.csv"))
        has_one = len(others) == 1
        path = others[0] if has_one else path / "info.csv"
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not there")
    if path.suffix == ".csv":
        return _from_table(path.read_text(encoding="utf-8"), _from_folder(path.parent), path)
    with _archive(path) as read:
        return _from_table(read("groove/info.csv").decode(), lambda n: read(f"groove/{n}"), path)


def read_drum_texts(path: str | Path) -> DrumTexts:
    """The released drum texts that lie beside the data set, in `drumroll_text.tar.gz`.

    Args: path, the archive, or what `lab.data.locate("groove")` finds.
    Raises: DatasetNotFoundError, CorruptFileError.
    """
    path = Path(path)
    if path.name != TEXTS_FILE:
        beside = [path.parent / TEXTS_FILE, path.parent.parent / TEXTS_FILE]
        path = next((place for place in beside if place.is_file()), beside[0])
    if not path.is_file():
        raise DatasetNotFoundError(
            f"the released drum texts are not there: {path}; they come with the drums paper's "
            "data, and can be made anew from the MIDI files"
        )
    texts: dict[str, dict[str, str]] = {"train": {}, "dev": {}, "test": {}}
    rows = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isfile() and name.suffix == ".jsonl":
                    rows[name.stem] = member_content(archive, member).decode()
                elif member.isfile() and name.suffix == ".txt":
                    content = member_content(archive, member).decode()
                    texts[name.parent.name][name.stem] = content
    except (tarfile.TarError, EOFError, OSError, KeyError, UnicodeDecodeError, zlib.error) as error:
        raise CorruptFileError(f"{path} cannot be read: {error}") from error
    return DrumTexts(texts, rows)


def _from_table(text: str, read: Callable[[str], bytes], source: Path) -> list[GrooveFile]:
    table = csv.DictReader(io.StringIO(text))
    missing = {*_FIELDS, "midi_filename"} - set(table.fieldnames or ())
    require(not missing, f"{source}: info.csv lacks {sorted(missing)}", CorruptFileError)
    return [_file_of(row, read, source) for row in table]


def _file_of(row: dict[str, str], read: Callable[[str], bytes], source: Path) -> GrooveFile:
    try:
        return GrooveFile(
            path=row["midi_filename"],
            drummer=int(row["drummer"].removeprefix("drummer")),
            session=PurePosixPath(row["session"]).name,
            style=row["style"],
            bpm=float(row["bpm"]),
            kind=row["beat_type"],
            time_signature=row["time_signature"],
            split=_checked_split(row["split"]),
            midi=read(row["midi_filename"]),
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise CorruptFileError(f"{source}: info.csv has a row {row}: {error}") from error


def _checked_split(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, not one of {', '.join(SPLITS)}")
    return split


def _from_folder(folder: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        place = PurePosixPath(name)
        is_inside = not place.is_absolute() and ".." not in place.parts
        require(is_inside, f"{folder}/info.csv names a file outside: {name}", CorruptFileError)
        try:
            return (folder / place).read_bytes()
        except OSError as error:
            raise CorruptFileError(f"{folder} lacks {name}, which info.csv names") from error

    return read


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[Callable[[str], bytes]]:
    """A function that reads members of a tar or zip archive."""

    def guarded(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
        def call(name: str) -> bytes:
            try:
                return read(name)
            except (KeyError, AttributeError) as error:
                raise CorruptFileError(f"{path} has no member {name}") from error

        return call

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield guarded(archive.read)
            return
        with tarfile.open(path) as archive:
            # Read in the order of the archive: seeking back in a gzip stream starts it anew.
            members = {m.name: member_content(archive, m) for m in archive if m.isfile()}
        yield guarded(members.__getitem__)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise CorruptFileError(f"{path} cannot be read: {error}") from error


def _from_tfds(folder: Path) -> Iterable[GrooveFile]:
    require_extra("array_record", extra="images")
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(str(folder))
        for split in builder.info.splits:
            yield from (
                _from_record(record, builder.info.features, _checked_split(split))
                for record in builder.as_data_source(split=split)
            )
    except Exception as error:  # tfds and array_record raise many kinds for damaged files
        raise CorruptFileError(f"{folder} cannot be read: {error}") from error


def _from_record(record, features, split: str) -> GrooveFile:
    """A performance whose file name is put together again from its features."""
    label = {key: features[key].int2str(record[key]) for key in ("drummer", "type")}
    meter = features["time_signature"].int2str(record["time_signature"])
    parts = [features["style"]["primary"].int2str(record["style"]["primary"])]
    parts += [part for part in [_text(record["style"]["secondary"])] if part]
    folder, _, number = _text(record["id"]).rpartition("/")
    bpm = int(record["bpm"])
    stem = f"{number}_{'-'.join(parts)}_{bpm}_{label['type']}_{meter}"
    return GrooveFile(
        path=f"{folder}/{stem}.mid",
        drummer=int(label["drummer"].removeprefix("drummer")),
        session=PurePosixPath(folder).name,
        style="/".join(parts),
        bpm=float(bpm),
        kind=label["type"],
        time_signature=meter,
        split=split,
        midi=bytes(record["midi"]),
    )


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
