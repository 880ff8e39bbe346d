"""Node data sets in the layouts people have: csv tables, COO folders, jraph graphs."""

from pathlib import Path
from typing import Any

import jraph
import numpy as np
from scipy import sparse

from lab.data.fair_graphs import FairTable, SplitRecipe, read_fair_table
from lab.data.graphs import NodeDataset, as_node_ids, clean_edges, from_arrays
from lab.data.npz import read_npz
from lab.errors import CorruptFileError, DatasetNotFoundError, require

COO_FILES = ("X.npz", "edgelist.txt", "labels.txt", "sens.txt")
SPLITS = ("train", "val", "test")


def from_table(
    path: str | Path,
    *,
    label: str,
    sensitive: str,
    edges_file: str = "",
    left_out: tuple[str, ...] = (),
    cuts: tuple[float, float] = (0.5, 0.75),
    seed: int = 20,
) -> NodeDataset:
    """A csv table with a header; all columns but the label and `left_out` are features.

    Args:
      label, sensitive: names of columns; the sensitive one stays among the features
        (`lab.data.fair_graphs.without_feature` takes it out).
      edges_file: a file beside the table, two node numbers a line; "" where there is none: make
        edges with `similarity_graph`.
      cuts, seed: of the split, class by class, into train, val and test.
    """
    recipe = {"paper": SplitRecipe(seed, cuts)}
    table = FairTable(label, sensitive, edges_file, recipe, left_out)
    return read_fair_table(Path(path), table, name=Path(path).stem)


def from_coo_folder(folder: str | Path) -> NodeDataset:
    """The released layout of DBLP.

    X.npz (COO: row, col, data, shape), edgelist.txt (two ids a line), labels.txt and sens.txt
    ("index value" a line), and split/{train,val,test}.npy of node ids, which may be stored as
    floats. Missing reverse edges are added.
    """
    folder = Path(folder)
    names = [*COO_FILES, *(f"split/{part}.npy" for part in SPLITS)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DatasetNotFoundError(f"{folder} lacks {', '.join(missing)}")
    arrays = read_npz(folder / "X.npz", ("row", "col", "data", "shape"))
    shape = tuple(int(n) for n in arrays["shape"])
    entries = (arrays["data"], (arrays["row"].astype(int), arrays["col"].astype(int)))
    features = sparse.coo_array(entries, shape=shape)
    edges = _table(folder / "edgelist.txt").T
    edges, _ = clean_edges(edges, shape[0], one_directional="symmetrise", name=folder.name)
    train, val, test = (_mask(folder / f"split/{part}.npy", shape[0]) for part in SPLITS)
    return from_arrays(
        folder.name,
        features,
        _values(folder / "labels.txt", shape[0]),
        edges,
        sensitive=_values(folder / "sens.txt", shape[0]),
        train_mask=train,
        val_mask=val,
        test_mask=test,
    )


def from_graphs_tuple(
    graph: jraph.GraphsTuple, labels: Any, sensitive: Any, masks: dict[str, Any]
) -> NodeDataset:
    """A jraph graph with its labels, groups and split.

    Args:
      graph: nodes float [N, F] (dense or scipy sparse); senders and receivers in both directions.
      labels, sensitive: int [N].
      masks: bool [N] under "train", "val" and "test".
    """
    require(set(masks) == set(SPLITS), f"masks are {sorted(masks)}; accepted: {', '.join(SPLITS)}")
    nodes: Any = graph.nodes
    features = nodes if sparse.issparse(nodes) else np.asarray(nodes)
    edges = np.stack([np.asarray(graph.senders), np.asarray(graph.receivers)])
    edges = clean_edges(edges, features.shape[0], name="graph")[0]
    return from_arrays(
        "graph",
        features,
        labels,
        edges,
        sensitive=sensitive,
        train_mask=np.asarray(masks["train"]),
        val_mask=np.asarray(masks["val"]),
        test_mask=np.asarray(masks["test"]),
    )


def _table(path: Path) -> np.ndarray:
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise CorruptFileError(f"{path} is not two columns of numbers: {error}") from error
    require(table.shape[1] == 2, f"{path} has {table.shape[1]} columns, not 2", CorruptFileError)
    return table


def _values(path: Path, num_nodes: int) -> np.ndarray:
    table = _table(path)
    nodes = as_node_ids(table[:, 0], num_nodes, str(path))
    require(
        len(np.unique(nodes)) == num_nodes == len(nodes),
        f"{path} has values of {len(np.unique(nodes))} of {num_nodes} nodes",
        CorruptFileError,
    )
    values = np.empty(num_nodes)
    values[nodes] = table[:, 1]
    return values


def _mask(path: Path, num_nodes: int) -> np.ndarray:
    try:
        ids = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise CorruptFileError(f"{path} is no array of node ids: {error}") from error
    mask = np.zeros(num_nodes, bool)
    mask[as_node_ids(ids, num_nodes, str(path))] = True
    return mask
