"""The graphs that shard models see."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.graph_unlearning.partition import labels_by_node, random_labels
from lab.papers.graph_unlearning.shards import (
    PaddedShape,
    cut_out,
    induced_graph,
    shard_data,
    stack_graphs,
    stack_queries,
    stack_shards,
)
from tests.papers.graph_unlearning.graphs import random_training_graph


def sharded(seed, num_shards=3):
    edges, graph, test = random_training_graph(seed=seed)
    labels = random_labels(graph.num_nodes, num_shards, np.random.default_rng(seed))
    return edges, labels_by_node(graph, labels), test


def pairs_of(graph):
    return {tuple(pair) for pair in graph.node_ids[graph.edge_index].T.tolist()}


def pairs_of_row(stack, row):
    real = np.asarray(stack.edge_mask[row])
    ids, senders, receivers = (x[row] for x in (stack.node_ids, stack.senders, stack.receivers))
    return {tuple(p) for p in zip(ids[senders[real]], ids[receivers[real]], strict=True)}


@settings(deadline=None)
@given(st.integers(0, 500))
def test_shard_holds_its_train_nodes_all_test_nodes_and_the_edges_between(seed):
    edges, labels, test = sharded(seed)
    for k in range(3):
        shard = shard_data(edges, labels, test, k)
        np.testing.assert_array_equal(shard.node_ids[shard.train_mask], np.flatnonzero(labels == k))
        np.testing.assert_array_equal(shard.node_ids[shard.test_mask], np.sort(test))
        ids = set(shard.node_ids.tolist())
        assert pairs_of(shard) == {(s, t) for s, t in edges.T.tolist() if s in ids and t in ids}


@settings(deadline=None)
@given(st.integers(0, 500))
def test_stack_holds_each_graph_padded_and_sorted(seed):
    edges, labels, test = sharded(seed)
    batch = stack_shards(edges, labels, test, range(3))
    for k in range(3):
        whole = shard_data(edges, labels, test, k)
        inference, train = batch.inference, batch.train
        size = len(whole.node_ids)
        np.testing.assert_array_equal(inference.node_ids[k, :size], whole.node_ids)
        assert (inference.node_ids[k, size:] == len(labels)).all()
        np.testing.assert_array_equal(inference.test_mask[k, :size], whole.test_mask)
        assert not inference.test_mask[k, size:].any()
        assert pairs_of_row(inference, k) == pairs_of(whole)
        members = np.flatnonzero(labels == k)
        np.testing.assert_array_equal(train.node_ids[k][train.train_mask[k]], members)
        assert not train.test_mask.any()
        inside = set(members.tolist())
        assert pairs_of_row(train, k) == {
            (s, t) for s, t in pairs_of(whole) if s in inside and t in inside
        }
    assert (np.diff(batch.inference.receivers, axis=1) >= 0).all()
    assert (np.diff(batch.train.receivers, axis=1) >= 0).all()


def test_rows_gathers_features_and_zeros_on_the_device():
    edges, labels, test = sharded(0)
    features = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    shape = PaddedShape(num_nodes=40, num_edges=200)
    stack = stack_shards(edges, labels, test, range(3), inference_shape=shape).inference
    gathered = np.asarray(jax.jit(lambda s, x: s.rows(x))(stack, features))
    real = stack.train_mask | stack.test_mask
    np.testing.assert_array_equal(gathered[real], features[stack.node_ids[real]])
    assert (gathered[~real] == 0).all()
    assert (~real).any()


def test_deletion_fits_the_first_shape():
    edges, labels, test = sharded(1)
    batch = stack_shards(edges, labels, test, range(3))
    labels = labels.copy()
    gone = np.flatnonzero(labels == 1)[0]
    labels[gone] = -1
    again = stack_shards(
        edges,
        labels,
        test,
        [1],
        train_shape=batch.train.shape,
        inference_shape=batch.inference.shape,
    )
    assert again.train.shape == batch.train.shape
    assert again.inference.shape == batch.inference.shape
    assert gone not in again.train.node_ids
    assert gone not in again.inference.node_ids


def test_inference_can_leave_the_edges_of_test_nodes_out():
    edges, labels, test = sharded(1)
    batch = stack_shards(edges, labels, test, range(3), use_test_neighbours=False)
    for k in range(3):
        assert pairs_of_row(batch.inference, k) == pairs_of_row(batch.train, k)
        np.testing.assert_array_equal(batch.inference.test_mask[k].sum(), len(test))


def test_shard_without_edges_is_fine():
    labels = np.array([0, 0, 1, -1])
    batch = stack_shards(np.zeros((2, 0), np.int32), labels, np.array([3]), range(2))
    assert not batch.train.edge_mask.any()
    np.testing.assert_array_equal(batch.train.train_mask.sum(axis=1), [2, 1])


def test_graph_that_does_not_fit_and_empty_stacks_are_refused():
    edges, labels, test = sharded(0)
    with pytest.raises(InvalidInputError, match="does not fit into"):
        stack_shards(edges, labels, test, range(3), train_shape=PaddedShape(2, 2))
    with pytest.raises(InvalidInputError, match="no graph"):
        stack_graphs([], 10)


def test_queries_stand_alone_with_the_train_nodes_of_each_shard():
    edges, labels, test = sharded(2)
    member = int(np.flatnonzero(labels == 0)[0])
    stack = stack_queries(edges, labels, np.array([test[0], member]), 3)
    assert len(stack.node_ids) == 6
    for row, (query, shard) in enumerate((q, k) for q in (test[0], member) for k in range(3)):
        np.testing.assert_array_equal(stack.node_ids[row][stack.test_mask[row]], [query])
        alone = cut_out(edges, np.flatnonzero(labels == shard), [query], len(labels))
        assert pairs_of_row(stack, row) == pairs_of(alone)


def test_induced_graph_classifies_all_of_its_nodes():
    edges, labels, _ = sharded(0)
    graph = induced_graph(edges, np.array([9, 3, 5]), len(labels))
    np.testing.assert_array_equal(graph.node_ids, [3, 5, 9])
    assert graph.test_mask.all()
    assert not graph.train_mask.any()


def test_select_takes_graphs_of_a_stack():
    edges, labels, test = sharded(0)
    stack = stack_shards(edges, labels, test, range(3)).train
    np.testing.assert_array_equal(stack.select([2, 0]).node_ids, stack.node_ids[[2, 0]])
    np.testing.assert_array_equal(stack.select(1).senders, stack.senders[1])
