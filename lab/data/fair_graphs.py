"""Readers for graphs of people with a sensitive attribute: bail, credit, german, nba, dblp_small.

Two forms are read: one `.npz` a graph, and the public form, a csv table with a header beside a list
of edges. Features are raw columns. The sensitive attribute is also one of the features, except in
dblp_small; `drop_sensitive` takes it out.
"""

import csv
import dataclasses
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab.data.graphs import NodeDataset, clean_edges, from_arrays
from lab.data.npz import read_npz
from lab.errors import CorruptFileError, DatasetNotFoundError, require

Split = Literal["paper", "nifty"]


@dataclasses.dataclass(frozen=True)
class SplitRecipe:
    """Shuffle each class with Python's random module; cut it into train, val and test.

    Of a class of n nodes train gets the first int(cuts[0] * n), val those up to int(cuts[1] * n),
    test the rest. `labels_for_training` / 2 caps a class's train part; the others stay unused.
    """

    seed: int
    cuts: tuple[float, float]
    labels_for_training: int | None = None
    per_class: bool = True


@dataclasses.dataclass(frozen=True)
class FairTable:
    """Which columns of a public csv table mean what."""

    label: str
    sensitive: str
    edges_file: str
    splits: Mapping[str, SplitRecipe]
    left_out: tuple[str, ...] = ()
    minus_one_is_unknown: bool = False
    """Whether label -1 means unlabelled; elsewhere it is the class 0."""
    id_column: str | None = None


FAIR_TABLES = {
    "bail": FairTable(
        label="RECID",
        sensitive="WHITE",
        edges_file="bail_edges.txt",
        splits={
            "paper": SplitRecipe(20, (0.3, 0.5)),
            "nifty": SplitRecipe(20, (0.5, 0.75), 100),
        },
    ),
    "credit": FairTable(
        label="NoDefaultNextMonth",
        sensitive="Age",
        edges_file="credit_edges.txt",
        splits={
            "paper": SplitRecipe(20, (0.5, 0.75), 1000),
            "nifty": SplitRecipe(20, (0.5, 0.75), 6000),
        },
        left_out=("Single",),
    ),
    "german": FairTable(
        label="GoodCustomer",
        sensitive="Gender",
        edges_file="german_edges.txt",
        splits={
            "paper": SplitRecipe(0, (0.5, 0.75)),
            "nifty": SplitRecipe(20, (0.5, 0.75), 100),
        },
        left_out=("OtherLoansAtStore", "PurposeOfLoan"),
    ),
    "nba": FairTable(
        label="SALARY",
        sensitive="country",
        edges_file="nba_relationship.txt",
        splits={"paper": SplitRecipe(20, (0.5, 0.75), 100, per_class=False)},
        minus_one_is_unknown=True,
        id_column="user_id",
    ),
}
_WORDS = {"female": 1.0, "male": 0.0}


def read_fair_graph(
    path: Path,
    name: str,
    *,
    split: Split = "paper",
    mini: bool = False,
    drop_sensitive: bool = False,
) -> NodeDataset:
    """One of bail, credit, german, nba; labels 0/1 (nba also -1, unknown), sensitive 0/1.

    Args:
      path: the `.npz`, or the csv table with its list of edges beside it.
      split: "paper" (that of the RELIANT experiments) or "nifty" (few labels; not for nba).
      mini: the induced subgraph for quick runs (bail and credit, npz only).
      drop_sensitive: leave the sensitive column out of the features.
    """
    read = _read_npz if path.suffix == ".npz" else _read_csv
    dataset, mini_nodes = read(path, name, split)
    if mini:
        require(mini_nodes is not None, f"{path} has no mini_nodes; bail.npz and credit.npz have")
        dataset = dataset.subgraph(mini_nodes)
    return without_feature(dataset, FAIR_TABLES[name].sensitive) if drop_sensitive else dataset


def read_dblp_small(path: Path, name: str) -> NodeDataset:
    """DBLP co-authors with synthetic words as features, for trying the pipeline and its speed only.

    The real features are not published. Warns, so that no claim rests on them unawares.
    """
    arrays = read_npz(path, ("labels", "sens", "edges", "idx_train", "idx_val", "idx_test"))
    words_path = path.with_name(f"{path.stem}_synthetic_features.npz")
    words = read_npz(words_path, ("indptr", "indices", "shape"))
    features = np.zeros(tuple(words["shape"].tolist()), np.float32)
    rows = np.repeat(np.arange(len(features)), np.diff(words["indptr"]))
    features[rows, words["indices"]] = 1.0
    warnings.warn(f"{name}: its features are synthetic; they support no claim", stacklevel=2)
    return _both_directions(name, features, arrays, _masks(arrays, "", len(features)))


def without_feature(dataset: NodeDataset, column: str) -> NodeDataset:
    """The same data set without one named feature column."""
    require(
        column in dataset.feature_names,
        f"{dataset.name} has no feature {column!r}; it has {', '.join(dataset.feature_names)}",
    )
    index = dataset.feature_names.index(column)
    names = dataset.feature_names[:index] + dataset.feature_names[index + 1 :]
    features = np.delete(dataset.features, index, axis=1)
    return dataclasses.replace(dataset, features=features, feature_names=names)


