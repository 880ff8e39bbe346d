"""Similarity graphs against a plain double loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError, NonFiniteError
from lab.papers.reliant.similarity import similarity_edges, similarity_graph


def slow_edges(columns, threshold):
    edges = set()
    for i, row in enumerate(columns):
        similar = [1 / (1 + np.sqrt(((row - other) ** 2).sum())) for other in columns]
        second = sorted(similar)[-2]
        edges |= {(i, j) for j, s in enumerate(similar) if s > threshold * second and j != i}
    return edges


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([0.6, 0.8, 1.0]), st.integers(1, 7))
def test_edges_equal_a_double_loop_whatever_the_block(seed, threshold, block_rows):
    columns = np.random.default_rng(seed).normal(size=(15, 3)) ** 3
    edges = similarity_edges(columns, threshold, block_rows)
    assert set(map(tuple, edges.T.tolist())) == slow_edges(columns, threshold)


def test_a_graph_holds_both_directions():
    edges = similarity_graph(np.random.default_rng(0).normal(size=(20, 2)), 0.7)
    forward = set(map(tuple, edges.T.tolist()))
    assert forward == {(b, a) for a, b in forward}


def test_bad_tables_are_refused():
    with pytest.raises(InvalidInputError, match="threshold is 0"):
        similarity_edges(np.zeros((3, 2)), 0)
    with pytest.raises(InvalidInputError, match="2 nodes or more"):
        similarity_edges(np.zeros((1, 2)), 0.5)
    with pytest.raises(NonFiniteError):
        similarity_edges(np.full((3, 2), np.nan), 0.5)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_recidivism_graph_is_rebuilt_edge_by_edge(require_dataset):
    from lab.data.fair_graphs import read_fair_graph

    data = read_fair_graph(require_dataset("bail"), "bail")
    edges = similarity_edges(data.features, 0.6)
    assert edges.shape[1] == 403_977
    np.testing.assert_array_equal(similarity_graph(data.features, 0.6), data.edge_index)
