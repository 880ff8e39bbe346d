"""Graphs of people who resemble each other, as Recidivism, Credit and German were made."""

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist

from lab.data.graphs import clean_edges
from lab.errors import NonFiniteError, require

# Share of the best similarity that a neighbour must exceed.
THRESHOLDS = {"bail": 0.6, "credit": 0.7, "german": 0.8}


def similarity_edges(columns: np.ndarray, threshold: float, block_rows: int = 400) -> np.ndarray:
    """Directed edges i -> j where S_ij > threshold * (second largest of S_i), S = 1 / (1 + D).

    D is the Euclidean distance. The largest entry of a row is 1, of i with itself; a twin makes the
    second largest 1 as well.

    Args:
      columns: [N, F] raw columns, the sensitive one included, the label not; taken as float64.
      threshold: in (0, 1]; `THRESHOLDS` holds the published ones.
      block_rows: rows of distances held at a time; memory is block_rows * N * 8 bytes.
    Returns: int32 [2, M], sorted by source and then target.
    """
    columns = np.asarray(columns, np.float64)
    require(
        columns.ndim == 2 and len(columns) > 1,
        f"columns have shape {columns.shape}; accepted: [nodes, columns] with 2 nodes or more",
    )
    require(0 < threshold <= 1, f"threshold is {threshold}; accepted: above 0, at most 1")
    require(bool(np.isfinite(columns).all()), "columns hold NaN or infinity", NonFiniteError)
    sources, targets = [], []
    for start in range(0, len(columns), block_rows):
        block = columns[start : start + block_rows]
        similarity = 1 / (1 + cdist(block, columns))
        second = np.partition(similarity, -2, axis=1)[:, -2]
        row, column = np.nonzero(similarity > threshold * second[:, None])
        other = row + start != column
        sources.append(row[other] + start)
        targets.append(column[other])
    return np.stack([np.concatenate(sources), np.concatenate(targets)]).astype(np.int32)


def similarity_graph(columns: np.ndarray, threshold: float, block_rows: int = 400) -> np.ndarray:
    """The undirected graph of `similarity_edges`: int32 [2, M], both directions, no loops."""
    edges = similarity_edges(columns, threshold, block_rows)
    return clean_edges(edges, len(columns), one_directional="symmetrise", name="similarity")[0]


def official_row_weights(edge_index: np.ndarray, num_nodes: int) -> sparse.csr_array:
    """The released loader's row-normalised matrix [N, N], float32, which its models never read.

    It counts the identity twice: 2 / (deg + 1) on the diagonal and 1 / (deg + 1) elsewhere, deg
    holding one loop.
    """
    ones = np.ones(edge_index.shape[1])
    matrix = sparse.coo_array((ones, edge_index[::-1]), shape=(num_nodes, num_nodes)).tocsr()
    matrix = (matrix + 2 * sparse.eye_array(num_nodes)).tocsr()
    weights = sparse.diags_array(1 / matrix.sum(axis=1)) @ matrix
    return sparse.csr_array(weights, dtype=np.float32)
