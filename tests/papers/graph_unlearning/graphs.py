"""Small random graphs for the tests of this folder."""

import numpy as np
from hypothesis import strategies as st

from lab.data.graphs import clean_edges
from lab.papers.graph_unlearning.data import split_nodes, training_graph


def random_edges(num_nodes: int, num_pairs: int, seed: int) -> np.ndarray:
    """int32 [2, M], both directions, sorted; about num_pairs undirected edges."""
    pairs = np.random.default_rng(seed).integers(0, num_nodes, (2, num_pairs))
    return clean_edges(pairs, num_nodes, one_directional="symmetrise")[0]


def random_training_graph(num_nodes: int = 60, num_pairs: int = 120, seed: int = 0):
    """(edge_index, TrainingGraph, test_ids) of a random graph with a fifth held out."""
    edges = random_edges(num_nodes, num_pairs, seed)
    train, test = split_nodes(num_nodes, 0.2, seed)
    return edges, training_graph(edges, train, num_nodes), test


@st.composite
def graphs_and_shards(draw):
    """(edges over n positions, n, num_shards, seed)."""
    num_nodes = draw(st.integers(4, 40))
    num_shards = draw(st.integers(1, min(num_nodes, 6)))
    seed = draw(st.integers(0, 2**16))
    num_pairs = draw(st.integers(0, 3 * num_nodes))
    return random_edges(num_nodes, num_pairs, seed), num_nodes, num_shards, seed
