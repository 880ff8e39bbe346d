import gzip
import pickle
import struct
import sys

import numpy as np
import pytest

from lab import data
from lab.data import images
from lab.errors import (
    CorruptFileError,
    DatasetNotFoundError,
    InvalidInputError,
    MissingExtraError,
)

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_mnist(folder, prefix="train", compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", PICTURES), ("labels-idx1", LABELS)):
        content = idx(array)
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_read(tmp_path, compress):
    write_mnist(tmp_path / "MNIST" / "raw", compress=compress)
    found, labels = data.load_images("mnist", "train", tmp_path)
    assert (found.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(found, PICTURES[..., None])
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
@pytest.mark.parametrize("compress", [True, False])
def test_truncated_idx_file_is_corrupt(tmp_path, compress, share):
    write_mnist(tmp_path / "mnist", compress=compress)
    path = next((tmp_path / "mnist").glob("*images*"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptFileError, match="train-images-idx3-ubyte"):
        data.load_images("mnist", "train", tmp_path)


def test_other_file_in_the_place_of_idx_is_corrupt(tmp_path):
    (tmp_path / "a").write_bytes(b"<html>not found</html>")
    with pytest.raises(CorruptFileError, match="no idx file"):
        images.read_idx(tmp_path / "a")


def test_missing_split_is_named(tmp_path):
    write_mnist(tmp_path / "mnist")
    with pytest.raises(DatasetNotFoundError, match="t10k-images-idx3-ubyte"):
        data.load_images("mnist", "test", tmp_path)


def test_images_and_labels_of_unequal_number_are_corrupt(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:5])))
    with pytest.raises(CorruptFileError, match="do not fit"):
        data.load_images("mnist", "train", tmp_path)


def cifar_planes(batch):
    return np.random.default_rng(batch).integers(0, 256, (4, 3, 32, 32), np.uint8)


@pytest.mark.parametrize("form", ["bin", "py"])
def test_cifar_batches_are_read_in_order(tmp_path, form):
    folder = tmp_path / f"cifar-10-batches-{form}"
    folder.mkdir()
    for batch in range(1, 6):
        planes, labels = cifar_planes(batch).reshape(4, -1), np.full(4, batch, np.uint8)
        if form == "bin":
            content = np.concatenate([labels[:, None], planes], axis=1).tobytes()
        else:
            content = pickle.dumps({"data": planes, "labels": labels.tolist()}, protocol=2)
        (folder / f"data_batch_{batch}{'.bin' if form == 'bin' else ''}").write_bytes(content)
    found, labels = data.load_images("cifar10", "train", tmp_path)
    assert labels.tolist() == [label for label in range(1, 6) for _ in range(4)]
    expected = np.concatenate([cifar_planes(batch) for batch in range(1, 6)])
    np.testing.assert_array_equal(found, np.moveaxis(expected, 1, -1))


def test_truncated_cifar_batch_is_corrupt(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(b"0" * 3072)
    with pytest.raises(CorruptFileError, match="3072 bytes, no whole number of records of 3073"):
        data.load_images("cifar10", "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [("imagenet", "train", "accepted: mnist"), ("mnist", "valid", "accepted: train, test")],
)
def test_unknown_name_or_split_is_refused(name, split, message, tmp_path):
    write_mnist(tmp_path / "mnist")
    with pytest.raises(InvalidInputError, match=message):
        data.load_images(name, split, tmp_path)


# Shape of the test split and its class counts, from the sets' documentation.
FACTS = {
    "mnist": ((10000, 28, 28, 1), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    "fashion_mnist": ((10000, 28, 28, 1), [1000] * 10),
    "cifar10": ((10000, 32, 32, 3), [1000] * 10),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", FACTS)
def test_prepared_set_is_decoded_once(name, require_dataset, tmp_path, monkeypatch):
    require_dataset(name)
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    first, labels = data.load_images(name, "test")
    shape, counts = FACTS[name]
    assert (first.shape, first.dtype, labels.dtype) == (shape, np.uint8, np.int32)
    assert np.bincount(labels).tolist() == counts
    monkeypatch.setattr(images, "_decode_tfds", None)
    again, again_labels = data.load_images(name, "test")
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(again_labels, labels)


@pytest.mark.real_data
def test_mnist_train_split_has_the_published_order_and_mean(require_dataset):
    require_dataset("mnist")
    found, labels = data.load_images("mnist", "train")
    assert labels[:5].tolist() == [4, 1, 0, 7, 8]
    assert found.mean() / 255 == pytest.approx(0.1306605, abs=1e-6)


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar_train_split_has_the_published_means(require_dataset):
    require_dataset("cifar10")
    found, _ = data.load_images("cifar10", "train")
    means = found.reshape(-1, 3).mean(axis=0) / 255
    assert means == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-6)


@pytest.mark.real_data
def test_damaged_cache_is_decoded_again(require_dataset, tmp_path, monkeypatch):
    require_dataset("mnist")
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    first, _ = data.load_images("mnist", "test")
    (copy,) = (tmp_path / "decoded").iterdir()
    copy.write_bytes(copy.read_bytes()[:1000])
    again, _ = data.load_images("mnist", "test")
    np.testing.assert_array_equal(again, first)
    assert copy.stat().st_size > first.size


@pytest.mark.real_data
def test_cache_that_cannot_be_written_is_a_warning(require_dataset, tmp_path, monkeypatch):
    require_dataset("mnist")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="decoded again next time: cannot write"):
        found, _ = data.load_images("mnist", "test")
    assert found.shape == (10000, 28, 28, 1)


def prepared_folder(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    return tmp_path


def test_damaged_prepared_folder_is_corrupt(tmp_path, empty_machine):
    with pytest.raises(CorruptFileError, match=r"mnist/3\.0\.1 cannot be read, split test"):
        data.load_images("mnist", "test", prepared_folder(tmp_path))


def test_missing_decoder_names_the_extra(tmp_path, empty_machine, monkeypatch):
    for module in ("cv2", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tenfold\[images\]'"):
        data.load_images("mnist", "test", prepared_folder(tmp_path))
