"""Pictures on disk: class folders, plain folders and zip archives, read as sources of a stream."""

import csv
import dataclasses
import io
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.errors import CorruptFileError, DatasetNotFoundError, require, require_extra

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Pictures in files; made by `image_folder`.

    Read examples are "image" uint8 [n, canvas, canvas, 3], the picture in the upper left corner of
    the canvas and zeros elsewhere; "size" int32 [n, 2], its height and width; and "label" int32
    where there are classes. A picture larger than the canvas is scaled down to fit.

    Attributes: files; labels int32 [N] or None; classes, the names in the order of the labels.
    """

    files: tuple[Path, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    canvas: int

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Raises: CorruptFileError naming the file."""
        files = [self.files[i] for i in indices]
        pictures = [decode(_content(file), self.canvas, str(file)) for file in files]
        return _stacked(pictures, self.labels, indices, self.canvas)


class ImageArchive:
    """Pictures in a zip archive, read as those of `ImageFolder`; made by `image_archive`."""

    path: Path
    members: tuple[str, ...]
    canvas: int
    labels: Any
    classes: tuple[Any, ...]

    def __init__(self, path: Path, members: Sequence[str], labels: Any, classes: Any, canvas: int):
        self.path, self.members, self.canvas = Path(path), tuple(members), canvas
        self.labels, self.classes = labels, tuple(classes)
        self._lock, self._archive = threading.Lock(), None

    def __len__(self) -> int:
        return len(self.members)

    def __getstate__(self) -> dict:
        """Without the open file, which every worker process opens for itself."""
        return self.__dict__ | {"_lock": None, "_archive": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Raises: CorruptFileError naming the archive and the member."""
        names = [self.members[i] for i in indices]
        pictures = [decode(self._bytes(n), self.canvas, f"{self.path}: {n}") for n in names]
        return _stacked(pictures, self.labels, indices, self.canvas)

    def _bytes(self, member: str) -> bytes:
        try:
            with self._lock:
                if self._archive is None:
                    self._archive = zipfile.ZipFile(self.path)
                return self._archive.read(member)
        except (zipfile.BadZipFile, OSError, KeyError, EOFError) as error:
            raise CorruptFileError(f"{self.path}: {member} cannot be read: {error}") from error


def image_folder(root: str | Path, *, canvas: int = 256) -> ImageFolder:
    """The pictures of `root/<class>/**`, or, where there are no folders, the files of `root`.

    Args: canvas, the side of the square that every picture is put in, pixels.
    Returns: labelled by class, whose number is the rank of the folder's name (the layout of
      ImageNet); without labels for a folder of mere files.
    Raises: DatasetNotFoundError where the folder or its pictures are missing; InvalidInputError
      for a class without pictures.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DatasetNotFoundError(f"{root} is not a folder; name one that holds pictures")
    require(canvas >= 1, f"canvas must be positive, got {canvas}")
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        files = _pictures(root.iterdir())
        _require_some(files, root)
        return ImageFolder(tuple(files), None, (), canvas)
    found = [_pictures((root / name).rglob("*")) for name in classes]
    empty = [name for name, files in zip(classes, found, strict=True) if not files]
    require(
        not empty,
        f"class folders without a picture in {root}: {', '.join(empty[:5])}; remove or fill them "
        f"({', '.join(SUFFIXES)} are read)",
    )
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in found])
    return ImageFolder(tuple(f for files in found for f in files), labels, tuple(classes), canvas)


def image_archive(path: str | Path, *, canvas: int = 256) -> ImageArchive:
    """The pictures of a zip archive.

    Labels come from its `labels.csv` (columns file, label), else from the folders that the
    pictures lie in; there are none where all lie in one.
    Raises: DatasetNotFoundError, CorruptFileError.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not a file; name a zip archive with pictures")
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES)
            table = "labels.csv" in archive.namelist() and archive.read("labels.csv").decode()
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is not a readable zip archive: {error}") from error
    _require_some(names, path)
    if table:
        names, labels, classes = _labels_of_table(path, names, table)
    else:
        folders = [Path(name).parent.as_posix() for name in names]
        classes = sorted(set(folders))
        labels = np.array([classes.index(folder) for folder in folders], np.int32)
        classes = [Path(name).name for name in classes]
        if len(classes) == 1:
            labels, classes = None, []
    return ImageArchive(path, names, labels, classes, canvas)


def decode(content: bytes, canvas: int, name: str) -> np.ndarray:
    """A picture as uint8 [height, width, 3], scaled down where a side is longer than `canvas`.

    Grey, palette, CMYK and 16-bit pictures become RGB.
    Raises: CorruptFileError naming `name`.
    """
    image_module = require_extra("PIL.Image", extra="images")
    try:
        with image_module.open(io.BytesIO(content)) as picture:
            picture.draft(None, (canvas, canvas))  # JPEG: decode at a fraction of a large size
            picture.load()
            if picture.mode.startswith("I"):  # 16-bit grey, which convert would clip
                grey = np.asarray(picture).astype(np.float64) / 257.0
                picture = image_module.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
            picture = picture.convert("RGB")
            longest = max(picture.size)
            if longest > canvas:
                size = [max(1, round(side * canvas / longest)) for side in picture.size]
                picture = picture.resize(size, image_module.Resampling.BICUBIC)
            return np.asarray(picture)
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        raise CorruptFileError(
            f"{name} cannot be decoded: {error}; replace or remove the file"
        ) from error


def read_pictures(path: str | Path) -> list[np.ndarray]:
    """All pictures of a zip archive in the order of their names, each uint8 [height, width, 3]."""
    source = image_archive(path, canvas=1 << 15)
    return [decode(source._bytes(name), source.canvas, name) for name in source.members]


def read_labelled(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A zip archive of equally large, labelled pictures: (uint8 [N, h, w, 3], labels int32 [N])."""
    images, labels = read_pictures(path), image_archive(path).labels
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or labels is None:
        raise CorruptFileError(
            f"{path} must hold labelled pictures of one size; it has {len(shapes)} sizes"
        )
    return np.stack(images), labels


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"{file} cannot be read: {error.strerror or error}") from error


def _pictures(paths) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _require_some(names: Sequence, where: Path) -> None:
    if not names:
        raise DatasetNotFoundError(f"{where} holds no picture; {', '.join(SUFFIXES)} are read")


def _labels_of_table(path: Path, names: list[str], table: str):
    rows = list(csv.DictReader(io.StringIO(table)))
    try:
        label_of = {row["file"]: (int(row["label"]), row.get("class_name", "")) for row in rows}
        # The table may name files with or without the folder that they lie in.
        found = [label_of[n] if n in label_of else label_of[Path(n).name] for n in names]
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptFileError(f"{path}: labels.csv has no label for {error}") from error
    title_of = dict(found)
    classes = [title_of.get(i, "") for i in range(max(title_of) + 1)]
    return names, np.array([label for label, _ in found], np.int32), classes


def _stacked(pictures, labels, indices: np.ndarray, canvas: int) -> dict[str, np.ndarray]:
    images = np.zeros((len(pictures), canvas, canvas, 3), np.uint8)
    for row, picture in zip(images, pictures, strict=True):
        row[: picture.shape[0], : picture.shape[1]] = picture
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    batch = {"image": images, "size": sizes}
    return batch if labels is None else batch | {"label": labels[indices]}
