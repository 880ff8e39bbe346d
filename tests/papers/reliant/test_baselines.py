"""FairGNN and NIFTY as whole runs."""

import jax
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.reliant import (
    FairGNNConfig,
    NIFTYConfig,
    evaluate,
    seed_keys,
    train_fairgnn,
    train_nifty,
)
from lab.papers.reliant.baselines import thinned_links
from tests.papers.reliant.graphs import small_graph


@pytest.mark.parametrize(
    ("train", "config"),
    [
        (train_fairgnn, FairGNNConfig(hidden_dim=8, learning_rate=0.01, max_epochs=80)),
        (
            train_nifty,
            NIFTYConfig(hidden_dim=8, learning_rate=0.01, max_epochs=80, sensitive_column=0),
        ),
    ],
    ids=["fairgnn", "nifty"],
)
def test_a_peer_learns_and_its_seeds_differ(train, config):
    graph = small_graph()
    logits, history = train(config, graph, seed_keys([0, 1]))
    assert logits.shape == (2, graph.num_nodes, 2)
    assert not np.array_equal(*logits)
    assert np.asarray(history["finite"]).all()
    assert evaluate(logits[0], graph, graph.train_mask, warn=False).auc > 0.8


def test_a_peer_is_for_two_groups():
    graph = small_graph().replace(num_groups=3)
    with pytest.raises(InvalidInputError, match="two groups"):
        train_fairgnn(FairGNNConfig(), graph, seed_keys([0]))


def test_a_thinned_graph_keeps_loops_and_symmetry():
    graph = small_graph()
    links = thinned_links(graph, jax.random.key(0), 0.5)
    dense = np.zeros((graph.num_nodes,) * 2)
    dense[links.receivers, links.senders] = links.weights
    np.testing.assert_allclose(dense, dense.T, rtol=1e-6)
    assert (np.diag(dense) > 0).all()
    assert (dense > 0).sum() < graph.links.senders.shape[0]
    scale = np.sqrt((dense > 0).sum(axis=1))
    np.testing.assert_allclose(dense * scale[:, None] * scale, dense > 0, atol=1e-5)
