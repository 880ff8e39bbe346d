"""Deletion requests: which shards they touch, and the graph without what was deleted (section 9).

Everything is a pure function of a `ShardedGraph`; a refused request raises and changes nothing.
A stream of requests is a fold: each one starts from the state that the last one returned.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from lab.data.graphs import as_node_ids, preview
from lab.errors import InvalidInputError, require
from lab.papers.graph_unlearning.data import RandomGenerator, TrainingGraph, training_graph
from lab.papers.graph_unlearning.partition import check_labels

Kind = Literal["nodes", "edges", "features"]

SAME_SHARD, CROSS_SHARD, TOUCHES_TEST = 0, 1, 2
REQUEST_KINDS = ("random", "top1", "adaptive", "last5")


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedGraph:
    """A graph, its partition and what was deleted from it so far.

    Attributes:
      edge_index: int32 [2, M], both directions; edges of removed nodes and removed edges are gone.
      labels: int32 [N], the shard of every node; -1 for test nodes and removed ones.
      train_ids: int32 [n], the nodes still in training, in training order.
      test_ids: int32 [t].
      num_shards: S.
      removed_nodes: int32 [r], in order of removal.
      featureless_nodes: int32 [f], train nodes whose features were deleted, in order of deletion.
    """

    edge_index: np.ndarray
    labels: np.ndarray
    train_ids: np.ndarray
    test_ids: np.ndarray
    num_shards: int
    removed_nodes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    featureless_nodes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def num_nodes(self) -> int:
        """N, removed nodes included: ids never change."""
        return len(self.labels)

    def shard_sizes(self) -> np.ndarray:
        """Number of train nodes of each shard: int64 [S]."""
        return np.bincount(self.labels[self.train_ids], minlength=self.num_shards)

    def members(self) -> list[np.ndarray]:
        """The train ids of each shard, in training order."""
        labels = self.labels[self.train_ids]
        return [self.train_ids[labels == shard] for shard in range(self.num_shards)]

    def training_graph(self) -> TrainingGraph:
        """The graph to partition again, without what was removed."""
        return training_graph(self.edge_index, self.train_ids, self.num_nodes)


def sharded_graph(
    edge_index: np.ndarray, labels: np.ndarray, train_ids: Any, test_ids: Any, num_shards: int
) -> ShardedGraph:
    """A checked `ShardedGraph` from which nothing was deleted yet.

    Args: labels int [N], the shard of every node, -1 outside training (`labels_by_node`).
    Raises: InvalidInputError for ids out of range or in both lists, a train node without a shard,
      an empty shard.
    """
    num_nodes = len(labels)
    train_ids = as_node_ids(train_ids, num_nodes, "train_ids")
    test_ids = as_node_ids(test_ids, num_nodes, "test_ids")
    both = np.intersect1d(train_ids, test_ids)
    require(both.size == 0, f"nodes {preview(both)} are in train_ids and in test_ids")
    check_labels(labels[train_ids], len(train_ids), num_shards)
    outside = np.setdiff1d(np.flatnonzero(labels >= 0), train_ids)
    require(outside.size == 0, f"nodes {preview(outside)} have a shard and are not in train_ids")
    return ShardedGraph(edge_index, labels.astype(np.int32), train_ids, test_ids, num_shards)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """One deletion request.

    Attributes: kind, "nodes", "edges" or "features"; items, node ids int [k] or, for edges, pairs
    int [2, k].
    """

    kind: Kind
    items: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Effect:
    """What a request does.

    Attributes:
      affected_shards: int64 [a], ascending: shards that hold what was deleted.
      retrained_shards: int64, those of them that still have train nodes.
      emptied_shards: int64, those that have none: to be dropped from aggregation.
      num_removed_edges: directed edges that disappear from the shards' graphs, test nodes included.
      edge_kinds: int64 [k], for an edge request SAME_SHARD, CROSS_SHARD (cut before, nothing to
        retrain) or TOUCHES_TEST (only the inference graph changes) per pair; else None.
    """

    affected_shards: np.ndarray
    retrained_shards: np.ndarray
    emptied_shards: np.ndarray
    num_removed_edges: int
    edge_kinds: np.ndarray | None = None


def apply(graph: ShardedGraph, request: Request) -> tuple[ShardedGraph, Effect]:
    """The graph after one request, and what has to be retrained.

    Raises: InvalidInputError that lists what cannot be deleted; nothing has changed then.
    """
    functions = {"nodes": delete_nodes, "edges": delete_edges, "features": delete_features}
    require(
        request.kind in functions,
        f"request kind is {request.kind!r}; accepted: {', '.join(functions)}",
    )
    return functions[request.kind](graph, request.items)


def apply_stream(
    graph: ShardedGraph, requests: Iterable[Request]
) -> tuple[ShardedGraph, list[Effect]]:
    """Requests one after the other, each on the graph that the last one left.

    To serve them as they come, retrain after each; the shards to train after all of them are the
    union of the effects' `retrained_shards`, less those emptied later.
    """
    effects = []
    for request in requests:
        graph, effect = apply(graph, request)
        effects.append(effect)
    return graph, effects


def delete_nodes(graph: ShardedGraph, nodes: Any) -> tuple[ShardedGraph, Effect]:
    """Removes train nodes with all their edges; a node listed twice is one request.

    Raises: InvalidInputError for ids that are unknown, removed before, or not in training.
    """
    nodes = check_nodes(graph, nodes)
    gone = np.zeros(graph.num_nodes, bool)
    gone[nodes] = True
    edges_gone = gone[graph.edge_index].any(axis=0)
    labels = np.where(gone, -1, graph.labels).astype(np.int32)
    after = dataclasses.replace(
        graph,
        edge_index=graph.edge_index[:, ~edges_gone],
        labels=labels,
        train_ids=graph.train_ids[~gone[graph.train_ids]],
        removed_nodes=np.concatenate([graph.removed_nodes, nodes]),
        featureless_nodes=graph.featureless_nodes[~gone[graph.featureless_nodes]],
    )
    lost = num_shard_edges(graph, graph.edge_index[:, edges_gone])
    return after, _effect(after, np.unique(graph.labels[nodes]), lost)


def delete_edges(graph: ShardedGraph, pairs: Any) -> tuple[ShardedGraph, Effect]:
    """Removes undirected edges; (u, v) and (v, u) are one request.

    Args: pairs int [2, k].
    Raises: InvalidInputError for pairs that are no edge of the graph (any more).
    """
    pairs = check_edges(graph, pairs)
    kinds = edge_kinds(graph, pairs)
    span = graph.num_nodes
    wanted = np.minimum(*pairs) * span + np.maximum(*pairs)
    existing = graph.edge_index.astype(np.int64)
    gone = np.isin(np.minimum(*existing) * span + np.maximum(*existing), wanted)
    after = dataclasses.replace(graph, edge_index=graph.edge_index[:, ~gone])
    affected = np.unique(graph.labels[pairs[0][kinds == SAME_SHARD]])
    lost = num_shard_edges(graph, graph.edge_index[:, gone])
    return after, _effect(after, affected, lost, kinds)


def delete_features(graph: ShardedGraph, nodes: Any) -> tuple[ShardedGraph, Effect]:
    """Removes the features of train nodes; the nodes, their labels and edges stay.

    Their shards retrain with zeros in place of the features (`without_features`).

    Raises: as `delete_nodes`, and for nodes whose features were removed before.
    """
    nodes = check_nodes(graph, nodes)
    again = np.intersect1d(nodes, graph.featureless_nodes)
    require(again.size == 0, f"the features of nodes {preview(again)} were removed before")
    after = dataclasses.replace(
        graph, featureless_nodes=np.concatenate([graph.featureless_nodes, nodes])
    )
    return after, _effect(after, np.unique(graph.labels[nodes]), 0)


def without_features(features: np.ndarray, graph: ShardedGraph) -> np.ndarray:
    """Features [N, F] with zeros for removed nodes and for nodes whose features were removed."""
    cleared = np.array(features)
    cleared[graph.removed_nodes] = 0
    cleared[graph.featureless_nodes] = 0
    return cleared


def check_nodes(graph: ShardedGraph, nodes: Any) -> np.ndarray:
    """Distinct train ids of a request, ascending: int32 [k].

    Raises: InvalidInputError for an empty request and ids that are unknown, removed before, or
      not in training.
    """
    nodes = np.unique(as_node_ids(np.atleast_1d(nodes), graph.num_nodes, "requested nodes"))
    require(nodes.size > 0, "the request names no node")
    reasons = {
        "were removed before": np.isin(nodes, graph.removed_nodes),
        "are test nodes": np.isin(nodes, graph.test_ids),
    }
    in_training = np.isin(nodes, graph.train_ids)
    reasons["are not in training"] = ~(in_training | np.logical_or.reduce(list(reasons.values())))
    found = [f"{preview(nodes[bad])} {reason}" for reason, bad in reasons.items() if bad.any()]
    require(not found, f"requested nodes {'; '.join(found)}; accepted: train nodes")
    return nodes


def check_edges(graph: ShardedGraph, pairs: Any) -> np.ndarray:
    """Distinct undirected edges of a request: int64 [2, k], in the order of the request.

    Raises: InvalidInputError for a wrong shape, unknown ids, and pairs that are no edge.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[0] != 2 or pairs.shape[1] == 0:
        raise InvalidInputError(
            f"pairs have shape {pairs.shape}; accepted: [2, k], one edge or more"
        )
    pairs = np.stack([as_node_ids(ends, graph.num_nodes, "edge ends") for ends in pairs])
    pairs = pairs.astype(np.int64)
    codes = np.minimum(*pairs) * graph.num_nodes + np.maximum(*pairs)
    _, first = np.unique(codes, return_index=True)
    first.sort()
    source, target = graph.edge_index.astype(np.int64)
    unknown = ~np.isin(codes[first], source * graph.num_nodes + target)
    missing = [tuple(pair) for pair in pairs[:, first[unknown]].T.tolist()]
    require(not missing, f"{len(missing)} requested pairs are no edges (any more): {missing[:5]}")
    return pairs[:, first]


