"""Readers for graphs of papers and their authors: Planetoid, Coauthor, ogbn-arxiv."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.graphs import NodeDataset, clean_edges, from_arrays
from lab.data.npz import read_npz
from lab.data.pickles import read_pickle
from lab.errors import CorruptFileError, DatasetNotFoundError

PLANETOID_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
OGB_PARTS = {
    "edges": "raw/edge.csv",
    "features": "raw/node-feat.csv",
    "labels": "raw/node-label.csv",
    "train_mask": "split/time/train.csv",
    "val_mask": "split/time/valid.csv",
    "test_mask": "split/time/test.csv",
}


def read_planetoid(path: Path, name: str) -> NodeDataset:
    """Cora, Citeseer or Pubmed from one `.npz` or from the folder of raw `ind.<name>.*` files.

    `path` is the npz, or any one of the raw files. Both give the same arrays: PyTorch Geometric's
    reading, features as stored, the public split, nodes without features and label in `unlabeled`.
    """
    if path.suffix == ".npz":
        return _read_planetoid_npz(path, name)
    return _read_planetoid_raw(path.parent, name)


def _read_planetoid_npz(path: Path, name: str) -> NodeDataset:
    masks = ("train_mask", "val_mask", "test_mask")
    sparse = ("x_data", "x_indices", "x_indptr", "x_shape")
    arrays = read_npz(path, (*sparse, "y", "edge_index", *masks, "unlabeled"))
    return from_arrays(
        name,
        _dense([arrays[key] for key in sparse], path),
        arrays["y"],
        arrays["edge_index"],
        train_mask=arrays["train_mask"],
        val_mask=arrays["val_mask"],
        test_mask=arrays["test_mask"],
        unlabeled=arrays["unlabeled"],
    )


def _read_planetoid_raw(folder: Path, name: str) -> NodeDataset:
    parts = {part: folder / f"ind.{name}.{part}" for part in PLANETOID_PARTS}
    _require_files(parts.values(), folder)
    index = np.loadtxt(parts["test.index"], dtype=np.int64, ndmin=1)
    read = {part: read_pickle(path) for part, path in parts.items() if part != "test.index"}
    try:
        return _assemble_planetoid(name, read, index)
    except (AttributeError, IndexError, TypeError) as error:
        raise CorruptFileError(f"{folder}/ind.{name}.* do not fit each other: {error}") from error


def _assemble_planetoid(name: str, read: dict, test_index: np.ndarray) -> NodeDataset:
    """Puts the parts together: test rows stand in the order of test_index, after all others.

    Citeseer's test indices have gaps: papers without features and label, whose rows stay zero.
    """
    num_other, num_features = read["allx"].shape
    num_nodes = max(int(test_index.max()) + 1, num_other)
    features = np.zeros((num_nodes, num_features), np.float32)
    features[:num_other] = read["allx"].toarray()
    features[test_index] = read["tx"].toarray()
    labels = np.zeros(num_nodes, np.int32)
    labels[:num_other] = read["ally"].argmax(axis=1)
    labels[test_index] = read["ty"].argmax(axis=1)
    num_train = read["x"].shape[0]
    nodes = np.arange(num_nodes)
    test_mask = np.isin(nodes, test_index)
    pairs = [(source, target) for source, targets in read["graph"].items() for target in targets]
    edges, report = clean_edges(
        np.array(pairs).reshape(-1, 2).T, num_nodes, one_directional="symmetrise", name=name
    )
    dataset = from_arrays(
        name,
        features,
        labels,
        edges,
        num_classes=read["ally"].shape[1],
        train_mask=nodes < num_train,
        val_mask=(nodes >= num_train) & (nodes < min(num_train + 500, num_other)),
        test_mask=test_mask,
        unlabeled=nodes[(nodes >= num_other) & ~test_mask],
    )
    return dataclasses.replace(dataset, edge_report=report)


def read_coauthor(path: Path, name: str) -> NodeDataset:
    """Coauthor CS or Physics from the `.npz` of the gnn-benchmark repository (CSR parts).

    Edges are made symmetric and self loops dropped, as the set is used everywhere; there is no
    published split. Features are word counts, not normalised.
    """
    adjacency = [f"adj_{part}" for part in ("data", "indices", "indptr", "shape")]
    attributes = [f"attr_{part}" for part in ("data", "indices", "indptr", "shape")]
    arrays = read_npz(path, (*adjacency, *attributes, "labels"))
    matrix = _sparse([arrays[key] for key in adjacency], path).tocoo()
    present = matrix.data != 0
    edges, report = clean_edges(
        np.stack([matrix.row[present], matrix.col[present]]),
        matrix.shape[0],
        one_directional="symmetrise",
        name=name,
    )
    features = _dense([arrays[key] for key in attributes], path)
    dataset = from_arrays(name, features, arrays["labels"], edges)
    return dataclasses.replace(dataset, edge_report=report)


def read_ogbn(path: Path, name: str) -> NodeDataset:
    """ogbn-arxiv from OGB's folder of csv files, plain or gzipped.

    `path` is the `raw/edge.csv[.gz]` in it. Citations are made symmetric; the split is OGB's, by
    time; unlabelled nodes (none in arxiv) are those whose label is missing.
    """
    folder = path.parent.parent
    parts = {key: _plain_or_gzipped(folder / part) for key, part in OGB_PARTS.items()}
    _require_files(parts.values(), folder)
    features = _read_csv(parts["features"], np.float32)
    labels = _read_csv(parts["labels"], np.float32)[:, 0]
    missing = np.isnan(labels)
    num_nodes = len(features)
    edges, report = clean_edges(
        _read_csv(parts["edges"], np.int64).T, num_nodes, one_directional="symmetrise", name=name
    )
    masks = {key: np.zeros(num_nodes, bool) for key in ("train_mask", "val_mask", "test_mask")}
    for key, mask in masks.items():
        mask[_read_csv(parts[key], np.int64)[:, 0]] = True
    dataset = from_arrays(
        name,
        features,
        np.where(missing, -1, labels),
        edges,
        train_mask=masks["train_mask"],
        val_mask=masks["val_mask"],
        test_mask=masks["test_mask"],
        unlabeled=np.flatnonzero(missing) if missing.any() else None,
    )
    return dataclasses.replace(dataset, edge_report=report)


def _plain_or_gzipped(path: Path) -> Path:
    gzipped = path.with_name(path.name + ".gz")
    return path if path.exists() else gzipped


def _read_csv(path: Path, dtype) -> np.ndarray:
    try:
        return np.loadtxt(path, dtype=dtype, delimiter=",", ndmin=2)
    except (ValueError, OSError, EOFError) as error:
        raise CorruptFileError(f"{path} is not a whole table of numbers: {error}") from error


def _require_files(paths, folder: Path) -> None:
    missing = [str(path.relative_to(folder)) for path in paths if not path.is_file()]
    if missing:
        raise DatasetNotFoundError(f"{folder} has no {', '.join(missing)}")


def _sparse(parts: Sequence[np.ndarray], path: Path) -> Any:
    """The checked matrix of its data, indices, indptr and shape."""
    import scipy.sparse

    data, indices, indptr, shape = parts
    try:
        # Some writers store the column indices as int16; scipy wants a wider type.
        arrays = (data, indices.astype(np.int32), indptr.astype(np.int32))
        matrix = scipy.sparse.csr_matrix(arrays, shape=tuple(shape.tolist()))
        matrix.check_format(full_check=True)
        return matrix
    except (ValueError, TypeError) as error:
        raise CorruptFileError(f"{path}: its sparse matrix is damaged: {error}") from error


def _dense(parts: Sequence[np.ndarray], path: Path) -> np.ndarray:
    return _sparse(parts, path).astype(np.float32).toarray()
