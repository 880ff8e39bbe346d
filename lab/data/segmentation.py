"""Pictures with label maps on disk, in the layout of ADE20K, read as a source of a stream."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lab.data.folders import SUFFIXES, decode
from lab.errors import CorruptFileError, DatasetNotFoundError, require, require_extra
from lab.metrics.segmentation import IGNORED

_UNBOUNDED = 1 << 15


@dataclasses.dataclass(frozen=True)
class SegmentationFolder:
    """Pictures and their label maps; made by `segmentation_folder`.

    Read examples are "image" uint8 [n, canvas, canvas, 3], the picture in the upper left corner and
    zeros elsewhere; "labels" uint8 [n, canvas, canvas], 255 where ignored or outside; and "size"
    int32 [n, 2]. A picture larger than the canvas is scaled down to fit, its labels by nearest
    neighbour.

    Attributes: files, pairs (picture, label map); zero_is_unlabelled, raw label 0 is no class and k
      means class k - 1 (ADE20K).
    """

    files: tuple[tuple[Path, Path], ...]
    num_classes: int
    canvas: int
    zero_is_unlabelled: bool = True

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Raises: CorruptFileError or, for a label that is no class, InvalidInputError; both name
        the file.
        """
        canvas = self.canvas
        images = np.zeros((len(indices), canvas, canvas, 3), np.uint8)
        labels = np.full((len(indices), canvas, canvas), IGNORED, np.uint8)
        sizes = np.zeros((len(indices), 2), np.int32)
        for row, index in enumerate(indices):
            picture, label = self._pair(index, canvas)
            height, width = sizes[row] = picture.shape[:2]
            images[row, :height, :width] = picture
            labels[row, :height, :width] = label
        return {"image": images, "labels": labels, "size": sizes}

    def whole(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every picture uint8 [h, w, 3] with its labels uint8 [h, w], at their own size."""
        for index in range(len(self)):
            yield self._pair(index, _UNBOUNDED)

    def _pair(self, index: int, canvas: int) -> tuple[np.ndarray, np.ndarray]:
        file, label_file = self.files[index]
        labels = read_label_map(label_file)
        labels = reduced_labels(labels) if self.zero_is_unlabelled else labels
        wrong = labels[(labels >= self.num_classes) & (labels != IGNORED)]
        shown = f"{int(wrong[0])}" if wrong.size else ""
        require(
            wrong.size == 0,
            f"{label_file} has label {shown} (after reduction), expected 0..{self.num_classes - 1} "
            f"or {IGNORED} for ignored pixels",
        )
        size, picture = labels.shape, decode(_content(file), canvas, str(file))
        expected = size if max(size) <= canvas else _scaled(size, canvas)
        require(
            picture.shape[:2] == expected,
            f"{file} and {label_file} are of different sizes: the label map is {size}",
            CorruptFileError,
        )
        return picture, nearest(labels, picture.shape[:2])


def segmentation_folder(
    root: str | Path,
    split: str = "training",
    *,
    num_classes: int = 150,
    canvas: int = 1024,
    zero_is_unlabelled: bool = True,
) -> SegmentationFolder:
    """The pictures `root/images/<split>/*` with their maps `root/annotations/<split>/*.png`.

    Args:
      root: the unpacked ADEChallengeData2016, or a folder of the same layout.
      split: "training" or "validation" in ADE20K.
      canvas: side of the square that every picture is put in for `read`, pixels.
    Raises: DatasetNotFoundError naming the folder, or the picture without a label map.
    """
    root = Path(root).expanduser()
    images, annotations = root / "images" / split, root / "annotations" / split
    for folder in (images, annotations):
        if not folder.is_dir():
            raise DatasetNotFoundError(
                f"{folder} is not there; expected images/{split}/* and annotations/{split}/*.png, "
                "as ADEChallengeData2016.zip of the MIT scene parsing benchmark unpacks"
            )
    require(canvas >= 1, f"canvas must be positive, got {canvas}")
    require(2 <= num_classes <= IGNORED, f"num_classes must be in 2..{IGNORED}, got {num_classes}")
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES)
    pairs = tuple((file, annotations / f"{file.stem}.png") for file in files)
    if not pairs:
        raise DatasetNotFoundError(f"{images} holds no picture; {', '.join(SUFFIXES)} are read")
    missing = [label.name for _, label in pairs if not label.is_file()]
    if missing:
        raise DatasetNotFoundError(
            f"{annotations} lacks {len(missing)} label maps: {', '.join(missing[:5])}"
        )
    return SegmentationFolder(pairs, num_classes, canvas, zero_is_unlabelled)


def reduced_labels(labels: np.ndarray) -> np.ndarray:
    """ADE20K's raw labels uint8: 0 and 255 -> 255 (ignored), any other k -> class k - 1."""
    labels = np.asarray(labels)
    require(labels.dtype == np.uint8, f"raw labels must be uint8, got {labels.dtype}")
    # 0 - 1 wraps around to 255
    return np.where(labels == IGNORED, labels, labels - np.uint8(1))


def read_label_map(file: Path) -> np.ndarray:
    """A label map, uint8 [h, w]: the grey levels, or the indices of a palette.

    Raises: CorruptFileError naming the file.
    """
    image_module = require_extra("PIL.Image", extra="images")
    try:
        with image_module.open(io.BytesIO(_content(file))) as picture:
            picture.load()
            mode, labels = picture.mode, np.asarray(picture)
    except CorruptFileError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        raise CorruptFileError(
            f"{file} cannot be decoded: {error}; replace or remove the file"
        ) from error
    if mode not in ("L", "P") or labels.dtype != np.uint8:
        raise CorruptFileError(
            f"{file} is no label map: one byte a pixel is expected, its mode is {mode}"
        )
    return labels


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels [h, w] resized to `size` by nearest neighbour (floor(i * old / new), as OpenCV)."""
    rows, columns = (
        np.arange(new) * old // new for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[rows][:, columns]


def _scaled(size: tuple[int, int], canvas: int) -> tuple[int, int]:
    """The size that `decode` gives a picture larger than the canvas."""
    height, width = (max(1, round(side * canvas / max(size))) for side in size)
    return height, width


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CorruptFileError(f"{file} cannot be read: {error.strerror or error}") from error