def edge_kinds(graph: ShardedGraph, pairs: np.ndarray) -> np.ndarray:
    """SAME_SHARD, CROSS_SHARD or TOUCHES_TEST for each pair of nodes [2, k]: int64 [k].

    The rule follows from the paper's definition of a shard; the official code has no edge requests.
    """
    source, target = graph.labels[pairs]
    touches_test = np.isin(pairs, graph.test_ids).any(axis=0)
    return np.select([touches_test, source == target], [TOUCHES_TEST, SAME_SHARD], CROSS_SHARD)


def num_shard_edges(graph: ShardedGraph, edges: np.ndarray) -> int:
    """How often directed edges [2, k] occur in the shards' inference graphs, all shards together.

    An edge in one shard or between train and test occurs once, one between test nodes in every
    shard, one across shards nowhere.
    """
    labels, is_test = graph.labels[edges], np.isin(edges, graph.test_ids)
    in_shard = labels >= 0
    within = in_shard.all(axis=0) & (labels[0] == labels[1])
    with_test = (in_shard & is_test[::-1]).any(axis=0)
    return int((within | with_test).sum() + is_test.all(axis=0).sum() * graph.num_shards)


def _effect(after: ShardedGraph, affected, num_removed_edges: int, kinds=None) -> Effect:
    affected = affected.astype(np.int64)
    empty = after.shard_sizes()[affected] == 0
    return Effect(affected, affected[~empty], affected[empty], num_removed_edges, kinds)


