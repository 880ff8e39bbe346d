"""What the model of a shard sees: its graph in training and in inference (spec section 6).

In training a shard is its train nodes and the edges between them. In inference the test nodes join,
with their edges to those train nodes and to each other. All shards are stacked into arrays of one
shape, so that one compiled call serves them all.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lab.data.graphs import bucket_size, sort_edges
from lab.errors import require
from lab.papers.graph_unlearning.data import position_of


@dataclasses.dataclass(frozen=True, eq=False)
class ShardData:
    """One graph cut out of the whole, k nodes.

    Attributes:
      node_ids: int32 [k], ascending ids in the whole graph.
      edge_index: int32 [2, e] of positions in node_ids, in the order of the whole graph's edges.
      train_mask: bool [k], the shard's train nodes.
      test_mask: bool [k], the other ones: nodes to be classified.
    """

    node_ids: np.ndarray
    edge_index: np.ndarray
    train_mask: np.ndarray
    test_mask: np.ndarray


def cut_out(edge_index: np.ndarray, train_ids: Any, other_ids: Any, num_nodes: int) -> ShardData:
    """The graph induced on the train nodes of a shard and other nodes (the test nodes, a query)."""
    node_ids = np.union1d(train_ids, other_ids).astype(np.int32)
    edges = position_of(node_ids, num_nodes)[edge_index]
    train_mask = np.isin(node_ids, train_ids)
    inside = (edges >= 0).all(axis=0)
    return ShardData(node_ids, edges[:, inside], train_mask, np.isin(node_ids, other_ids))


def shard_data(edge_index: np.ndarray, labels: np.ndarray, test_ids: Any, shard: int) -> ShardData:
    """One shard with all test nodes, as the official code builds it.

    Test nodes stand in ascending id in every shard, so that posteriors align row by row.

    Args: edge_index int [2, M] of the whole graph; labels int [N], the shard of every node, -1
      outside training.
    """
    return cut_out(edge_index, np.flatnonzero(labels == shard), test_ids, len(labels))


class PaddedShape(NamedTuple):
    """The shape that every graph of a stack is padded to: rows of nodes and of directed edges."""

    num_nodes: int
    num_edges: int


class GraphStack(struct.PyTreeNode):
    """G graphs of one padded shape; a pytree, numpy on the host.

    Padding edges point to row `num_nodes`, which no graph has (the convention of
    `lab.nn.graph.EdgeLinks`), and padding nodes have no edges.

    Attributes:
      node_ids: int32 [G, n], ids in the whole graph; padding holds N, the number of its nodes.
      train_mask, test_mask: bool [G, n], False on padding.
      senders, receivers: int32 [G, e], rows; sorted by receiver, padding last.
    """

    node_ids: jax.Array
    train_mask: jax.Array
    test_mask: jax.Array
    senders: jax.Array
    receivers: jax.Array

    @property
    def shape(self) -> PaddedShape:
        return PaddedShape(self.node_ids.shape[-1], self.senders.shape[-1])

    @property
    def edge_mask(self) -> jax.Array:
        """bool [G, e], False on padding."""
        return self.receivers < self.node_ids.shape[-1]

    def rows(self, values: jax.Array) -> jax.Array:
        """Features or labels of the nodes: [N, ...] -> [G, n, ...], zeros on padding.

        Inside a compiled call this gathers on the device from the one array that all shards share.
        """
        return jnp.take(values, self.node_ids, axis=0, mode="fill", fill_value=0)

    def select(self, graphs: Any) -> "GraphStack":
        """Some of the graphs, by index [k], or one of them, by a number."""
        return jax.tree.map(lambda leaf: leaf[graphs], self)


class ShardBatch(struct.PyTreeNode):
    """Every shard twice: `train`, its train nodes alone; `inference`, with the test nodes.

    Shard k is graph k of both.
    """

    train: GraphStack
    inference: GraphStack


def padded_shape(graphs: Sequence[ShardData]) -> PaddedShape:
    """The bucket (`lab.data.graphs.bucket_size`) that holds each of the graphs."""
    nodes = max(len(graph.node_ids) for graph in graphs)
    edges = max(graph.edge_index.shape[1] for graph in graphs)
    return PaddedShape(bucket_size(max(nodes, 1)), bucket_size(max(edges, 1)))


def stack_graphs(
    graphs: Sequence[ShardData], num_nodes: int, shape: PaddedShape | None = None
) -> GraphStack:
    """Pads graphs to one shape and stacks them.

    Args:
      num_nodes: N of the whole graph.
      shape: the shape to pad to, the smallest bucket by default; deletions only make graphs
        smaller, so the shape of the first stack fits ever after and nothing compiles again.
    Raises: InvalidInputError where a graph does not fit.
    """
    require(len(graphs) > 0, "there is no graph to stack")
    shape = shape or padded_shape(graphs)
    arrays: dict[str, Any] = {
        "node_ids": np.full((len(graphs), shape.num_nodes), num_nodes, np.int32),
        "train_mask": np.zeros((len(graphs), shape.num_nodes), bool),
        "test_mask": np.zeros((len(graphs), shape.num_nodes), bool),
        "senders": np.zeros((len(graphs), shape.num_edges), np.int32),
        "receivers": np.full((len(graphs), shape.num_edges), shape.num_nodes, np.int32),
    }
    stack = GraphStack(**arrays)
    for row, graph in enumerate(graphs):
        nodes, edges = len(graph.node_ids), graph.edge_index.shape[1]
        require(
            nodes <= shape.num_nodes and edges <= shape.num_edges,
            f"graph {row} of {nodes} nodes and {edges} edges does not fit into {shape}",
        )
        stack.node_ids[row, :nodes] = graph.node_ids
        stack.train_mask[row, :nodes] = graph.train_mask
        stack.test_mask[row, :nodes] = graph.test_mask
        sorted_edges = sort_edges(graph.edge_index)
        stack.senders[row, :edges], stack.receivers[row, :edges] = sorted_edges
    return stack


def stack_shards(
    edge_index: np.ndarray,
    labels: np.ndarray,
    test_ids: np.ndarray,
    shards: Sequence[int] | np.ndarray,
    *,
    use_test_neighbours: bool = True,
    train_shape: PaddedShape | None = None,
    inference_shape: PaddedShape | None = None,
) -> ShardBatch:
    """The training and inference graphs of some shards, padded to one shape each.

    Args:
      edge_index: int [2, M] of the whole graph, both directions.
      labels: int [N], the shard of every node, -1 outside training (`labels_by_node`).
      test_ids: int [t].
      shards: which shards, for example `range(num_shards)` or those to be retrained.
      use_test_neighbours: whether inference uses edges of test nodes, as the official code does.
      train_shape, inference_shape: see `stack_graphs`.
    """
    num_nodes, none = len(labels), np.zeros(0, np.int32)
    members = [np.flatnonzero(labels == shard) for shard in shards]
    train = [cut_out(edge_index, ids, none, num_nodes) for ids in members]
    if not use_test_neighbours:
        edge_index = edge_index[:, ~np.isin(edge_index, test_ids).any(axis=0)]
    inference = [cut_out(edge_index, ids, test_ids, num_nodes) for ids in members]
    return ShardBatch(
        train=stack_graphs(train, num_nodes, train_shape),
        inference=stack_graphs(inference, num_nodes, inference_shape),
    )


def stack_queries(
    edge_index: np.ndarray,
    labels: np.ndarray,
    query_ids: np.ndarray,
    num_shards: int,
    *,
    shape: PaddedShape | None = None,
) -> GraphStack:
    """For each query node i, the graphs of every shard's train nodes and i alone.

    The graphs that the official attack classifies a node on; its row is the test_mask. A query that
    is a train node of the shard itself counts as a query too.

    Returns: a stack of len(query_ids) * num_shards graphs, query-major.
    """
    members = [np.flatnonzero(labels == shard) for shard in range(num_shards)]
    graphs = [
        cut_out(edge_index, ids, [query], len(labels)) for query in query_ids for ids in members
    ]
    return stack_graphs(graphs, len(labels), shape)


def induced_graph(edge_index: np.ndarray, node_ids: np.ndarray, num_nodes: int) -> ShardData:
    """The graph induced on some nodes, all to be classified: LBAggr's optimisation graph."""
    return cut_out(edge_index, np.zeros(0, np.int32), node_ids, num_nodes)
