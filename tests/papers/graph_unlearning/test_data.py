"""Split, features, edge thinning and the training graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.graph_unlearning.data import (
    one_hot_degree,
    split_nodes,
    thin_edges,
    training_graph,
)
from tests.papers.graph_unlearning.graphs import random_edges

PATH = np.array([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])


@settings(deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_split_holds_every_node_once(num_nodes, ratio, seed):
    if int(np.ceil(ratio * num_nodes)) == num_nodes:
        return
    train, test = split_nodes(num_nodes, ratio, seed)
    assert sorted([*train, *test]) == list(range(num_nodes))
    assert len(test) == int(np.ceil(ratio * num_nodes))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_split_ratio_outside_zero_and_one_is_refused(ratio):
    with pytest.raises(InvalidInputError, match="test_ratio"):
        split_nodes(10, ratio)


def test_split_must_leave_a_train_node():
    with pytest.raises(InvalidInputError, match="leaves none"):
        split_nodes(3, 0.9)


def test_one_hot_degree_marks_each_degree():
    features = one_hot_degree(PATH, 6)
    assert features.shape == (6, 3)
    np.testing.assert_array_equal(features.argmax(axis=1), [1, 2, 1, 1, 1, 0])
    np.testing.assert_array_equal(features.sum(axis=1), 1)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_thinning_keeps_whole_edges_in_their_order(seed, ratio):
    edges = random_edges(20, 40, seed)
    thinned = thin_edges(edges, ratio, np.random.default_rng(seed))
    assert thinned.shape[1] == 2 * int(edges.shape[1] // 2 * (1 - ratio))
    kept = {tuple(pair) for pair in thinned.T}
    assert kept == {(b, a) for a, b in kept}
    in_order = [pair for pair in map(tuple, edges.T) if pair in kept]
    assert in_order == [tuple(pair) for pair in thinned.T]


def test_thinning_removes_self_loops():
    edges = np.array([[0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(thin_edges(edges, 0, np.random.default_rng(0)), [[0, 1], [1, 0]])


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_thinning_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(InvalidInputError, match="ratio_deleted"):
        thin_edges(PATH, ratio, np.random.default_rng(0))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_training_graph_holds_the_edges_between_train_nodes(seed):
    edges = random_edges(25, 60, seed)
    train, _ = split_nodes(25, 0.3, seed)
    graph = training_graph(edges, train, 25)
    expected = {(s, t) for s, t in edges.T.tolist() if s in train and t in train}
    assert set(map(tuple, graph.node_ids[graph.edge_index].T.tolist())) == expected
    np.testing.assert_array_equal(graph.node_ids, train)
    assert graph.num_isolated() == len(set(train.tolist()) - {s for s, _ in expected})


def test_prune_keeps_the_largest_component_in_order():
    graph = training_graph(PATH, np.array([4, 2, 1, 3, 0, 5]), 6, prune=True)
    np.testing.assert_array_equal(graph.node_ids, [2, 1, 0])
    pairs = graph.node_ids[graph.edge_index].T.tolist()
    assert sorted(pairs) == [[0, 1], [1, 0], [1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("edges", "train", "message"),
    [
        (PATH, [0, 1, 1], "more than once"),
        (PATH, [0, 9], "train_ids"),
        ([[0], [9]], [0, 1], "outside"),
        ([[0], [1]], [0, 1], "without their reverse"),
    ],
)
def test_bad_training_graphs_are_refused(edges, train, message):
    with pytest.raises(InvalidInputError, match=message):
        training_graph(np.array(edges), np.array(train), 6)
