"""Networks and partitions that users bring: csv, npz, json, networkx graphs. All are checked."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.npz import read_npz
from lab.errors import CorruptFileError, DatasetNotFoundError, InvalidInputError, require
from lab.papers.dacfl.mixing import check_mixing
from lab.papers.dacfl.partition import check_partition
from lab.papers.dacfl.topology import check_adjacency


def read_mixing(path: str | Path, num_users: int | None = None, **allowed: bool) -> np.ndarray:
    """A mixing matrix, or a sequence, float32 [S, N, N]: a csv of N rows, or an npz with key W.

    Args: allowed, `allow_negative` and `allow_disconnected` of `mixing.check_mixing`.
    Raises: DatasetNotFoundError, CorruptFileError, InvalidInputError.
    """
    path = Path(path)
    matrix = read_npz(path, ["W"])["W"] if path.suffix == ".npz" else _read_csv(path)
    return check_mixing(matrix, num_users, **allowed)


def read_adjacency(
    path: str | Path, num_users: int | None = None, *, allow_isolated: bool = False
) -> np.ndarray:
    """A graph, int32 [N, N].

    A csv of N rows of N numbers is an adjacency matrix; one of rows of two is an edge list of
    user numbers (N is num_users, or one more than the largest). An npz holds `adjacency` or
    `edges` [M, 2].

    Raises: DatasetNotFoundError, CorruptFileError, InvalidInputError.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = read_npz(path, [], ["adjacency", "edges"])
        if not arrays:
            raise CorruptFileError(f"{path} has neither key adjacency nor edges")
        is_list = "adjacency" not in arrays
        table = arrays["edges" if is_list else "adjacency"]
    else:
        table = _read_csv(path)
        is_list = table.shape[1] == 2 and len(table) != 2
        if table.shape == (2, 2):  # two users, or two edges
            is_list = not (np.isin(table, (0, 1)).all() and (table == table.T).all())
    adjacency = edges_to_adjacency(table, num_users) if is_list else table
    return check_adjacency(adjacency, allow_isolated=allow_isolated)


def edges_to_adjacency(edges: Any, num_users: int | None = None) -> np.ndarray:
    """The adjacency of undirected edges int [M, 2]; int32 [N, N]."""
    edges = np.asarray(edges)
    require(
        edges.ndim == 2 and edges.shape[1] == 2 and bool((edges == edges.astype(int)).all()),
        f"an edge list must be whole numbers [M, 2], got {edges.dtype} {edges.shape}",
    )
    edges = edges.astype(int)
    n = int(edges.max()) + 1 if num_users is None else num_users
    wrong = edges[(edges < 0).any(axis=1) | (edges >= n).any(axis=1)]
    require(len(wrong) == 0, f"edges {wrong[:3].tolist()} name users outside 0..{n - 1}")
    adjacency = np.zeros((n, n), np.int32)
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1
    return adjacency


def graph_to_adjacency(graph: Any, *, allow_isolated: bool = False) -> np.ndarray:
    """The adjacency of an undirected networkx graph, in the order of its nodes; int32 [N, N].

    Raises: InvalidInputError for a directed one, self loops or isolated nodes.
    """
    require(
        not graph.is_directed(),
        "the graph is directed. Directed graphs need push-sum, which is not implemented",
    )
    place = {node: number for number, node in enumerate(graph.nodes)}
    edges = [(place[a], place[b]) for a, b in graph.edges()]
    adjacency = np.zeros((len(place), len(place)), np.int32)
    for a, b in edges:
        adjacency[a, b] = adjacency[b, a] = 1
    return check_adjacency(adjacency, allow_isolated=allow_isolated)


def read_partition(path: str | Path, num_examples: int) -> list[np.ndarray]:
    """Each user's examples: a json list of index lists (or an object of them), or an npz.

    Users of an object or an npz come in the order of their keys, numbers by size.

    Raises: DatasetNotFoundError, CorruptFileError, InvalidInputError.
    """
    path = Path(path)
    if path.suffix == ".npz":
        parts: Any = _all_arrays(path)
    else:
        parts = _read_json(path)
    if isinstance(parts, dict):
        parts = [parts[key] for key in sorted(parts, key=_number_or_text)]
    if not isinstance(parts, list):
        raise CorruptFileError(f"{path} must hold a list of index lists, not {type(parts)}")
    return check_partition(parts, num_examples)


def _all_arrays(path: Path) -> dict[str, np.ndarray]:
    read_npz(path, [])  # the checks of a whole, harmless file
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path} is not there; expected json or npz") from error
    except ValueError as error:
        raise CorruptFileError(f"{path} is not json: {error}") from error


def _read_csv(path: Path) -> np.ndarray:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        values = np.array([[float(cell) for cell in row] for row in rows])
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path} is not there; expected csv or npz") from error
    except ValueError as error:
        raise CorruptFileError(f"{path} is no table of numbers with equal rows: {error}") from error
    if values.ndim != 2:
        raise InvalidInputError(f"{path} holds no table: shape {values.shape}")
    return values


def _number_or_text(key: str) -> tuple[int, int, str]:
    digits = "".join(c for c in key if c.isdigit())
    return (0, int(digits), key) if digits else (1, 0, key)
