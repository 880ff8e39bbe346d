"""k-means on node embeddings: balanced (BEKM), plain (Lloyd) and by optimal assignment.

Embeddings are float [n, d]; all distances are float64 and summed from differences, never expanded,
so that equal distances are equal to the last bit and ties fall by index.
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from lab.errors import NonFiniteError, require
from lab.papers.graph_unlearning.data import RandomGenerator


@dataclasses.dataclass(frozen=True, eq=False)
class KMeansResult:
    """A clustering.

    Attributes:
      labels: int32 [n].
      centroids: float64 [k, d], means of the members after the last round.
      deltas: float64 [rounds], sum of |new - old| over all entries of the centroids.
      first_labels: int32 [n], after one round.
      order: int32 [n], the members in order of assignment, cluster by cluster; None for Lloyd.
      cost: float64, total squared distance of the last assignment to the centroids it used.
    """

    labels: np.ndarray
    centroids: np.ndarray
    deltas: np.ndarray
    first_labels: np.ndarray
    order: np.ndarray | None
    cost: float


def squared_distances(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """float64 [k, n], |centroid - embedding|^2."""
    rows = [((centroid - embeddings) ** 2).sum(axis=1) for centroid in centroids]
    return np.stack(rows)


def check_embeddings(embeddings: Any, num_nodes: int | None = None) -> np.ndarray:
    """Embeddings as finite float64 [n, d].

    Raises: InvalidInputError for a wrong shape, NonFiniteError for NaN and infinity.
    """
    embeddings = np.asarray(embeddings, np.float64)
    fits = embeddings.ndim == 2 and num_nodes in (None, len(embeddings))
    require(fits, f"embeddings have shape {embeddings.shape}; accepted: [{num_nodes or 'n'}, d]")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    require(bad.size == 0, f"embeddings of {bad.size} nodes are not finite", NonFiniteError)
    return embeddings


def first_centroids(num_nodes: int, num_shards: int, rng: RandomGenerator) -> np.ndarray:
    """Distinct start rows: int [num_shards]."""
    return rng.choice(num_nodes, num_shards, replace=False)


def balanced_kmeans(
    embeddings: np.ndarray,
    start_rows: np.ndarray,
    size_limit: int,
    *,
    max_iterations: int = 20,
    terminate_delta: float = 0.0,
) -> KMeansResult:
    """BEKM: the closest (cluster, node) pairs are joined first, as long as the cluster has room.

    Pairs with equal distance go by cluster, then node. A cluster that gets no node keeps its
    centroid (the official code divides by zero).

    Args: start_rows int [k], the rows that are the first centroids.
    """
    embeddings = check_embeddings(embeddings)
    num_nodes, num_shards = len(embeddings), len(start_rows)
    require(
        size_limit * num_shards >= num_nodes,
        f"size_limit {size_limit} x {num_shards} shards hold less than {num_nodes} nodes",
    )
    _require_rounds(max_iterations)
    centroids = embeddings[start_rows]
    deltas, first_labels = [], None
    while True:
        distances = squared_distances(embeddings, centroids)
        labels, sequence = _assign_closest_first(distances, size_limit)
        first_labels = labels if first_labels is None else first_labels
        means = _means(embeddings, labels, centroids)
        deltas.append(np.abs(means - centroids).sum())
        centroids = means
        if deltas[-1] <= terminate_delta or len(deltas) == max_iterations:
            break
    order = sequence[np.argsort(labels[sequence], kind="stable")]
    cost = float(np.take_along_axis(distances, labels[None], axis=0).sum())
    return KMeansResult(labels, centroids, np.asarray(deltas), first_labels, order, cost)


def _require_rounds(max_iterations: int) -> None:
    require(max_iterations >= 1, f"max_iterations must be at least 1, got {max_iterations}")


def _assign_closest_first(distances, size_limit) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n], and the nodes in order of assignment.

    The same as walking all pairs in order of distance: until a cluster is full, every free node
    goes to its closest open cluster; then that cluster closes and its suitors look again.
    """
    num_clusters, num_nodes = distances.shape
    open_distances = distances.copy()
    labels = np.full(num_nodes, -1, np.int32)
    room = np.full(num_clusters, size_limit)
    free, sequence = np.arange(num_nodes, dtype=np.int32), []
    closest = open_distances.argmin(axis=0)
    while free.size:
        goal = closest[free]
        order = np.lexsort((free, goal, open_distances[goal, free]))
        suitors, goal = free[order], goal[order]
        rank = _rank_among_equal(goal)
        filling = np.flatnonzero(rank + 1 == room[goal])
        count = filling[0] + 1 if filling.size else len(suitors)
        labels[suitors[:count]] = goal[:count]
        sequence.append(suitors[:count])
        room -= np.bincount(goal[:count], minlength=num_clusters)
        free = np.sort(suitors[count:])
        if free.size:
            full = goal[count - 1]
            open_distances[full] = np.inf
            again = free[closest[free] == full]
            closest[again] = open_distances[:, again].argmin(axis=0)
    return labels, np.concatenate(sequence)


