"""Cutting the training graph into shards: one door to all methods (spec section 5)."""

import dataclasses
import math
import typing
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

from lab.errors import require, require_extra
from lab.papers.graph_unlearning.balanced_kmeans import (
    assignment_kmeans,
    balanced_kmeans,
    check_embeddings,
    first_centroids,
    kmeans,
    plus_plus_rows,
)
from lab.papers.graph_unlearning.data import RandomGenerator, TrainingGraph, adjacency
from lab.papers.graph_unlearning.label_propagation import (
    Isolated,
    Ties,
    Variant,
    balanced_label_propagation,
    label_propagation,
)
from lab.papers.graph_unlearning.linear_program import lp_label_propagation


@dataclasses.dataclass(frozen=True)
class PartitionOptions:
    """What a partition method may be told; each method reads what concerns it.

    The default of every field is what the spec recommends: the official code without its faults.
    """

    shard_size_delta: float = 0.005
    """d of the size limit ceil(n/S + d (n - n/S)) of the balanced methods; 0 is the paper's."""
    size_limit: int | None = None
    """The size limit itself, in place of the formula."""
    max_iterations: int | None = None
    """Rounds at most; None: 100 for label propagation, 20 (balanced) or 300 for k-means."""
    terminate_delta: float = 0.0
    """Stop after a round that changes no more than this."""
    ties: Ties = "random"
    """BLPA: equally good shards are drawn from, or the first is taken."""
    isolated: Isolated = "shard0"
    """BLPA: nodes without neighbours drift to shard 0, as in the official code, or stay."""
    variant: Variant = "code"
    """BLPA: the official procedure with waiting queues, or the paper's candidate list."""
    assignment_objective: Literal["min", "max"] = "min"
    """bekm_base: smallest total distance; the official matcher takes the largest."""
    official_linear_program: bool = False
    """blpa_base: with the official code's faults."""
    start: Literal["random", "k-means++"] | None = None
    """First centroids; None: random rows for the balanced k-means, k-means++ for the plain one."""

    def __post_init__(self) -> None:
        for name, accepted in _CHOICES.items():
            value = getattr(self, name)
            require(value in accepted, f"{name} is {value!r}; accepted: {accepted}")


_CHOICES = {
    "ties": typing.get_args(Ties),
    "isolated": typing.get_args(Isolated),
    "variant": typing.get_args(Variant),
    "assignment_objective": ("min", "max"),
    "start": ("random", "k-means++", None),
}


METHODS = ("random", "blpa", "lpa", "bekm", "kmeans", "blpa_base", "bekm_base", "metis")
EMBEDDING_METHODS = ("bekm", "kmeans", "bekm_base")


def size_limit(num_nodes: int, num_shards: int, shard_size_delta: float = 0.005) -> int:
    """Largest shard that the balanced methods allow: ceil(n/S + d (n - n/S)).

    Raises: InvalidInputError for S outside 1..n and d below 0.
    """
    check_num_shards(num_nodes, num_shards)
    require(shard_size_delta >= 0, f"shard_size_delta is {shard_size_delta}; accepted: 0 and above")
    even = num_nodes / num_shards
    return math.ceil(even + shard_size_delta * (num_nodes - even))


def check_num_shards(num_nodes: int, num_shards: int) -> None:
    """Raises InvalidInputError unless 1 <= num_shards <= num_nodes."""
    require(
        1 <= num_shards <= num_nodes,
        f"num_shards is {num_shards} for {num_nodes} train nodes; accepted: 1 to {num_nodes}",
    )


def random_labels(num_nodes: int, num_shards: int, rng: RandomGenerator) -> np.ndarray:
    """Shards of equal size (the first n mod S one node larger) at random: int32 [num_nodes].

    The random (SISA) partition of positions, and the start of label propagation.
    """
    check_num_shards(num_nodes, num_shards)
    order = np.arange(num_nodes)
    rng.shuffle(order)
    labels = np.empty(num_nodes, np.int32)
    for shard, nodes in enumerate(np.array_split(order, num_shards)):
        labels[nodes] = shard
    return labels


def partition(
    graph: TrainingGraph,
    method: str,
    num_shards: int,
    rng: RandomGenerator,
    *,
    embeddings: np.ndarray | None = None,
    options: PartitionOptions | None = None,
) -> np.ndarray:
    """Cuts a training graph into shards.

    Args:
      method: one of METHODS: "random" (SISA), "blpa", "lpa" (no size limit: as many communities as
        the graph has), "bekm", "kmeans" (no size limit), the efficiency baselines "blpa_base"
        (linear program) and "bekm_base" (optimal assignment), "metis" (needs pymetis).
      num_shards: S; "lpa" ignores it.
      rng: every random draw; a `numpy.random.RandomState` draws as the official code does.
      embeddings: float [n, d] in training order, for "bekm", "kmeans" and "bekm_base". The official
        ones are the logits of a GraphSAGE trained on the whole training graph.
    Returns: int32 [n], the shard of each node in training order.
    Raises: InvalidInputError, NonFiniteError (embeddings), MissingExtraError (metis).
    """
    require(method in METHODS, f"method is {method!r}; accepted: {', '.join(METHODS)}")
    options = options or PartitionOptions()
    num_nodes = graph.num_nodes
    check_num_shards(num_nodes, num_shards)
    if method in EMBEDDING_METHODS:
        require(embeddings is not None, f"method {method!r} needs embeddings")
        embeddings = check_embeddings(embeddings, num_nodes)
        return _PARTITIONERS[method](embeddings, num_shards, rng, options)
    return _PARTITIONERS[method](graph, num_shards, rng, options)


