"""Label propagation against slow versions written from the description."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.graph_unlearning.label_propagation import (
    balanced_label_propagation,
    greedy_colouring,
    label_propagation,
    neighbour_counts,
)
from lab.papers.graph_unlearning.partition import random_labels, size_limit
from tests.papers.graph_unlearning.graphs import graphs_and_shards, random_edges


def slow_round(edges, labels, num_shards, limit, rng):
    """One official BLPA round, node by node, with sets for shards and lists for queues."""
    neighbours = {i: edges[0][edges[1] == i] for i in range(len(labels))}
    goals, gains = [], []
    for i in range(len(labels)):
        counts = [int((labels[neighbours[i]] == k).sum()) for k in range(num_shards)]
        tied = [k for k in range(num_shards) if counts[k] == max(counts)]
        if max(counts) == 0:
            tied = [0]
        goals.append(int(rng.choice(tied)) if rng is not None and len(tied) > 1 else tied[0])
        gains.append(max(counts))
    shards = [set(np.flatnonzero(labels == k).tolist()) for k in range(num_shards)]
    queues = [[] for _ in range(num_shards)]
    for i in sorted(range(len(labels)), key=lambda i: gains[i])[::-1]:
        if goals[i] == labels[i]:
            continue
        if len(shards[goals[i]]) >= limit:
            queues[goals[i]].append(i)
            continue
        shards[labels[i]].remove(i)
        shards[goals[i]].add(i)
        freed = labels[i]
        while queues[freed]:
            waiting = queues[freed].pop(0)
            shards[labels[waiting]].remove(waiting)
            shards[freed].add(waiting)
            freed = labels[waiting]
    moved = labels.copy()
    for k, members in enumerate(shards):
        moved[list(members)] = k
    return moved


@settings(max_examples=60, deadline=None)
@given(graphs_and_shards(), st.floats(0, 0.3), st.sampled_from(["first", "random"]))
def test_blpa_agrees_with_the_slow_version(graph, delta, ties):
    edges, num_nodes, num_shards, seed = graph
    limit = size_limit(num_nodes, num_shards, delta)
    labels = random_labels(num_nodes, num_shards, np.random.RandomState(seed))
    rngs = [np.random.RandomState(seed) if ties == "random" else None for _ in range(2)]
    rounds = balanced_label_propagation(
        edges, labels, num_shards, limit, rngs[0], max_iterations=4, ties=ties, keep_rounds=(1, 4)
    )
    for delta_of_round in rounds.deltas:
        moved = slow_round(edges, labels, num_shards, limit, rngs[1])
        changed = sum(len(set(np.flatnonzero(labels == k)) ^ set(np.flatnonzero(moved == k)))
                      for k in range(num_shards))  # fmt: skip
        assert changed == delta_of_round
        labels = moved
    np.testing.assert_array_equal(rounds.labels, labels)


@settings(max_examples=60, deadline=None)
@given(graphs_and_shards(), st.floats(0, 0.3), st.sampled_from(["code", "paper"]))
def test_blpa_never_passes_the_size_limit(graph, delta, variant):
    edges, num_nodes, num_shards, seed = graph
    limit = size_limit(num_nodes, num_shards, delta)
    rng = np.random.default_rng(seed)
    start = random_labels(num_nodes, num_shards, rng)
    rounds = tuple(range(1, 8))
    result = balanced_label_propagation(
        edges, start, num_shards, limit, rng, variant=variant, max_iterations=7, keep_rounds=rounds
    )
    assert result.history
    for labels in result.history.values():
        assert np.bincount(labels, minlength=num_shards).max() <= limit
        assert len(labels) == num_nodes


def test_paper_variant_moves_the_best_candidates_while_there_is_room():
    # Node 0 has two neighbours in shard 1, node 4 one in shard 0 and one in shard 1.
    edges = np.array([[0, 2, 0, 3, 4, 1, 4, 3], [2, 0, 3, 0, 1, 4, 3, 4]])
    start = np.array([0, 0, 1, 1, 0])
    arguments = (edges, start, 2, 4)
    result = balanced_label_propagation(*arguments, max_iterations=1, variant="paper", ties="first")
    # xi = 2: 0 -> 1 and 3 -> 0. Then xi = 1 by node and shard: 1 stays, 2 -> 0, 4 stays.
    np.testing.assert_array_equal(result.labels, [1, 0, 0, 0, 0])


def test_full_shards_stop_after_one_round():
    edges = random_edges(12, 30, 0)
    start = random_labels(12, 3, np.random.RandomState(0))
    result = balanced_label_propagation(edges, start, 3, 4, ties="first")
    np.testing.assert_array_equal(result.deltas, [0])
    np.testing.assert_array_equal(result.labels, start)


def test_isolated_nodes_drift_to_shard_0_or_stay():
    edges, start = np.zeros((2, 0), np.int32), np.array([0, 1, 1, 0])
    drifting = balanced_label_propagation(edges, start, 2, 4, ties="first")
    staying = balanced_label_propagation(edges, start, 2, 4, ties="first", isolated="stay")
    np.testing.assert_array_equal(drifting.labels, [0, 0, 0, 0])
    np.testing.assert_array_equal(staying.labels, start)


def test_random_ties_need_a_generator():
    with pytest.raises(InvalidInputError, match="rng"):
        balanced_label_propagation(np.zeros((2, 0), int), np.array([0, 1]), 2, 2)


@settings(max_examples=60, deadline=None)
@given(graphs_and_shards())
def test_communities_are_stable_and_numbered_by_appearance(graph):
    edges, num_nodes, _, _ = graph
    labels = label_propagation(edges, num_nodes)
    counts = neighbour_counts(edges, labels, labels.max() + 1)
    with_neighbours = np.flatnonzero(counts.sum(axis=1))
    own = counts[with_neighbours, labels[with_neighbours]]
    np.testing.assert_array_equal(own, counts[with_neighbours].max(axis=1))
    _, first = np.unique(labels, return_index=True)
    assert list(first) == sorted(first)
    assert set(labels) == set(range(labels.max() + 1))


@settings(deadline=None)
@given(graphs_and_shards())
def test_colouring_gives_neighbours_different_colours(graph):
    edges, num_nodes, _, _ = graph
    colours = greedy_colouring(edges, num_nodes)
    assert (colours[edges[0]] != colours[edges[1]]).all()
    assert colours.min() == 0