def repartitioned(graph: ShardedGraph, labels: np.ndarray) -> ShardedGraph:
    """The graph under a new partition of what is left: every shard retrains.

    Removes the trace that deleted nodes left in the partition itself.

    Args: labels int [n], in training order, of `graph.training_graph()`.
    """
    check_labels(labels, len(graph.train_ids), graph.num_shards)
    by_node = np.full(graph.num_nodes, -1, np.int32)
    by_node[graph.train_ids] = labels
    return dataclasses.replace(graph, labels=by_node)


def draw_request(
    members: Sequence[np.ndarray], num: int, kind: str, rng: RandomGenerator
) -> np.ndarray:
    """Draws train nodes to be deleted, without replacement: int [num].

    Args:
      members: the train ids of each shard.
      kind: from which shards: "random", all; "top1", the largest; "adaptive", the S // 2 + 1
        largest; "last5", the S // 2 + 1 smallest.
    Raises: InvalidInputError for an unknown kind, or more nodes than these shards have.
    """
    require(kind in REQUEST_KINDS, f"kind is {kind!r}; accepted: {', '.join(REQUEST_KINDS)}")
    half = len(members) // 2 + 1
    ascending = sorted(members, key=len)
    descending = sorted(members, key=len, reverse=True)
    pool = {
        "random": members,
        "top1": descending[:1],
        "adaptive": descending[:half],
        "last5": ascending[:half],
    }[kind]
    ids = np.concatenate(pool)
    require(
        1 <= num <= len(ids), f"num is {num}; accepted: 1 to {len(ids)}, the nodes of these shards"
    )
    return rng.choice(ids, num, replace=False)
