import collections
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from lab import data
from lab.data.citations import PLANETOID_PARTS
from lab.data.graphs import EdgeReport
from lab.errors import CorruptFileError, DatasetNotFoundError, UnsafeFileError

# From the data set's documentation: nodes, directed edges, features, classes, isolated nodes, words
# (non-zero features), and the classes' counts.
PLANETOID_FACTS = {
    "cora": (2708, 10556, 1433, 7, 0, 49216, [351, 217, 418, 818, 426, 298, 180]),
    "citeseer": (3327, 9104, 3703, 6, 48, 105165, [264, 590, 668, 701, 596, 508]),
    "pubmed": (19717, 88648, 500, 3, 0, 988031, [4103, 7739, 7875]),
}


def dense_from_npz(arrays, prefix):
    parts = (arrays[f"{prefix}data"], arrays[f"{prefix}indices"], arrays[f"{prefix}indptr"])
    return scipy.sparse.csr_matrix(parts, shape=arrays[f"{prefix}shape"]).toarray()


@pytest.mark.real_data
@pytest.mark.parametrize("name", PLANETOID_FACTS)
def test_planetoid_set_has_the_published_counts(name, require_dataset):
    require_dataset(name)
    dataset = data.load(name)
    isolated = dataset.num_nodes - len(np.unique(dataset.edge_index))
    nodes, edges, features, classes, expected_isolated, words, counts = PLANETOID_FACTS[name]
    assert (dataset.num_nodes, dataset.num_edges, dataset.num_features) == (nodes, edges, features)
    assert (dataset.num_classes, isolated) == (classes, expected_isolated)
    assert np.count_nonzero(dataset.features) == words
    assert np.bincount(dataset.labels).tolist() == counts
    assert len(dataset.unlabeled) == (15 if name == "citeseer" else 0)
    assert int(dataset.train_mask.sum()) == 20 * classes
    assert (int(dataset.val_mask.sum()), int(dataset.test_mask.sum())) == (500, 1000)
    assert dataset.edge_report == EdgeReport()


def write_raw_planetoid(folder: Path, name: str, arrays: dict) -> None:
    """The raw files of a set, in the layout of the Planetoid repository, from its npz arrays.

    Rows are stored in the order of test.index, which is shuffled, as in the originals.
    """
    x, y = dense_from_npz(arrays, "x_"), arrays["y"]
    one_hot = np.eye(y.max() + 1, dtype=np.int32)[y]
    tests = np.flatnonzero(arrays["test_mask"])
    index = np.random.default_rng(0).permutation(tests)
    num_train, num_other = int(arrays["train_mask"].sum()), int(tests.min())
    graph = collections.defaultdict(list)
    for source, target in arrays["edge_index"].T.tolist():
        graph[source].append(target)
    sparse = scipy.sparse.csr_matrix
    parts = {
        "x": sparse(x[:num_train]),
        "tx": sparse(x[index]),
        "allx": sparse(x[:num_other]),
        "y": one_hot[:num_train],
        "ty": one_hot[index],
        "ally": one_hot[:num_other],
        "graph": graph,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for part, value in parts.items():
        (folder / f"ind.{name}.{part}").write_bytes(pickle.dumps(value, protocol=2))
    (folder / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in index))


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["cora", "citeseer"])
def test_raw_files_give_the_same_arrays_as_the_npz(name, require_dataset, tmp_path):
    with np.load(require_dataset(name)) as arrays:
        write_raw_planetoid(tmp_path / "planetoid", name, dict(arrays))
    expected, raw = data.load(name), data.load(name, tmp_path)
    for field in ("features", "labels", "edge_index", "train_mask", "val_mask", "test_mask"):
        np.testing.assert_array_equal(getattr(raw, field), getattr(expected, field), field)
    np.testing.assert_array_equal(raw.unlabeled, expected.unlabeled)
    assert raw.num_classes == expected.num_classes


@pytest.fixture
def small_planetoid():
    """Arrays of a graph of 8 papers in Planetoid's npz layout; paper 6 has no features or label."""
    x = scipy.sparse.csr_matrix(np.array([[1, 0, 1]] * 6 + [[0, 0, 0], [0, 1, 1]], np.float32))
    ring = np.arange(8)
    edges = np.concatenate([[ring, np.roll(ring, 1)], [np.roll(ring, 1), ring]], axis=1)
    masks = {"train_mask": [0, 1], "val_mask": [2, 3, 4], "test_mask": [5, 7]}
    return {
        "x_data": x.data,
        "x_indices": x.indices.astype(np.int16),
        "x_indptr": x.indptr,
        "x_shape": np.array(x.shape, np.int32),
        "y": np.array([0, 1, 2, 1, 0, 2, 0, 1], np.int8),
        "edge_index": edges.astype(np.int16),
        **{key: np.isin(ring, nodes) for key, nodes in masks.items()},
        "unlabeled": np.array([6], np.int32),
    }


