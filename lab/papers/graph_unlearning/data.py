"""From a whole graph to the training graph: split, features, edge thinning (spec sections 1 to 4).

Randomness comes from the generator that is passed in. With a `numpy.random.RandomState` the draws
are those of the official code, which seeds numpy's global generator.
"""

import dataclasses
import math

import numpy as np
from scipy import sparse

from lab.data.graphs import as_node_ids, preview, sort_edges
from lab.errors import require

RandomGenerator = np.random.Generator | np.random.RandomState


def split_nodes(
    num_nodes: int, test_ratio: float = 0.2, seed: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Random split into (train, test) node ids; the public masks of the data sets are not used.

    The paper holds out a fifth (the official command line's default is a tenth). The order of the
    train ids is the node order of the training graph.

    Returns: int32 [num_nodes - k], int32 [k] with k = ceil(test_ratio * num_nodes).
    Raises: InvalidInputError for a ratio outside (0, 1) or one that leaves no train node.
    """
    require(0 < test_ratio < 1, f"test_ratio is {test_ratio}; accepted: between 0 and 1, exclusive")
    num_test = math.ceil(test_ratio * num_nodes)
    require(
        num_test < num_nodes, f"test_ratio {test_ratio} of {num_nodes} nodes leaves none to train"
    )
    order = np.random.RandomState(seed).permutation(num_nodes).astype(np.int32)
    return order[num_test:], order[:num_test]


def one_hot_degree(edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """Features that replace a graph's own: each node's degree, one-hot.

    The official code does this to the Coauthor graphs unless `is_use_node_feature` is set.
    Returns: float32 [num_nodes, max degree + 1].
    """
    degrees = np.bincount(edge_index[0], minlength=num_nodes)
    return np.eye(degrees.max(initial=0) + 1, dtype=np.float32)[degrees]


def thin_edges(edge_index: np.ndarray, ratio_deleted: float, rng: RandomGenerator) -> np.ndarray:
    """Deletes a share of the undirected edges at random; both directions go together.

    Args: edge_index int [2, M], both directions of every edge.
    Returns: int32 [2, M'], self loops gone; M' / 2 = int(U * (1 - ratio_deleted)) of U edges.
    """
    require(0 <= ratio_deleted <= 1, f"ratio_deleted is {ratio_deleted}; accepted: 0 to 1")
    source, target = np.asarray(edge_index, np.int64)
    forward = np.flatnonzero(source < target)
    # The official expression, and its rounding: 1 - 0.9 of 10 edges are 0, not 1.
    num_kept = int(len(forward) * (1 - ratio_deleted))
    kept = rng.choice(forward, num_kept, replace=False)
    span = max(source.max(initial=0), target.max(initial=0)) + 1
    low, high = np.minimum(source, target), np.maximum(source, target)
    kept_pairs = source[kept] * span + target[kept]
    positions = np.isin(low * span + high, kept_pairs)
    return np.asarray(edge_index)[:, positions].astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingGraph:
    """The graph that is partitioned: the train nodes and the edges between them.

    Attributes:
      node_ids: int32 [n], the node of each position, in training order.
      edge_index: int32 [2, m] of positions, both directions, sorted by target, then source.
      num_graph_nodes: N, the number of nodes of the whole graph.
    """

    node_ids: np.ndarray
    edge_index: np.ndarray
    num_graph_nodes: int

    @property
    def num_nodes(self) -> int:
        return len(self.node_ids)

    def num_isolated(self) -> int:
        """Number of train nodes without an edge to another one."""
        return self.num_nodes - len(np.unique(self.edge_index[1]))


def training_graph(
    edge_index: np.ndarray, train_ids: np.ndarray, num_nodes: int, *, prune: bool = False
) -> TrainingGraph:
    """The graph induced on the train nodes; nodes that lose all their edges stay.

    Args:
      edge_index: int [2, M] of the whole graph, both directions (`lab.data.graphs.clean_edges`).
      train_ids: int [n], distinct.
      num_nodes: of the whole graph.
      prune: keep only the largest connected component (the first, if several are). The official
        option of this name runs before there are edges, and prunes nothing useful.
    Raises: InvalidInputError for ids out of range or listed twice, and one-directional edges.
    """
    train_ids = as_node_ids(train_ids, num_nodes, "train_ids")
    ids, counts = np.unique(train_ids, return_counts=True)
    require((counts == 1).all(), f"train_ids lists {preview(ids[counts > 1])} more than once")
    require(
        np.max(edge_index, initial=-1) < num_nodes and np.min(edge_index, initial=0) >= 0,
        f"edge_index names nodes outside [0, {num_nodes})",
    )
    edges = position_of(train_ids, num_nodes)[edge_index]
    edges = sort_edges(edges[:, (edges >= 0).all(axis=0)])
    require(
        np.array_equal(edges, sort_edges(edges[::-1])),
        "edge_index holds edges without their reverse; lab.data.graphs.clean_edges adds it",
    )
    graph = TrainingGraph(train_ids, edges, num_nodes)
    return largest_component(graph) if prune else graph


def largest_component(graph: TrainingGraph) -> TrainingGraph:
    """The part of a training graph on its largest connected component, in the same order."""
    _, component = sparse.csgraph.connected_components(adjacency(graph), directed=False)
    kept = np.flatnonzero(component == np.bincount(component).argmax()).astype(np.int32)
    edges = position_of(kept, graph.num_nodes)[graph.edge_index]
    edges = edges[:, (edges >= 0).all(axis=0)]
    return TrainingGraph(graph.node_ids[kept], edges, graph.num_graph_nodes)


def adjacency(graph: TrainingGraph) -> sparse.csr_array:
    """The adjacency matrix [n, n] (row: target), ones."""
    source, target = graph.edge_index
    shape = (graph.num_nodes, graph.num_nodes)
    return sparse.csr_array((np.ones(len(source), np.int32), (target, source)), shape=shape)


def position_of(node_ids: np.ndarray, num_nodes: int) -> np.ndarray:
    """Inverse of a list of ids: int32 [num_nodes], the position in `node_ids`, -1 outside."""
    position = np.full(num_nodes, -1, np.int32)
    position[node_ids] = np.arange(len(node_ids), dtype=np.int32)
    return position
