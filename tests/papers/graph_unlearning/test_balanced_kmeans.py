"""Balanced, plain and assigned k-means."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError, NonFiniteError
from lab.papers.graph_unlearning.balanced_kmeans import (
    assignment_kmeans,
    balanced_kmeans,
    kmeans,
    plus_plus_rows,
    squared_distances,
)


@st.composite
def problems(draw):
    """(embeddings with many equal distances, start rows, size limit)."""
    num_nodes, num_shards = draw(st.integers(3, 30)), draw(st.integers(1, 5))
    num_shards = min(num_shards, num_nodes)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    embeddings = rng.integers(0, 4, (num_nodes, 2)).astype(float)
    rows = rng.choice(num_nodes, num_shards, replace=False)
    slack = draw(st.integers(0, 3))
    return embeddings, rows, -(-num_nodes // num_shards) + slack


def slow_assignment(embeddings, centroids, limit):
    """Walks all (cluster, node) pairs in order of distance, cluster, node."""
    pairs = sorted(
        (((c - z) ** 2).sum(), k, i)
        for (k, c), (i, z) in itertools.product(enumerate(centroids), enumerate(embeddings))
    )
    members = [[] for _ in centroids]
    taken = set()
    for _, k, i in pairs:
        if i not in taken and len(members[k]) < limit:
            members[k].append(i)
            taken.add(i)
    return members


@settings(max_examples=100, deadline=None)
@given(problems())
def test_balanced_assignment_agrees_with_the_walk(problem):
    embeddings, rows, limit = problem
    result = balanced_kmeans(embeddings, rows, limit, max_iterations=1)
    members = slow_assignment(embeddings, embeddings[rows], limit)
    np.testing.assert_array_equal(result.order, np.concatenate(members))
    np.testing.assert_array_equal(np.bincount(result.labels, minlength=len(rows)),
                                  [len(m) for m in members])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(problems())
def test_balanced_clusters_cover_all_within_the_limit_and_stay_finite(problem):
    embeddings, rows, limit = problem
    result = balanced_kmeans(embeddings, rows, limit)
    assert result.labels.min() >= 0
    assert np.bincount(result.labels, minlength=len(rows)).max() <= limit
    assert np.isfinite(result.centroids).all()
    assert sorted(result.order) == list(range(len(embeddings)))


def test_cluster_without_nodes_keeps_its_centroid():
    # Both first centroids are the same point, so the first cluster takes everything.
    embeddings = np.array([[0.0], [0.0], [1.0]])
    result = balanced_kmeans(embeddings, np.array([0, 1]), 3, max_iterations=1)
    np.testing.assert_array_equal(result.labels, 0)
    np.testing.assert_allclose(result.centroids, [[1 / 3], [0.0]])


def test_fewer_distinct_embeddings_than_clusters_are_allowed():
    embeddings = np.ones((6, 2))
    result = balanced_kmeans(embeddings, np.array([0, 1, 2]), 2)
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1, 2, 2])
    assert len(plus_plus_rows(embeddings, 3, np.random.default_rng(0))) == 3


def test_too_small_a_limit_is_refused():
    with pytest.raises(InvalidInputError, match="hold less than 5"):
        balanced_kmeans(np.zeros((5, 1)), np.array([0, 1]), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("function", [kmeans, assignment_kmeans])
def test_embeddings_that_are_not_finite_are_refused(function, bad):
    embeddings = np.zeros((4, 2))
    embeddings[2, 1] = bad
    with pytest.raises(NonFiniteError, match="not finite"):
        function(embeddings, np.array([0, 1]))
    with pytest.raises(NonFiniteError, match="1 nodes"):
        balanced_kmeans(embeddings, np.array([0, 1]), 2)


def test_embeddings_of_wrong_shape_are_refused():
    with pytest.raises(InvalidInputError, match="embeddings have shape"):
        kmeans(np.zeros(4), np.array([0, 1]))


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_lloyd_ends_where_every_node_is_with_its_closest_mean(seed):
    embeddings = np.random.default_rng(seed).normal(size=(40, 3))
    rows = plus_plus_rows(embeddings, 4, np.random.default_rng(seed))
    result = kmeans(embeddings, rows)
    distances = squared_distances(embeddings, result.centroids)
    np.testing.assert_array_equal(result.labels, distances.argmin(axis=0))
    for k in range(4):
        np.testing.assert_allclose(
            result.centroids[k], embeddings[result.labels == k].mean(axis=0), atol=1e-6
        )
    assert result.cost <= squared_distances(embeddings, embeddings[rows]).min(axis=0).sum()


def test_plus_plus_starts_in_separate_clusters():
    blobs = np.concatenate([np.random.default_rng(0).normal(c, 0.01, (20, 2)) for c in range(5)])
    for seed in range(10):
        rows = plus_plus_rows(blobs, 5, np.random.RandomState(seed))
        assert set(rows // 20) == set(range(5))


def test_assignment_has_the_smallest_cost_of_all_balanced_ones():
    embeddings = np.random.default_rng(1).normal(size=(6, 2))
    rows = np.array([0, 1])
    costs = []
    for labels in itertools.product([0, 1], repeat=6):
        if sum(labels) == 3:
            differences = embeddings - embeddings[rows][list(labels)]
            costs.append((differences**2).sum())
    smallest = assignment_kmeans(embeddings, rows, max_iterations=1)
    largest = assignment_kmeans(embeddings, rows, max_iterations=1, objective="max")
    np.testing.assert_allclose([smallest.cost, largest.cost], [min(costs), max(costs)])


def test_assignment_of_many_nodes_is_refused():
    with pytest.raises(InvalidInputError, match="n\\^3"):
        assignment_kmeans(np.zeros((20, 1)), np.array([0, 1]), max_nodes=10)
