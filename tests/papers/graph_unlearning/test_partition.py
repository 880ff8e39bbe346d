"""The one door to all partition methods."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError, MissingExtraError, NonFiniteError
from lab.papers.graph_unlearning.partition import (
    METHODS,
    PartitionOptions,
    check_labels,
    intra_shard_edges,
    labels_by_node,
    partition,
    random_labels,
    size_limit,
)
from tests.papers.graph_unlearning.graphs import random_training_graph

BALANCED = ("random", "blpa", "bekm", "blpa_base", "bekm_base")
EDGES, GRAPH, TEST_IDS = random_training_graph()
EMBEDDINGS = np.random.default_rng(0).normal(size=(GRAPH.num_nodes, 3))
OPTIONS = [
    PartitionOptions(max_iterations=4),
    PartitionOptions(ties="first", isolated="stay", variant="paper", max_iterations=3),
    PartitionOptions(shard_size_delta=0.2, terminate_delta=20, start="k-means++"),
    PartitionOptions(size_limit=48, max_iterations=4, assignment_objective="max", start="random"),
]


@pytest.mark.parametrize("method", BALANCED)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("num_shards", [1, 4, GRAPH.num_nodes])
def test_every_node_is_in_one_shard_of_limited_size(method, options, num_shards):
    rng = np.random.default_rng(0)
    labels = partition(GRAPH, method, num_shards, rng, embeddings=EMBEDDINGS, options=options)
    assert labels.shape == (GRAPH.num_nodes,)
    assert labels.dtype == np.int32
    sizes = np.bincount(labels, minlength=num_shards)
    assert len(sizes) == num_shards
    limit = options.size_limit or size_limit(GRAPH.num_nodes, num_shards, options.shard_size_delta)
    assert sizes.max() <= limit


@pytest.mark.parametrize("method", [m for m in METHODS if m != "metis"])
def test_same_generator_same_labels(method):
    first, second = (
        partition(GRAPH, method, 4, np.random.default_rng(7), embeddings=EMBEDDINGS)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_graph_aware_partitions_keep_more_edges():
    kept = {
        method: intra_shard_edges(
            GRAPH.edge_index, partition(GRAPH, method, 4, np.random.default_rng(0))
        )
        for method in ("random", "blpa", "blpa_base")
    }
    assert kept["blpa"] > 1.5 * kept["random"]
    assert kept["blpa_base"] > kept["random"]


def test_official_options_of_the_baselines_are_reachable():
    official = PartitionOptions(official_linear_program=True, max_iterations=2)
    corrected = PartitionOptions(max_iterations=2)
    results = [
        partition(GRAPH, "blpa_base", 4, np.random.RandomState(0), options=options)
        for options in (official, corrected)
    ]
    assert (results[0] != results[1]).any()


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 1000))
def test_random_shards_differ_by_one_node_at_most(num_nodes, num_shards, seed):
    num_shards = min(num_nodes, num_shards)
    labels = random_labels(num_nodes, num_shards, np.random.default_rng(seed))
    sizes = np.bincount(labels, minlength=num_shards)
    assert sizes.sum() == num_nodes
    larger = num_nodes % num_shards
    np.testing.assert_array_equal(sizes, num_nodes // num_shards + (np.arange(num_shards) < larger))


def test_random_draws_of_a_random_state_are_those_of_the_official_code():
    np.random.seed(5)
    order = np.arange(11)
    np.random.shuffle(order)
    labels = random_labels(11, 3, np.random.RandomState(5))
    for shard, nodes in enumerate(np.array_split(order, 3)):
        np.testing.assert_array_equal(np.flatnonzero(labels == shard), np.sort(nodes))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 1))
def test_size_limit_always_has_room_for_all(num_nodes, num_shards, delta):
    num_shards = min(num_nodes, num_shards)
    assert size_limit(num_nodes, num_shards, delta) * num_shards >= num_nodes


@pytest.mark.parametrize("num_shards", [0, -1, GRAPH.num_nodes + 1])
@pytest.mark.parametrize("method", ["random", "blpa", "bekm"])
def test_number_of_shards_out_of_range_is_refused(method, num_shards):
    with pytest.raises(
        InvalidInputError, match=f"num_shards is {num_shards} for {GRAPH.num_nodes}"
    ):
        partition(GRAPH, method, num_shards, np.random.default_rng(0), embeddings=EMBEDDINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PartitionOptions(shard_size_delta=-0.1), "shard_size_delta is -0.1"),
        (PartitionOptions(size_limit=3), "size_limit 3 x 4 shards hold less than 48"),
        (PartitionOptions(max_iterations=0), "max_iterations is 0"),
    ],
)
@pytest.mark.parametrize("method", ["blpa", "bekm"])
def test_options_that_cannot_work_are_refused(method, options, message):
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidInputError, match=message):
        partition(GRAPH, method, 4, rng, embeddings=EMBEDDINGS, options=options)


@pytest.mark.parametrize("field", ["ties", "isolated", "variant", "assignment_objective", "start"])
def test_option_that_does_not_exist_is_refused(field):
    with pytest.raises(InvalidInputError, match=f"{field} is 'other'; accepted"):
        PartitionOptions(**{field: "other"})


def test_unknown_method_and_missing_embeddings_are_refused():
    with pytest.raises(InvalidInputError, match="accepted: random, blpa"):
        partition(GRAPH, "sisa", 4, np.random.default_rng(0))
    with pytest.raises(InvalidInputError, match="needs embeddings"):
        partition(GRAPH, "bekm", 4, np.random.default_rng(0))


def test_bad_embeddings_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidInputError, match="embeddings have shape"):
        partition(GRAPH, "bekm", 4, rng, embeddings=EMBEDDINGS[1:])
    bad = np.where(EMBEDDINGS[0, 0] == EMBEDDINGS, np.nan, EMBEDDINGS)
    with pytest.raises(NonFiniteError, match="1 nodes"):
        partition(GRAPH, "kmeans", 4, rng, embeddings=bad)


@pytest.mark.skipif(importlib.util.find_spec("pymetis") is not None, reason="pymetis is installed")
def test_metis_without_its_binding_says_what_to_install():
    with pytest.raises(MissingExtraError, match="tenfold\\[metis\\]"):
        partition(GRAPH, "metis", 4, np.random.default_rng(0))


def test_metis_gets_the_adjacency_in_compressed_rows(monkeypatch):
    class Binding:
        @staticmethod
        def part_graph(num_shards, *, xadj, adjncy):
            assert len(xadj) == GRAPH.num_nodes + 1
            for node in range(GRAPH.num_nodes):
                expected = GRAPH.edge_index[0][GRAPH.edge_index[1] == node]
                assert set(adjncy[xadj[node] : xadj[node + 1]]) == set(expected)
            return 0, [node % num_shards for node in range(GRAPH.num_nodes)]

    monkeypatch.setitem(__import__("sys").modules, "pymetis", Binding)
    labels = partition(GRAPH, "metis", 4, np.random.default_rng(0))
    np.testing.assert_array_equal(labels, np.arange(GRAPH.num_nodes) % 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, int), "accepted: whole numbers \\[4\\]"),
        (np.zeros(4), "float64"),
        (np.array([0, 1, -1, 0]), "hold \\[-1\\]"),
        (np.array([0, 1, 2, 0]), "hold \\[2\\]"),
        (np.zeros(4, int), "shards \\[1\\] of 2 are empty"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(InvalidInputError, match=message):
        check_labels(labels, 4, 2)


def test_labels_by_node_follow_the_training_order():
    labels = random_labels(GRAPH.num_nodes, 4, np.random.default_rng(0))
    by_node = labels_by_node(GRAPH, labels)
    np.testing.assert_array_equal(by_node[GRAPH.node_ids], labels)
    np.testing.assert_array_equal(by_node[TEST_IDS], -1)


def test_official_index_bug_warns_and_leaks_test_nodes():
    labels = random_labels(GRAPH.num_nodes, 4, np.random.default_rng(0))
    with pytest.warns(UserWarning, match="test nodes and their labels"):
        by_node = labels_by_node(GRAPH, labels, official_index_bug=True)
    np.testing.assert_array_equal(by_node[: GRAPH.num_nodes], labels)
    assert (by_node[TEST_IDS] >= 0).any()
