"""Small image sets for classification as whole arrays: MNIST, Fashion-MNIST, CIFAR-10.

Read from a folder of tensorflow-datasets, from idx files, or from CIFAR's batches. Decoding the
first takes up to a minute, so a decoded copy is kept in the cache folder.

The order of the pictures is that of the files: tensorflow-datasets shuffles, the publishers' files
have the original order.
"""

import contextlib
import gzip
import hashlib
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.catalogue import cache_dir, locate
from lab.data.npz import read_npz, write_npz
from lab.data.pickles import read_pickle
from lab.errors import CorruptFileError, DataError, DatasetNotFoundError, require, require_extra

IMAGE_SETS = ("mnist", "fashion_mnist", "cifar10")
SPLITS = ("train", "test")
_RECORDS_AT_ONCE = 1000
_CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32


def load_images(
    name: str, split: str, data_dir: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One split of an image set, whole.

    Args:
      name: "mnist", "fashion_mnist" or "cifar10".
      split: "train" or "test".
      data_dir: folder to look in first; see `lab.data.catalogue`.
    Returns: (images uint8 [N, height, width, channels], labels int32 [N]).
    Raises: DatasetNotFoundError, CorruptFileError, MissingExtraError where the images of
      tensorflow-datasets have to be decoded and neither Pillow nor OpenCV is installed.
    """
    require(name in IMAGE_SETS, f"name is {name!r}; accepted: {', '.join(IMAGE_SETS)}")
    return decoded_images(name, split, locate(name, data_dir))


def decoded_images(name: str, split: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """As `load_images`, from the file that `locate` found."""
    require(split in SPLITS, f"{name}: split is {split!r}; accepted: {', '.join(SPLITS)}")
    if path.name == "dataset_info.json":
        return _cached(name, split, path.parent)
    if name == "cifar10":
        return _read_cifar(path.parent, split)
    return _read_mnist(path.parent, split)


def _cached(name: str, split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    copy = cache_dir() / "decoded" / f"{name}-{split}-{_fingerprint(folder)}.npz"
    with contextlib.suppress(DatasetNotFoundError, CorruptFileError):
        arrays = read_npz(copy, ("images", "labels"))
        return arrays["images"], arrays["labels"]
    images, labels = _decode_tfds(folder, split)
    try:
        write_npz(copy, images=images, labels=labels)
    except DataError as error:
        warnings.warn(f"{name} will be decoded again next time: {error}", stacklevel=3)
    return images, labels


def _fingerprint(folder: Path) -> str:
    """Changes when the files of a folder do."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.iterdir()):
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _decode_tfds(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    require_extra("array_record", extra="images")
    _require_image_decoder()
    with _quiet_absl():
        import tensorflow_datasets as tfds

        try:
            builder: Any = tfds.builder_from_directory(str(folder))
            source = builder.as_data_source(split=split)
            shape = (len(source), *builder.info.features["image"].shape)
            images, labels = np.empty(shape, np.uint8), np.empty(shape[0], np.int32)
            for start in range(0, len(source), _RECORDS_AT_ONCE):
                rows = range(start, min(start + _RECORDS_AT_ONCE, len(source)))
                for row, record in zip(rows, source.__getitems__(list(rows)), strict=True):
                    images[row], labels[row] = record["image"], record["label"]
        except Exception as error:  # tfds and array_record raise many kinds for damaged files.
            raise CorruptFileError(f"{folder} cannot be read, split {split}: {error}") from error
    return images, labels


def _require_image_decoder() -> None:
    with contextlib.suppress(ImportError):
        import cv2  # noqa: F401

        return
    require_extra("PIL", extra="images")


@contextlib.contextmanager
def _quiet_absl():
    """array_record logs an error about its group size for each file, which is harmless here."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _read_mnist(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = {"train": "train", "test": "t10k"}[split]
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise CorruptFileError(
            f"{folder}: {prefix} images of shape {images.shape} and labels of shape "
            f"{labels.shape} do not fit; expected [N, rows, columns] and [N]"
        )
    return images[..., None], labels.astype(np.int32)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file, plain or gzipped (`path` is the name without .gz).

    Raises: DatasetNotFoundError, CorruptFileError.
    """
    gzipped = path.with_name(path.name + ".gz")
    found = path if path.is_file() else gzipped
    if not found.is_file():
        raise DatasetNotFoundError(f"neither {path} nor {gzipped.name} is there")
    try:
        content = gzip.decompress(found.read_bytes()) if found == gzipped else found.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFileError(f"{found} is truncated or damaged: {error}") from error
    # Two zero bytes, the type (8: uint8), the number of dimensions, then each as big-endian int32.
    num_dims = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    start = 4 + 4 * num_dims
    if num_dims == 0 or len(content) < start:
        raise CorruptFileError(f"{found} is no idx file of bytes")
    shape = tuple(np.frombuffer(content[4:start], ">i4").tolist())
    if len(content) - start != int(np.prod(shape)):
        raise CorruptFileError(
            f"{found} holds {len(content) - start} bytes for an array of shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _read_cifar(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's binary or pickled batches in their original order."""
    is_binary = (folder / "data_batch_1.bin").exists()
    stems = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    read = _read_cifar_binary if is_binary else _read_cifar_pickle
    suffix = ".bin" if is_binary else ""
    batches = [read(folder / f"{stem}{suffix}") for stem in stems]
    planes = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches]).astype(np.int32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _read_cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not there")
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size == 0 or content.size % _CIFAR_RECORD_BYTES:
        raise CorruptFileError(
            f"{path} has {content.size} bytes, no whole number of records of {_CIFAR_RECORD_BYTES}"
        )
    records = content.reshape(-1, _CIFAR_RECORD_BYTES)
    return records[:, 1:], records[:, 0]


def _read_cifar_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(path)
    try:
        return np.asarray(batch["data"], np.uint8), np.asarray(batch["labels"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path} is no CIFAR batch with data and labels") from error