def _rank_among_equal(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each one."""
    order = np.argsort(values, kind="stable")
    sorted_values = values[order]
    starts = np.searchsorted(sorted_values, sorted_values)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - starts
    return rank


def _means(embeddings, labels, fallback) -> np.ndarray:
    """Mean of each cluster's members; an empty cluster keeps its row of `fallback`."""
    means = fallback.copy()
    for cluster in np.unique(labels):
        means[cluster] = embeddings[labels == cluster].mean(axis=0)
    return means


def plus_plus_rows(embeddings: np.ndarray, num_clusters: int, rng: RandomGenerator) -> np.ndarray:
    """k-means++ start rows: each next one drawn in proportion to the squared distance so far.

    Returns: int [num_clusters]; rows repeat only where there are fewer distinct embeddings.
    """
    embeddings = check_embeddings(embeddings)
    rows = [int(rng.choice(len(embeddings)))]
    closest = squared_distances(embeddings, embeddings[rows])[0]
    while len(rows) < num_clusters:
        total = closest.sum()
        weights = closest / total if total > 0 else None
        rows.append(int(rng.choice(len(embeddings), p=weights)))
        closest = np.minimum(closest, squared_distances(embeddings, embeddings[rows[-1:]])[0])
    return np.asarray(rows)


def kmeans(
    embeddings: np.ndarray,
    start_rows: np.ndarray,
    *,
    max_iterations: int = 300,
    tolerance: float = 1e-8,
) -> KMeansResult:
    """Plain Lloyd k-means from given rows; cluster sizes are whatever they become.

    Stops when no label changes, or when the centroids' squared shift is at most `tolerance` times
    the mean variance of the columns.
    """
    embeddings = check_embeddings(embeddings)
    _require_rounds(max_iterations)
    centroids, labels = embeddings[start_rows], None
    deltas, first_labels = [], None
    limit = tolerance * embeddings.var(axis=0).mean()
    for _ in range(max_iterations):
        new_labels = squared_distances(embeddings, centroids).argmin(axis=0).astype(np.int32)
        if labels is not None and np.array_equal(new_labels, labels):
            break
        labels = new_labels
        first_labels = labels if first_labels is None else first_labels
        means = _means(embeddings, labels, centroids)
        deltas.append(np.abs(means - centroids).sum())
        shift, centroids = ((means - centroids) ** 2).sum(), means
        if shift <= limit:
            break
    distances = squared_distances(embeddings, centroids)
    labels = distances.argmin(axis=0).astype(np.int32)
    first_labels = labels if first_labels is None else first_labels
    cost = float(distances.min(axis=0).sum())
    return KMeansResult(labels, centroids, np.asarray(deltas), first_labels, None, cost)


def assignment_kmeans(
    embeddings: np.ndarray,
    start_rows: np.ndarray,
    *,
    objective: Literal["min", "max"] = "min",
    max_iterations: int = 20,
    terminate_delta: float = 0.0,
    max_nodes: int = 2500,
) -> KMeansResult:
    """Balanced k-means by optimal assignment of nodes to slots; a baseline for partition time.

    Slot r belongs to cluster r mod k, so cluster sizes differ by at most one. O(n^3) a round.

    Args: objective, "min" or, as the official matcher does by mistake, "max" of the total squared
      distance; max_nodes, refuse larger inputs.
    """
    embeddings = check_embeddings(embeddings)
    num_nodes, num_shards = len(embeddings), len(start_rows)
    require(
        num_nodes <= max_nodes,
        f"assignment of {num_nodes} nodes takes time n^3; accepted: up to max_nodes={max_nodes}",
    )
    slots = np.arange(num_nodes) % num_shards
    _require_rounds(max_iterations)
    centroids, deltas, first_labels = embeddings[start_rows], [], None
    while True:
        distances = squared_distances(embeddings, centroids)
        rows, nodes = linear_sum_assignment(distances[slots], maximize=objective == "max")
        labels = np.empty(num_nodes, np.int32)
        labels[nodes] = slots[rows]
        first_labels = labels if first_labels is None else first_labels
        means = _means(embeddings, labels, centroids)
        deltas.append(np.abs(means - centroids).sum())
        centroids = means
        if deltas[-1] <= terminate_delta or len(deltas) == max_iterations:
            break
    order = np.lexsort((np.arange(num_nodes), labels)).astype(np.int32)
    cost = float(distances[labels, np.arange(num_nodes)].sum())
    return KMeansResult(labels, centroids, np.asarray(deltas), first_labels, order, cost)