def _limit(num_nodes: int, num_shards: int, options: PartitionOptions) -> int:
    limit = size_limit(num_nodes, num_shards, options.shard_size_delta)
    limit = limit if options.size_limit is None else options.size_limit
    require(
        limit * num_shards >= num_nodes,
        f"size_limit {limit} x {num_shards} shards hold less than {num_nodes} train nodes",
    )
    return limit


def _rounds(options: PartitionOptions, default: int) -> int:
    rounds = default if options.max_iterations is None else options.max_iterations
    require(rounds >= 1, f"max_iterations is {rounds}; accepted: 1 and above")
    return rounds


def _random(graph, num_shards, rng, options):
    return random_labels(graph.num_nodes, num_shards, rng)


def _blpa(graph, num_shards, rng, options):
    limit = _limit(graph.num_nodes, num_shards, options)
    start = random_labels(graph.num_nodes, num_shards, rng)
    _check_start_fits(start, limit)
    return balanced_label_propagation(
        graph.edge_index,
        start,
        num_shards,
        limit,
        rng,
        max_iterations=_rounds(options, 100),
        terminate_delta=options.terminate_delta,
        ties=options.ties,
        isolated=options.isolated,
        variant=options.variant,
    ).labels


def _blpa_base(graph, num_shards, rng, options):
    limit = _limit(graph.num_nodes, num_shards, options)
    start = random_labels(graph.num_nodes, num_shards, rng)
    _check_start_fits(start, limit)
    return lp_label_propagation(
        graph.edge_index,
        start,
        num_shards,
        limit,
        max_iterations=_rounds(options, 100),
        terminate_delta=options.terminate_delta,
        official=options.official_linear_program,
    ).labels


def _check_start_fits(labels: np.ndarray, limit: int) -> None:
    largest = np.bincount(labels).max()
    require(largest <= limit, f"size_limit is {limit}; equal shards already have {largest} nodes")


def _lpa(graph, num_shards, rng, options):
    return label_propagation(graph.edge_index, graph.num_nodes)


def _bekm(embeddings, num_shards, rng, options):
    rows = _start_rows(embeddings, num_shards, rng, options.start or "random")
    limit = _limit(len(embeddings), num_shards, options)
    return balanced_kmeans(
        embeddings,
        rows,
        limit,
        max_iterations=_rounds(options, 20),
        terminate_delta=options.terminate_delta,
    ).labels


def _bekm_base(embeddings, num_shards, rng, options):
    rows = _start_rows(embeddings, num_shards, rng, options.start or "random")
    return assignment_kmeans(
        embeddings,
        rows,
        objective=options.assignment_objective,
        max_iterations=_rounds(options, 20),
        terminate_delta=options.terminate_delta,
    ).labels


def _kmeans(embeddings, num_shards, rng, options):
    rows = _start_rows(embeddings, num_shards, rng, options.start or "k-means++")
    return kmeans(embeddings, rows, max_iterations=_rounds(options, 300)).labels


def _start_rows(embeddings, num_shards, rng, start):
    if start == "random":
        return first_centroids(len(embeddings), num_shards, rng)
    return plus_plus_rows(embeddings, num_shards, rng)


def _metis(graph, num_shards, rng, options):
    pymetis = require_extra("pymetis", extra="metis")
    matrix = adjacency(graph)
    _, labels = pymetis.part_graph(num_shards, xadj=matrix.indptr, adjncy=matrix.indices)
    return np.asarray(labels, np.int32)


_PARTITIONERS: dict[str, Callable] = {
    "random": _random,
    "blpa": _blpa,
    "blpa_base": _blpa_base,
    "lpa": _lpa,
    "bekm": _bekm,
    "bekm_base": _bekm_base,
    "kmeans": _kmeans,
    "metis": _metis,
}


def check_labels(labels: np.ndarray, num_nodes: int, num_shards: int) -> np.ndarray:
    """Labels as int32 [num_nodes] in [0, num_shards) with no shard empty.

    Raises: InvalidInputError for another length, labels out of range, empty shards.
    """
    labels = np.asarray(labels)
    require(
        labels.shape == (num_nodes,) and labels.dtype.kind in "iu",
        f"labels are {labels.dtype} of shape {labels.shape}; accepted: whole numbers [{num_nodes}]",
    )
    bad = labels[(labels < 0) | (labels >= num_shards)]
    require(
        bad.size == 0,
        f"labels hold {np.unique(bad)[:5].tolist()}; accepted: 0 to S-1, S={num_shards}",
    )
    empty = np.setdiff1d(np.arange(num_shards), labels)
    require(empty.size == 0, f"shards {empty[:5].tolist()} of {num_shards} are empty")
    return labels.astype(np.int32)


def labels_by_node(
    graph: TrainingGraph, labels: np.ndarray, *, official_index_bug: bool = False
) -> np.ndarray:
    """The shard of every node of the whole graph: int32 [N], -1 for nodes outside training.

    Args: official_index_bug, take positions in training order for node ids, as the released code
      does for BEKM and k-means. Shards are then close to random and hold test nodes with their
      labels: for the study of the released numbers only (warns).
    """
    result = np.full(graph.num_graph_nodes, -1, np.int32)
    if official_index_bug:
        warnings.warn(
            "official_index_bug puts test nodes and their labels into the shards; "
            "do not report the scores of these models as test scores",
            stacklevel=2,
        )
        result[: graph.num_nodes] = labels
    else:
        result[graph.node_ids] = labels
    return result


def intra_shard_edges(edge_index: np.ndarray, labels: np.ndarray) -> int:
    """Number of undirected edges that a partition keeps, both ends in one shard.

    Args: edge_index int [2, m], both directions, without self loops; labels int [n].
    """
    source, target = edge_index
    return int((labels[source] == labels[target]).sum()) // 2