def split_indices(labels: np.ndarray, recipe: SplitRecipe) -> tuple[np.ndarray, ...]:
    """(train, val, test) node ids of a split recipe, int64, in the recipe's order.

    Args: labels: int [N] of 0 and 1; -1 is unlabelled and in no part.
    """
    if recipe.per_class:
        groups: list[Any] = [np.flatnonzero(labels == label) for label in (0, 1)]
    else:
        groups = [np.flatnonzero(labels >= 0)]
    shuffler = random.Random(recipe.seed)
    limit = recipe.labels_for_training
    parts = ([], [], [])
    for group in groups:
        shuffler.shuffle(group)
        first, second = (int(cut * len(group)) for cut in recipe.cuts)
        num_train = first if limit is None else min(first, limit // len(groups))
        for part, chosen in zip(
            parts, (group[:num_train], group[first:second], group[second:]), strict=True
        ):
            part.append(chosen)
    return tuple(np.concatenate(part) for part in parts)


def _read_npz(path: Path, name: str, split: Split) -> tuple[NodeDataset, np.ndarray | None]:
    prefix = _split_prefix(name, split)
    splits = [f"{prefix}idx_{part}" for part in ("train", "val", "test")]
    arrays = read_npz(
        path, ("features", "feature_names", "labels", "sens", "edges", *splits), ("mini_nodes",)
    )
    masks = _masks(arrays, prefix, len(arrays["labels"]))
    names = tuple(arrays["feature_names"].tolist())
    dataset = _both_directions(name, arrays["features"], arrays, masks, names)
    return dataset, arrays.get("mini_nodes")


def _read_csv(path: Path, name: str, split: Split) -> tuple[NodeDataset, None]:
    _split_prefix(name, split)
    return read_fair_table(path, FAIR_TABLES[name], name=name, split=split), None


def read_fair_table(
    path: Path, table: FairTable, *, name: str = "table", split: str = "paper"
) -> NodeDataset:
    """A csv table with a header, of your own or a public one, with its edges if it has any.

    Args:
      table: which columns mean what; its `edges_file` lies beside the table, "" for no edges.
      split: a key of `table.splits`.
    """
    path = Path(path)
    require(split in table.splits, f"{name}: split is {split!r}; it has {', '.join(table.splits)}")
    columns = _read_columns(path)
    missing = {table.label, table.sensitive} - columns.keys()
    if missing:
        raise CorruptFileError(f"{path} has no column {', '.join(sorted(missing))}")
    labels = _numbers(columns[table.label], table.label, path)
    if not table.minus_one_is_unknown:
        labels = np.maximum(labels, 0)
    not_features = {table.label, table.id_column, *table.left_out}
    names = tuple(column for column in columns if column not in not_features)
    edges = np.zeros((2, 0), np.int64)
    if table.edges_file:
        ids = None if table.id_column is None else columns.get(table.id_column)
        edges = _read_edges(path.with_name(table.edges_file), ids)
    edges, report = clean_edges(edges, len(labels), one_directional="symmetrise", name=name)
    train, val, test = split_indices(labels, table.splits[split])
    arrays = {"idx_train": train, "idx_val": val, "idx_test": test}
    unlabeled = np.flatnonzero(labels < 0)
    dataset = from_arrays(
        name,
        np.stack([_numbers(columns[column], column, path) for column in names], axis=1),
        labels,
        edges,
        num_classes=2,
        sensitive=_numbers(columns[table.sensitive], table.sensitive, path),
        unlabeled=unlabeled if unlabeled.size else None,
        feature_names=names,
        **_masks(arrays, "", len(labels)),
    )
    return dataclasses.replace(dataset, edge_report=report)


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """A csv table with a header as text columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is no table of text: {error}") from error
    ragged = [index for index, row in enumerate(rows) if len(row) != len(header)]
    if ragged or not rows:
        where = f"row {ragged[0] + 2} has {len(rows[ragged[0]])} fields" if ragged else "no rows"
        raise CorruptFileError(f"{path} is not a whole table of {len(header)} columns: {where}")
    return dict(zip(header, np.array(rows).T, strict=True))


def _numbers(column: np.ndarray, title: str, path: Path) -> np.ndarray:
    try:
        return np.array([_WORDS.get(value.lower(), value) for value in column.tolist()], float)
    except ValueError as error:
        raise CorruptFileError(f"{path}: column {title} holds no numbers: {error}") from error


def _read_edges(path: Path, ids: np.ndarray | None) -> np.ndarray:
    """Edges [2, M] by position in the table; `ids` [N] are what the file calls the nodes."""
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not there; expected the edges, two ids a line")
    try:
        edges = np.loadtxt(path, ndmin=2).T
    except ValueError as error:
        raise CorruptFileError(f"{path} is not two columns of ids: {error}") from error
    if ids is None:
        return edges
    ids = ids.astype(np.float64)
    order = np.argsort(ids)
    position = np.clip(np.searchsorted(ids[order], edges), 0, len(ids) - 1)
    unknown = ids[order][position] != edges
    require(not unknown.any(), f"{path} names unknown ids {edges[unknown][:5].tolist()}")
    return order[position]


def _split_prefix(name: str, split: Split) -> str:
    accepted = FAIR_TABLES[name].splits
    require(split in accepted, f"{name}: split is {split!r}; accepted: {', '.join(accepted)}")
    return "" if split == "paper" else f"{split}_"


def _masks(arrays: dict, prefix: str, num_nodes: int) -> dict:
    masks = {}
    for part in ("train", "val", "test"):
        masks[f"{part}_mask"] = np.zeros(num_nodes, bool)
        masks[f"{part}_mask"][arrays[f"{prefix}idx_{part}"]] = True
    return masks


def _both_directions(name, features, arrays, masks, feature_names=()) -> NodeDataset:
    """The data set of arrays whose edges stand once each."""
    edges = arrays["edges"].astype(np.int64)
    unlabeled = np.flatnonzero(arrays["labels"] < 0)
    return from_arrays(
        name,
        features,
        arrays["labels"],
        np.concatenate([edges, edges[::-1]], axis=1),
        num_classes=2,
        sensitive=arrays["sens"],
        unlabeled=unlabeled if unlabeled.size else None,
        feature_names=feature_names,
        **masks,
    )
