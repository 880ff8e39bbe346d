"""Label propagation: with a size limit (BLPA), and without one (LPA).

Labels are int32 [n], the shard of every node of the training graph. Edges are int [2, m] of
positions (source, target), both directions.
"""

import collections
import dataclasses
from typing import Literal

import numpy as np

from lab.errors import require
from lab.papers.graph_unlearning.data import RandomGenerator

Ties = Literal["random", "first"]
Isolated = Literal["shard0", "stay"]
Variant = Literal["code", "paper"]


@dataclasses.dataclass(frozen=True, eq=False)
class BLPAResult:
    """A balanced label propagation.

    Attributes:
      labels: int32 [n], after the last round.
      deltas: int64 [rounds], nodes that changed shard in each round, counted once for the shard
        they left and once for the one they joined.
      history: labels after the rounds that were asked for, by the number of rounds.
    """

    labels: np.ndarray
    deltas: np.ndarray
    history: dict[int, np.ndarray]


def neighbour_counts(edge_index: np.ndarray, labels: np.ndarray, num_shards: int) -> np.ndarray:
    """How many neighbours each node has in each shard: int64 [n, num_shards]."""
    source, target = edge_index
    flat = target.astype(np.int64) * num_shards + labels[source]
    return np.bincount(flat, minlength=len(labels) * num_shards).reshape(-1, num_shards)


def balanced_label_propagation(
    edge_index: np.ndarray,
    initial_labels: np.ndarray,
    num_shards: int,
    size_limit: int,
    rng: RandomGenerator | None = None,
    *,
    max_iterations: int = 100,
    terminate_delta: int = 0,
    ties: Ties = "random",
    isolated: Isolated = "shard0",
    variant: Variant = "code",
    keep_rounds: tuple[int, ...] = (),
) -> BLPAResult:
    """BLPA: nodes move to the shard of most of their neighbours as long as it has room.

    It normally does not converge (labels fall into a two-cycle): the last round's labels are the
    result.

    Args:
      initial_labels: int [n]; no shard above size_limit.
      rng: draws the shard among tied ones; not needed with ties="first" (the smallest id).
      terminate_delta: stop after a round whose delta is not above it.
      isolated: nodes without a neighbour drift to shard 0 (official) or stay.
      variant: "code", the official procedure: each node's best shard at the start of the round,
        and waiting queues of full shards; "paper": a candidate for each (node, neighbouring
        shard), best first, dropped where the shard is full.
      keep_rounds: numbers of rounds after which to keep the labels in `history`.
    """
    require(ties == "first" or rng is not None, 'ties="random" needs rng')
    labels = np.asarray(initial_labels, np.int32).copy()
    deltas, history = [], {}
    for round_number in range(1, max_iterations + 1):
        counts = neighbour_counts(edge_index, labels, num_shards)
        if variant == "paper":
            moved = _move_candidates(labels, counts, size_limit)
        else:
            destinations, gains = _destinations(labels, counts, ties, isolated, rng)
            moved = _move_with_queues(labels, destinations, gains, num_shards, size_limit)
        deltas.append(2 * int((moved != labels).sum()))
        labels = moved
        if round_number in keep_rounds:
            history[round_number] = labels
        if deltas[-1] <= terminate_delta:
            break
    return BLPAResult(labels, np.asarray(deltas, np.int64), history)


def _destinations(labels, counts, ties, isolated, rng) -> tuple[np.ndarray, np.ndarray]:
    """Each node's best shard and how many neighbours it has there."""
    best = counts.max(axis=1)
    destinations = counts.argmax(axis=1)
    tied = (counts == best[:, None]) & (best[:, None] > 0)
    num_tied = tied.sum(axis=1)
    drawn = np.flatnonzero(num_tied > 1)
    if ties == "random" and drawn.size:
        # One draw a tied node in node order, as numpy.random.choice makes them one by one.
        draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
        picks = draw(0, num_tied[drawn])
        rank = np.cumsum(tied[drawn], axis=1) - 1
        destinations[drawn] = (tied[drawn] & (rank == picks[:, None])).argmax(axis=1)
    if isolated == "stay":
        destinations = np.where(best == 0, labels, destinations)
    return destinations, best