def test_raw_files_with_gaps_in_the_test_index(small_planetoid, tmp_path):
    write_raw_planetoid(tmp_path, "cora", small_planetoid)
    dataset = data.load("cora", tmp_path)
    np.testing.assert_array_equal(dataset.features, dense_from_npz(small_planetoid, "x_"))
    assert dataset.unlabeled.tolist() == [6]
    assert dataset.labels.tolist() == small_planetoid["y"].tolist()
    assert np.flatnonzero(dataset.val_mask).tolist() == [2, 3, 4]
    assert np.flatnonzero(dataset.test_mask).tolist() == [5, 7]


def test_raw_folder_without_all_parts_names_the_missing(small_planetoid, tmp_path):
    write_raw_planetoid(tmp_path, "cora", small_planetoid)
    (tmp_path / "ind.cora.graph").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"has no ind\.cora\.graph"):
        data.load("cora", tmp_path)


def test_raw_file_that_runs_code_is_refused(small_planetoid, tmp_path):
    write_raw_planetoid(tmp_path, "cora", small_planetoid)
    (tmp_path / "ind.cora.ty").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(UnsafeFileError, match=r"ind\.cora\.ty: refused .* os\.system"):
        data.load("cora", tmp_path)


def test_raw_file_of_another_kind_is_corrupt(small_planetoid, tmp_path):
    write_raw_planetoid(tmp_path, "cora", small_planetoid)
    (tmp_path / "ind.cora.tx").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(CorruptFileError, match=r"ind\.cora\.\* do not fit"):
        data.load("cora", tmp_path)


def test_planetoid_npz_with_missing_key_lists_the_expected(small_planetoid, tmp_path):
    del small_planetoid["y"]
    np.savez(tmp_path / "cora.npz", **small_planetoid)
    with pytest.raises(CorruptFileError, match=r"no key y; expected .* x_data, .*unlabeled"):
        data.load("cora", tmp_path)


def test_planetoid_npz_with_damaged_matrix_is_corrupt(small_planetoid, tmp_path):
    small_planetoid["x_indices"][0] = 30
    np.savez(tmp_path / "cora.npz", **small_planetoid)
    with pytest.raises(CorruptFileError, match="sparse matrix is damaged"):
        data.load("cora", tmp_path)


def test_coauthor_edges_become_symmetric_without_loops(tmp_path):
    adjacency = scipy.sparse.csr_matrix(
        np.array([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    )
    words = scipy.sparse.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    arrays = {"labels": np.array([0, 2, 1, 0])}
    for prefix, matrix in (("adj", adjacency), ("attr", words)):
        arrays[f"{prefix}_data"], arrays[f"{prefix}_indices"] = matrix.data, matrix.indices
        arrays[f"{prefix}_indptr"], arrays[f"{prefix}_shape"] = matrix.indptr, matrix.shape
    (tmp_path / "coauthor").mkdir()
    np.savez(tmp_path / "coauthor" / "ms_academic_cs.npz", **arrays)
    dataset = data.load("coauthor_cs", tmp_path)
    assert set(map(tuple, dataset.edge_index.T.tolist())) == {(0, 1), (1, 0), (1, 3), (3, 1)}
    np.testing.assert_array_equal(dataset.features, words.toarray())
    assert dataset.num_classes == 3
    assert (dataset.edge_report.self_loops, dataset.edge_report.added_reverses) == (1, 1)


def write_ogbn(folder: Path) -> None:
    tables = {
        "raw/edge.csv": "0,1\n2,1\n3,0\n",
        "raw/node-feat.csv": "0.5,-1\n0,2\n1,1\n3,0.25\n",
        "raw/node-label.csv": "1\n0\nnan\n4\n",
        "split/time/train.csv": "0\n",
        "split/time/valid.csv": "1\n",
        "split/time/test.csv": "3\n",
    }
    for path, text in tables.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / f"{path}.gz", "wt") as file:
            file.write(text)


def test_ogbn_folder_is_read(tmp_path):
    write_ogbn(tmp_path / "ogbn_arxiv")
    dataset = data.load("ogbn-arxiv", tmp_path)
    assert set(map(tuple, dataset.edge_index.T.tolist())) == {
        (0, 1), (1, 0), (2, 1), (1, 2), (3, 0), (0, 3),
    }  # fmt: skip
    np.testing.assert_array_equal(dataset.features[3], np.array([3, 0.25], np.float32))
    assert dataset.labels.tolist() == [1, 0, -1, 4]
    assert dataset.unlabeled.tolist() == [2]
    assert dataset.num_classes == 5
    assert [np.flatnonzero(m).tolist() for m in (dataset.train_mask, dataset.test_mask)] == [
        [0],
        [3],
    ]


def test_ogbn_folder_with_missing_or_truncated_tables(tmp_path):
    write_ogbn(tmp_path / "ogbn_arxiv")
    features = tmp_path / "ogbn_arxiv" / "raw" / "node-feat.csv.gz"
    features.write_bytes(features.read_bytes()[:-12])
    with pytest.raises(CorruptFileError, match=r"node-feat\.csv\.gz is not a whole table"):
        data.load("ogbn-arxiv", tmp_path)
    features.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"has no raw/node-feat\.csv"):
        data.load("ogbn-arxiv", tmp_path)


def test_every_raw_part_is_fetched():
    files = [file.path for file in data.entry("cora").files]
    assert files == [f"planetoid/ind.cora.{part}" for part in PLANETOID_PARTS]
