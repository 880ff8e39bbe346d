import dataclasses
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lab import data
from lab.data import catalogue
from lab.data.entries import ENTRIES, PublicFile
from lab.errors import (
    CorruptFileError,
    DataError,
    DatasetNotFoundError,
    DownloadError,
    InvalidInputError,
)
from tests.data.loopback import Loopback, serving

OF_THE_PAPERS = """
    cora citeseer pubmed coauthor_cs coauthor_physics ogbn-arxiv bail credit german nba dblp_small
    mnist fashion_mnist cifar10 groove clive coco_mini imagenet_sample kodak text nas_privacy
    nuscenes_sample karate_club generated_citations generated_digits
""".split()  # noqa: SIM905


def tiny_graph():
    """A graph of two papers in Planetoid's npz layout."""
    return {
        "x_data": np.ones(2, np.float32),
        "x_indices": np.array([0, 1]),
        "x_indptr": np.array([0, 1, 2]),
        "x_shape": np.array([2, 2]),
        "y": np.array([0, 1]),
        "edge_index": np.array([[1, 0], [0, 1]]),
        "train_mask": np.array([True, False]),
        "val_mask": np.array([False, False]),
        "test_mask": np.array([False, True]),
        "unlabeled": np.zeros(0, np.int32),
    }


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_data_set_of_the_papers_is_listed():
    assert set(OF_THE_PAPERS) <= set(data.names())


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_is_complete(name):
    entry = data.entry(name)
    assert entry.name == name
    assert entry.title
    assert entry.licence
    assert entry.layout
    assert entry.is_embedded or entry.command
    assert entry.loader is not None or entry.places
    for file in entry.files:
        assert file.url.startswith(("http://", "https://"))
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert not Path(file.path).is_absolute()


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.files])
def test_fetched_files_lie_where_the_data_set_is_looked_for(name, empty_machine):
    for file in data.entry(name).files:
        if file.unpack_into is None:
            put(catalogue.fetched_dir() / file.path)
    if all(file.unpack_into is None for file in data.entry(name).files):
        assert data.locate(name).is_relative_to(catalogue.fetched_dir())


def test_folders_are_searched_in_order(empty_machine, tmp_path, monkeypatch):
    fetched = put(catalogue.fetched_dir() / "mnist" / "train-images-idx3-ubyte.gz")
    assert data.locate("mnist") == fetched
    default = put(empty_machine / "tensorflow_datasets" / "mnist" / "3.0.1" / "dataset_info.json")
    assert data.locate("mnist") == default
    named = put(tmp_path / "named" / "mnist" / "3.0.1" / "dataset_info.json")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "named"))
    assert data.locate("mnist") == named
    lab = put(tmp_path / "lab" / "tfds" / "mnist" / "3.0.1" / "dataset_info.json")
    monkeypatch.setenv("LAB_DATA_DIR", str(tmp_path / "lab"))
    assert data.locate("mnist") == lab
    explicit = put(tmp_path / "explicit" / "MNIST" / "raw" / "train-images-idx3-ubyte")
    assert data.locate("mnist", tmp_path / "explicit") == explicit


def test_newest_version_of_a_prepared_set_is_taken(empty_machine, tmp_path):
    for version in ("3.0.0", "3.0.2"):
        newest = put(tmp_path / "cifar10" / version / "dataset_info.json")
    assert data.locate("cifar10", tmp_path) == newest


def test_falling_back_from_an_explicit_folder_warns(empty_machine, tmp_path, monkeypatch):
    found = put(tmp_path / "lab" / "planetoid" / "cora.npz")
    monkeypatch.setenv("LAB_DATA_DIR", str(tmp_path / "lab"))
    with pytest.warns(UserWarning, match=f"cora is not in {tmp_path / 'other'}, using {found}"):
        assert data.locate("cora", tmp_path / "other") == found


def test_explicit_path_may_be_the_file_itself(empty_machine, tmp_path):
    np.savez(tmp_path / "my_cora.npz", **tiny_graph())
    assert data.load("cora", tmp_path / "my_cora.npz").num_nodes == 2