def _move_with_queues(labels, destinations, gains, num_shards, size_limit) -> np.ndarray:
    # The official order is a flipped unstable sort; this fixes what it leaves to the machine:
    # among equal gains the higher index comes first.
    order = np.argsort(gains, kind="stable")[::-1]
    order = order[destinations[order] != labels[order]]
    sizes = np.bincount(labels, minlength=num_shards).tolist()
    start, goal, moved = labels.tolist(), destinations.tolist(), labels.copy()
    queues = [collections.deque() for _ in range(num_shards)]
    for node in order.tolist():
        shard = goal[node]
        if sizes[shard] >= size_limit:
            queues[shard].append(node)
            continue
        sizes[shard] += 1
        moved[node] = shard
        freed = start[node]
        # A freed slot goes to the head of that shard's queue, which frees one where it was.
        while queues[freed]:
            waiting = queues[freed].popleft()
            moved[waiting] = freed
            freed = start[waiting]
        sizes[freed] -= 1
    return moved


def _move_candidates(labels, counts, size_limit) -> np.ndarray:
    nodes, shards = np.nonzero(counts)
    order = np.argsort(-counts[nodes, shards], kind="stable")
    sizes = np.bincount(labels, minlength=counts.shape[1]).tolist()
    start, moved, settled = labels.tolist(), labels.copy(), np.zeros(len(labels), bool).tolist()
    for node, shard in zip(nodes[order].tolist(), shards[order].tolist(), strict=True):
        if settled[node]:
            continue
        if shard == start[node]:
            settled[node] = True
        elif sizes[shard] < size_limit:
            settled[node] = True
            sizes[shard] += 1
            sizes[start[node]] -= 1
            moved[node] = shard
    return moved


def label_propagation(edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """LPA without a size limit, semi-synchronous: communities as the graph has them.

    Nodes of one colour of a greedy colouring move at the same time, to their neighbours' most
    frequent label; ties keep a node's own label, else take the largest. This always converges
    (Cordasco and Gargano, 2010). The number and the sizes of the communities follow from the graph,
    often with many singletons: for comparison, not for training.

    Returns: int32 [num_nodes], communities numbered by first appearance.
    """
    target = edge_index[1]
    labels = np.arange(num_nodes)
    colours = greedy_colouring(edge_index, num_nodes)
    by_colour = [edge_index[:, colours[target] == c] for c in range(colours.max(initial=-1) + 1)]
    while True:
        settled = _most_frequent(edge_index, labels)[target] == labels[target]
        if settled.all():
            break
        for edges in by_colour:
            labels = _most_frequent(edges, labels)
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[numbers]


def _most_frequent(edge_index, labels) -> np.ndarray:
    """Labels after every target of `edge_index` has looked at its sources."""
    source, target = edge_index
    if not len(source):
        return labels
    span = len(labels)
    pairs, counts = np.unique(target.astype(np.int64) * span + labels[source], return_counts=True)
    nodes, candidates = pairs // span, pairs % span
    # Later rows overwrite earlier ones: the last is the most frequent, own if tied, else largest.
    own = candidates == labels[nodes]
    order = np.lexsort((candidates, own, counts))
    updated = labels.copy()
    updated[nodes[order]] = candidates[order]
    return updated


def greedy_colouring(edge_index: np.ndarray, num_nodes: int) -> np.ndarray:
    """Colours such that no edge joins equal ones: int [num_nodes].

    Nodes by degree descending (stable) each take the smallest colour that no neighbour has.
    """
    source, target = edge_index
    order = np.argsort(target, kind="stable")
    neighbours = np.split(source[order], np.cumsum(np.bincount(target, minlength=num_nodes))[:-1])
    degrees = np.bincount(target, minlength=num_nodes)
    colours = np.full(num_nodes, -1)
    for node in np.argsort(-degrees, kind="stable"):
        taken = set(colours[neighbours[node]].tolist())
        colour = 0
        while colour in taken:
            colour += 1
        colours[node] = colour
    return colours
