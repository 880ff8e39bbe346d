"""Deletion requests: what they touch, what they leave, what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.graph_unlearning.partition import labels_by_node, random_labels
from lab.papers.graph_unlearning.requests import (
    CROSS_SHARD,
    SAME_SHARD,
    TOUCHES_TEST,
    Request,
    apply,
    apply_stream,
    delete_edges,
    delete_features,
    delete_nodes,
    draw_request,
    repartitioned,
    sharded_graph,
    without_features,
)
from lab.papers.graph_unlearning.shards import shard_data, stack_shards
from tests.papers.graph_unlearning.graphs import random_training_graph

NUM_SHARDS = 4


def example(seed=0):
    edges, graph, test = random_training_graph(seed=seed)
    labels = random_labels(graph.num_nodes, NUM_SHARDS, np.random.default_rng(seed))
    by_node = labels_by_node(graph, labels)
    return sharded_graph(edges, by_node, graph.node_ids, test, NUM_SHARDS)


def total_shard_edges(graph):
    """Directed edges of all shards' data, counted from the data itself."""
    shards = range(graph.num_shards)
    data = (shard_data(graph.edge_index, graph.labels, graph.test_ids, k) for k in shards)
    return sum(shard.edge_index.shape[1] for shard in data)


def pairs_of(edge_index):
    return {tuple(pair) for pair in edge_index.T.tolist()}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 500), st.integers(1, 10))
def test_deleted_nodes_are_in_no_shard_array(seed, num):
    graph = example(seed)
    nodes = np.random.default_rng(seed).choice(graph.train_ids, num, replace=False)
    after, effect = delete_nodes(graph, nodes)
    batch = stack_shards(after.edge_index, after.labels, after.test_ids, range(NUM_SHARDS))
    assert not np.isin(batch.train.node_ids, nodes).any()
    assert not np.isin(batch.inference.node_ids, nodes).any()
    assert not np.isin(after.edge_index, nodes).any()
    np.testing.assert_array_equal(effect.affected_shards, np.unique(graph.labels[nodes]))
    assert effect.num_removed_edges == total_shard_edges(graph) - total_shard_edges(after)
    for shard in set(range(NUM_SHARDS)) - set(effect.affected_shards.tolist()):
        before = shard_data(graph.edge_index, graph.labels, graph.test_ids, shard)
        now = shard_data(after.edge_index, after.labels, after.test_ids, shard)
        np.testing.assert_array_equal(before.node_ids, now.node_ids)
        np.testing.assert_array_equal(before.edge_index, now.edge_index)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 500), st.integers(1, 10))
def test_deleted_edges_are_gone_in_both_directions(seed, num):
    graph = example(seed)
    rng = np.random.default_rng(seed)
    pairs = graph.edge_index[:, rng.choice(graph.edge_index.shape[1], num, replace=False)]
    after, effect = delete_edges(graph, pairs)
    gone = pairs_of(pairs) | pairs_of(pairs[::-1])
    assert pairs_of(after.edge_index) == pairs_of(graph.edge_index) - gone
    assert effect.num_removed_edges == total_shard_edges(graph) - total_shard_edges(after)
    np.testing.assert_array_equal(after.labels, graph.labels)


def test_edges_retrain_only_the_shard_that_holds_both_ends():
    edges = np.array([[0, 1, 1, 2, 2, 4, 4, 5], [1, 0, 2, 1, 4, 2, 5, 4]])
    labels = np.array([0, 0, 1, 1, -1, -1])
    graph = sharded_graph(edges, labels, [0, 1, 2, 3], [4, 5], 2)
    after, effect = delete_edges(graph, np.array([[0, 1, 4, 4, 1], [1, 2, 2, 5, 0]]))
    expected = [SAME_SHARD, CROSS_SHARD, TOUCHES_TEST, TOUCHES_TEST]
    np.testing.assert_array_equal(effect.edge_kinds, expected)
    np.testing.assert_array_equal(effect.retrained_shards, [0])
    assert after.edge_index.shape[1] == 0
    # 0-1 twice in shard 0, 2-4 twice in shard 1, 4-5 twice in both.
    assert effect.num_removed_edges == 2 + 2 + 4


def test_features_of_requested_nodes_become_zero_and_their_shards_retrain():
    graph = example()
    nodes = graph.train_ids[[0, 5]]
    after, effect = delete_features(graph, nodes)
    features = np.ones((graph.num_nodes, 2), np.float32)
    cleared = without_features(features, after)
    assert (cleared[nodes] == 0).all()
    assert cleared.sum() == 2 * (graph.num_nodes - 2)
    assert (features == 1).all()
    np.testing.assert_array_equal(effect.retrained_shards, np.unique(graph.labels[nodes]))
    np.testing.assert_array_equal(after.edge_index, graph.edge_index)
    assert effect.num_removed_edges == 0


def test_removed_nodes_lose_their_features_too():
    after, _ = delete_nodes(example(), example().train_ids[:1])
    cleared = without_features(np.ones((after.num_nodes, 1)), after)
    assert np.flatnonzero(cleared[:, 0] == 0).tolist() == example().train_ids[:1].tolist()


def test_node_listed_twice_is_one_request():
    graph = example()
    node = graph.train_ids[3]
    after, _ = delete_nodes(graph, [node, node])
    assert after.removed_nodes.tolist() == [node]


