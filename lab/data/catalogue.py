"""Finding and loading a data set by name.

A name is looked up in this order: an explicit `data_dir`; the folder `$LAB_DATA_DIR` (sets of
tensorflow-datasets in its `tfds/`); `$TFDS_DATA_DIR` or the default folder of tensorflow-datasets;
what `fetch_dataset` put into `$LAB_CACHE_DIR/data`. Loading never downloads.
"""

import difflib
import os
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.data.entries import ENTRIES, Entry, PublicFile
from lab.data.fetch import fetch
from lab.errors import CorruptFileError, DataError, DatasetNotFoundError, InvalidInputError

FileProgress = Callable[[PublicFile, int, int | None], None]


def names() -> list[str]:
    """Names of all data sets, in the catalogue's order."""
    return list(ENTRIES)


def entry(name: str) -> Entry:
    """What the catalogue knows of a data set. Raises: InvalidInputError for an unknown name."""
    if name not in ENTRIES:
        close = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(ENTRIES)}"
        raise InvalidInputError(f"the catalogue has no data set {name!r}; {hint}")
    return ENTRIES[name]


def load(name: str, data_dir: str | Path | None = None, **options: Any) -> Any:
    """Loads a data set; graphs come as `NodeDataset`, images as (images, labels).

    Args:
      name: see `names`.
      data_dir: folder to look in first, or the data set's own file.
      options: passed to the set's loader, such as split="test" of an image set.
    Raises: DatasetNotFoundError (says where it was looked for and how to get it), DataError.
    """
    found = entry(name)
    if found.loader is None:
        raise DataError(
            f"{name} has no loader of its own, its paper reads the files: lab.data.locate({name!r})"
        )
    if found.is_embedded:
        return found.loader(**options)
    return found.loader(locate(name, data_dir), **options)


def locate(name: str, data_dir: str | Path | None = None) -> Path:
    """The file that marks where a data set is (see the entry's `places`).

    Raises: DatasetNotFoundError; InvalidInputError for a set that needs no file.
    """
    found = entry(name)
    if found.is_embedded:
        raise InvalidInputError(f"{name} needs no file; lab.data.load({name!r}) makes it")
    folders = search_folders(found, data_dir)
    for source, folder in folders:
        path = _first_match(folder, found.places)
        if path is not None:
            if data_dir is not None and source != "data_dir":
                warnings.warn(f"{name} is not in {data_dir}, using {path}", stacklevel=2)
            return path
    looked = "; ".join(f"{source} ({folder})" for source, folder in folders)
    unset = "" if os.environ.get("LAB_DATA_DIR") else "; LAB_DATA_DIR is not set"
    raise DatasetNotFoundError(
        f"data set {name} is not on this machine. Expected {found.layout}. Looked in {looked}"
        f"{unset}. To get it: {found.command}"
    )


def search_folders(found: Entry, data_dir: str | Path | None = None) -> list[tuple[str, Path]]:
    """(what names the folder, folder) in the order of search."""
    folders = []
    if data_dir is not None:
        folders.append(("data_dir", Path(data_dir).expanduser()))
    if os.environ.get("LAB_DATA_DIR"):
        folders.append(("LAB_DATA_DIR", Path(os.environ["LAB_DATA_DIR"]).expanduser()))
    if found.in_tfds:
        named = os.environ.get("TFDS_DATA_DIR")
        default = "~/tensorflow_datasets"
        source = "TFDS_DATA_DIR" if named else "tensorflow-datasets"
        folders.append((source, Path(named or default).expanduser()))
    return [*folders, ("fetched data", fetched_dir())]


def cache_dir() -> Path:
    """Where decoded copies and fetched files go: `$LAB_CACHE_DIR`, default `~/.cache/tenfold`."""
    return Path(os.environ.get("LAB_CACHE_DIR") or "~/.cache/tenfold").expanduser()


def fetched_dir() -> Path:
    """Where the public files of fetched data sets go."""
    return cache_dir() / "data"


def fetch_dataset(name: str, progress: FileProgress | None = None, **fetch_options: Any) -> Path:
    """Downloads the public files of a data set into `fetched_dir()`, and unpacks archives.

    Args:
      progress: called with (file, bytes on disk, bytes in all or None).
      fetch_options: retries, timeout, pause of `lab.data.fetch.fetch`.
    Returns: what `locate` then finds there.
    Raises: DataError where the set has no public files (says how to get it), DownloadError,
      CorruptFileError.
    """
    found = entry(name)
    if found.is_embedded:
        raise DataError(f"{name} needs no file; lab.data.load({name!r}) makes it")
    if not found.files:
        raise DataError(f"{name} has no public file to fetch. To get it: {found.how_to_get}")
    for file in found.files:
        if file.unpack_into is not None and (fetched_dir() / file.unpack_into).exists():
            continue
        report = None if progress is None else _report_for(file, progress)
        path = fetched_dir() / file.path
        fetch(file.url, path, sha256=file.sha256, size=file.size, progress=report, **fetch_options)
        if file.unpack_into is not None:
            unpack(path, fetched_dir() / file.unpack_into)
            path.unlink()
    path = _first_match(fetched_dir(), found.places)
    if path is None:
        raise CorruptFileError(
            f"the files of {name} were fetched into {fetched_dir()}, but do not hold {found.layout}"
        )
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip or tar archive; `folder` appears when all of it is there.

    An archive whose members all lie in one folder of the same name as `folder` gives that folder.
    Raises: CorruptFileError for damaged archives and members that point outside.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
        content = Path(temporary) / "content"
        content.mkdir()
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:
                    file.extractall(content)
            else:
                with tarfile.open(archive) as file:
                    file.extractall(content, filter="data")
                    # The checksum of a compressed stream is looked at where it ends.
                    while file.fileobj.read(1 << 20):
                        pass
        except (zipfile.BadZipFile, zlib.error, tarfile.TarError, EOFError, OSError) as error:
            raise CorruptFileError(f"{archive} cannot be unpacked: {error}") from error
        inner = content / folder.name
        is_wrapped = list(content.iterdir()) == [inner] and inner.is_dir()
        os.replace(inner if is_wrapped else content, folder)


def _report_for(file: PublicFile, progress: FileProgress):
    return lambda done, total: progress(file, done, total)


def _first_match(folder: Path, places: tuple[str, ...]) -> Path | None:
    """The first place that exists, of several versions the last. A file stands for itself."""
    if folder.is_file():
        return folder
    for place in places:
        matches = sorted(path for path in folder.glob(place) if path.suffix != ".part")
        if matches:
            return matches[-1]
    return None
