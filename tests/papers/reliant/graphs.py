"""One small graph and its pieces, made once for the tests of this folder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lab.data.graphs import clean_edges, from_arrays
from lab.papers.reliant import knowledge, prepare
from lab.papers.reliant.generated import biased_graph

NUM_NODES = 60


def dataset(**changes):
    """A NodeDataset of 12 nodes, two classes, two groups, with some fields replaced."""
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, 12, (2, 24))
    fields = {
        "features": generator.normal(size=(12, 4)),
        "labels": np.arange(12) % 2,
        "edge_index": clean_edges(pairs, 12, one_directional="symmetrise")[0],
        "num_classes": 2,
        "sensitive": (np.arange(12) // 2) % 2,
        "train_mask": np.arange(12) < 4,
        "val_mask": (np.arange(12) >= 4) & (np.arange(12) < 8),
        "test_mask": np.arange(12) >= 8,
    }
    return from_arrays("small", **fields | changes)


@functools.cache
def small_graph():
    """A FairGraph of 60 nodes with a bias built in."""
    return prepare(biased_graph(num_nodes=NUM_NODES, num_features=6, mean_degree=5.0))


@functools.cache
def small_teacher(width: int = 8):
    """Knowledge of a good and biased teacher: it knows labels, and favours group 1."""
    graph = small_graph()
    key = jax.random.key(0)
    lean = 2.0 * (2 * graph.labels - 1) + 1.5 * (2 * graph.sensitive - 1)
    logits = jnp.stack([-lean / 2, lean / 2], axis=1) + jax.random.normal(key, (NUM_NODES, 2))
    embedding = jax.nn.relu(jax.random.normal(key, (NUM_NODES, width)) + lean[:, None])
    return knowledge(logits=logits, embedding=embedding)