def test_stream_is_the_same_as_all_at_once():
    graph = example()
    nodes = graph.train_ids[:6]
    requests = [Request("nodes", np.array([node])) for node in nodes]
    one_by_one, effects = apply_stream(graph, requests)
    at_once, effect = delete_nodes(graph, nodes)
    np.testing.assert_array_equal(one_by_one.edge_index, at_once.edge_index)
    np.testing.assert_array_equal(one_by_one.labels, at_once.labels)
    np.testing.assert_array_equal(one_by_one.train_ids, at_once.train_ids)
    assert sum(e.num_removed_edges for e in effects) == effect.num_removed_edges
    assert set(np.concatenate([e.affected_shards for e in effects])) == set(effect.affected_shards)


def test_shard_that_loses_all_nodes_is_not_retrained():
    graph = example()
    members = graph.members()[2]
    after, effect = delete_nodes(graph, members)
    np.testing.assert_array_equal(effect.affected_shards, [2])
    np.testing.assert_array_equal(effect.emptied_shards, [2])
    assert effect.retrained_shards.size == 0
    assert after.shard_sizes()[2] == 0


def test_repartition_leaves_no_trace_of_removed_nodes():
    graph, _ = delete_nodes(example(), example().train_ids[:5])
    remaining = graph.training_graph()
    labels = random_labels(remaining.num_nodes, NUM_SHARDS, np.random.default_rng(9))
    again = repartitioned(graph, labels)
    np.testing.assert_array_equal(again.labels[remaining.node_ids], labels)
    np.testing.assert_array_equal(again.labels[graph.removed_nodes], -1)
    with pytest.raises(InvalidInputError, match="shards \\[3\\]"):
        repartitioned(graph, np.minimum(labels, 2))


def refused(graph, request, message):
    """The request raises, and the graph stays as it was."""
    before = [np.array(x) for x in (graph.edge_index, graph.labels, graph.train_ids)]
    with pytest.raises(InvalidInputError, match=message):
        apply(graph, request)
    for old, new in zip(before, (graph.edge_index, graph.labels, graph.train_ids), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", ["nodes", "features"])
def test_nodes_that_cannot_be_deleted_are_listed(kind):
    graph, _ = delete_nodes(example(), example().train_ids[:1])
    removed, valid, test = graph.removed_nodes[0], graph.train_ids[0], graph.test_ids[0]
    refused(graph, Request(kind, np.array([valid, 999])), "\\[999\\]")
    refused(graph, Request(kind, np.array([valid, -1])), "\\[-1\\]")
    refused(graph, Request(kind, np.array([valid, removed])), f"\\[{removed}\\] were removed")
    refused(graph, Request(kind, np.array([valid, test])), f"\\[{test}\\] are test nodes")
    refused(graph, Request(kind, np.array([], int)), "names no node")
    refused(graph, Request(kind, np.array([0.5])), "whole numbers")


def test_features_cannot_be_deleted_twice():
    graph, _ = delete_features(example(), example().train_ids[:2])
    node = graph.train_ids[1]
    refused(graph, Request("features", np.array([node])), f"\\[{node}\\] were removed before")


def test_pruned_nodes_are_not_in_training():
    graph = sharded_graph(np.zeros((2, 0), int), np.array([0, 0, -1, -1]), [0, 1], [2], 1)
    refused(graph, Request("nodes", np.array([3])), "\\[3\\] are not in training")


def test_edges_that_cannot_be_deleted_are_listed():
    graph = example()
    pair = graph.edge_index[:, :1]
    after, _ = delete_edges(graph, pair)
    refused(after, Request("edges", pair), "no edges \\(any more\\)")
    node = graph.train_ids[0]
    refused(graph, Request("edges", np.array([[node], [node]])), "1 requested pairs")
    refused(graph, Request("edges", np.array([[0], [999]])), "999")
    refused(graph, Request("edges", np.array([0, 1])), "shape \\(2,\\)")
    refused(graph, Request("edges", np.zeros((2, 0), int)), "one edge or more")


def test_unknown_kind_of_request_is_refused():
    refused(example(), Request("labels", np.array([0])), "accepted: nodes, edges, features")


@pytest.mark.parametrize(
    ("labels", "train", "test", "message"),
    [
        ([0, 1, -1], [0, 1], [1, 2], "are in train_ids and in test_ids"),
        ([0, -1, -1], [0, 1], [2], "hold \\[-1\\]"),
        ([0, 0, -1], [0, 1], [2], "are empty"),
        ([0, 1, 1], [0, 1], [2], "have a shard"),
        ([0, 1, -1], [0, 1], [5], "test_ids"),
    ],
)
def test_inconsistent_partitions_are_refused(labels, train, test, message):
    with pytest.raises(InvalidInputError, match=message):
        sharded_graph(np.zeros((2, 0), int), np.array(labels), train, test, 2)


@pytest.mark.parametrize("kind", ["random", "top1", "adaptive", "last5"])
def test_requests_are_drawn_from_the_named_shards(kind):
    members = [np.arange(0, 5), np.arange(10, 18), np.arange(20, 23), np.arange(30, 36)]
    allowed = {
        "random": [0, 1, 2, 3],
        "top1": [1],
        "adaptive": [1, 3, 0],
        "last5": [2, 0, 3],
    }[kind]
    pool = np.concatenate([members[k] for k in allowed])
    drawn = draw_request(members, len(pool), kind, np.random.default_rng(0))
    assert sorted(drawn) == sorted(pool)
    with pytest.raises(InvalidInputError, match=f"accepted: 1 to {len(pool)}"):
        draw_request(members, len(pool) + 1, kind, np.random.default_rng(0))


def test_dependant_requests_do_not_exist():
    with pytest.raises(InvalidInputError, match="accepted: random, top1"):
        draw_request([np.arange(3)], 1, "dependant", np.random.default_rng(0))
