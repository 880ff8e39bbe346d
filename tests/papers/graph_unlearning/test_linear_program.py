"""Balanced label propagation by linear program."""

import numpy as np
from hypothesis import given, settings

from lab.papers.graph_unlearning.label_propagation import neighbour_counts
from lab.papers.graph_unlearning.linear_program import (
    desired_moves,
    lp_label_propagation,
    plan_moves,
)
from lab.papers.graph_unlearning.partition import random_labels, size_limit
from tests.papers.graph_unlearning.graphs import graphs_and_shards, random_edges


@settings(max_examples=30, deadline=None)
@given(graphs_and_shards())
def test_sizes_stay_within_the_limit(graph):
    edges, num_nodes, num_shards, seed = graph
    limit = size_limit(num_nodes, num_shards, 0.05)
    start = random_labels(num_nodes, num_shards, np.random.default_rng(seed))
    result = lp_label_propagation(edges, start, num_shards, limit, max_iterations=5)
    assert np.bincount(result.labels, minlength=num_shards).max() <= limit
    assert result.labels.min() >= 0


def test_without_a_binding_limit_all_gains_are_taken():
    edges = random_edges(30, 60, 3)
    labels = random_labels(30, 3, np.random.default_rng(3))
    moves = desired_moves(edges, labels, 3)
    plan = plan_moves(moves, np.bincount(labels), size_limit=1000)
    np.testing.assert_allclose(plan.objective, moves[:, 3].sum(), atol=1e-6)


def test_full_shards_can_only_swap():
    # Three proposals one way, one the other: one pair swaps, with the largest gains.
    moves = np.array([[0, 0, 1, 3], [1, 0, 1, 2], [2, 0, 1, 1], [3, 1, 0, 1]])
    plan = plan_moves(moves, np.array([3, 3]), size_limit=3)
    np.testing.assert_allclose(plan.counts, [1, 1], atol=1e-6)
    np.testing.assert_allclose(plan.objective, 4, atol=1e-6)


def test_moves_lose_no_neighbours():
    edges = random_edges(30, 60, 5)
    labels = random_labels(30, 3, np.random.default_rng(5))
    counts = neighbour_counts(edges, labels, 3)
    moves = desired_moves(edges, labels, 3)
    node, source, destination, gain = moves.T
    np.testing.assert_array_equal(gain, counts[node, destination] - counts[node, source])
    assert gain.min() >= 0
    official = desired_moves(edges, labels, 3, official=True)
    assert (counts[official[:, 0], official[:, 1]] > 0).all()
    assert len(official) < len(moves)


def test_graph_without_edges_moves_nothing():
    start = np.array([0, 1, 0, 1])
    result = lp_label_propagation(np.zeros((2, 0), int), start, 2, 3)
    np.testing.assert_array_equal(result.labels, start)