def test_read_only_folder_is_enough_for_a_graph(empty_machine, tmp_path):
    np.savez(tmp_path / "cora.npz", **tiny_graph())
    tmp_path.chmod(0o555)
    try:
        assert data.load("cora", tmp_path).num_edges == 2
    finally:
        tmp_path.chmod(0o755)
    assert list(tmp_path.glob("*.npz")) == [tmp_path / "cora.npz"]


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.places])
def test_missing_set_says_what_where_and_how(name, empty_machine, tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        data.locate(name, tmp_path / "mine")
    message = str(caught.value)
    entry = data.entry(name)
    assert name in message
    assert entry.layout in message
    assert str(tmp_path / "mine") in message
    assert "LAB_DATA_DIR is not set" in message
    assert str(empty_machine / "cache" / "data") in message
    assert ("tensorflow_datasets" in message) == entry.in_tfds
    assert message.endswith(entry.command)


def test_unknown_name_suggests_a_known_one():
    with pytest.raises(InvalidInputError, match="no data set 'coraa'; did you mean cora"):
        data.load("coraa")
    with pytest.raises(InvalidInputError, match="known: karate_club, "):
        data.entry("zzzzzz")


def test_set_without_a_loader_gives_its_path_instead():
    with pytest.raises(DataError, match=r"lab\.data\.locate\('clive'\)"):
        data.load("clive")


def test_embedded_set_has_no_path_and_nothing_to_fetch():
    with pytest.raises(InvalidInputError, match="needs no file"):
        data.locate("karate_club")
    with pytest.raises(DataError, match="needs no file"):
        data.fetch_dataset("karate_club")


def test_set_that_is_not_public_says_how_to_get_it():
    with pytest.raises(DataError, match=r"no public file to fetch\. To get it: ask for"):
        data.fetch_dataset("clive")


def archive(kind: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def change_entry(monkeypatch):
    def change(name, **changes):
        monkeypatch.setitem(ENTRIES, name, dataclasses.replace(ENTRIES[name], **changes))

    return change


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("inner", ["groove/", ""])
def test_fetched_archive_is_unpacked(kind, inner, empty_machine, change_entry):
    content = archive(kind, {f"{inner}info.csv": b"table", f"{inner}drummer1/a.mid": b"midi"})
    seen = []
    with serving(content, Loopback.good) as server:
        file = PublicFile(server.url, f"groove.{kind}", unpack_into="groove")
        change_entry("groove", files=(file,))
        path = data.fetch_dataset("groove", lambda *report: seen.append(report))
        assert data.fetch_dataset("groove") == path
        assert len(server.ranges) == 1
    assert path == catalogue.fetched_dir() / "groove" / "info.csv"
    assert (path.parent / "drummer1" / "a.mid").read_bytes() == b"midi"
    assert [p.name for p in catalogue.fetched_dir().iterdir()] == ["groove"]
    assert seen == [(file, len(content), len(content))]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_damaged_archive_is_corrupt_and_leaves_no_folder(kind, tmp_path):
    content = archive(kind, {"a": np.random.default_rng(0).bytes(5000)})
    broken = content[:2000] + b"\xff" * 2000 + content[4000:]
    path = put(tmp_path / f"set.{kind}", broken)
    with pytest.raises(CorruptFileError, match="cannot be unpacked"):
        catalogue.unpack(path, tmp_path / "set")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archive_cannot_write_outside(kind, tmp_path):
    path = put(tmp_path / "inside" / f"set.{kind}", archive(kind, {"../../evil": b"x", "a": b"y"}))
    if kind == "zip":  # zipfile drops the dots and stays inside.
        catalogue.unpack(path, tmp_path / "inside" / "set")
    else:
        with pytest.raises(CorruptFileError, match="outside"):
            catalogue.unpack(path, tmp_path / "inside" / "set")
    assert not list(tmp_path.glob("evil"))
    assert not (tmp_path.parent / "evil").exists()


def test_fetched_files_that_are_not_the_set_are_corrupt(empty_machine, change_entry):
    with serving(archive("zip", {"other": b"x"}), Loopback.good) as server:
        change_entry("groove", files=(PublicFile(server.url, "g.zip", unpack_into="groove"),))
        with pytest.raises(CorruptFileError, match=r"do not hold groove/groove-v1\.0\.0"):
            data.fetch_dataset("groove")


def test_broken_transfer_leaves_the_set_missing(empty_machine, change_entry):
    with serving(b"x" * 900, Loopback.truncated) as server:
        change_entry("cora", files=(PublicFile(server.url, "planetoid/ind.cora.allx"),))
        with pytest.raises(DownloadError):
            data.fetch_dataset("cora", retries=0)
    with pytest.raises(DatasetNotFoundError):
        data.locate("cora")


def test_importing_the_room_is_light():
    program = (
        "import sys, lab.data; heavy = {'jax', 'jraph', 'tensorflow_datasets', 'scipy', 'PIL', "
        "'cv2', 'absl'}; print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0)
