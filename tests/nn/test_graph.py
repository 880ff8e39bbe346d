"""Links and layers against slow loops written from the equations."""

import functools

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.nn.graph import (
    Blocks,
    EdgeLinks,
    GATConv,
    GCNConv,
    GINConv,
    SAGEConv,
    blocks_of,
    links_of,
    mean_of_neighbours,
    needed_rows,
    propagate,
    sample_layers,
    sample_neighbours,
    softmax_attention,
    symmetric_weights,
    to_dense,
)

NUM_NODES, NUM_EDGES, WIDTH = 7, 14, 3


def random_graph(seed: int, num_real: int = 10):
    """A graph of NUM_EDGES sorted edges, the last ones padding; one self loop; node 6 isolated."""
    rng = np.random.default_rng(seed)
    pairs = [(s, t) for s in range(6) for t in range(6) if s != t]
    edges = [pairs[i] for i in rng.choice(len(pairs), num_real - 1, replace=False)] + [(2, 2)]
    edges = sorted(edges, key=lambda edge: (edge[1], edge[0]))
    padding = [(0, NUM_NODES)] * (NUM_EDGES - num_real)
    senders, receivers = np.array(edges + padding, np.int32).T
    features = rng.normal(size=(NUM_NODES, WIDTH)).astype(np.float32)
    links = EdgeLinks(jnp.asarray(senders), jnp.asarray(receivers), None, NUM_NODES, True)
    return links, features, edges


def both_forms(links):
    return [links, to_dense(links, NUM_NODES)]


def test_propagation_is_a_weighted_sum_over_the_links():
    links, features, edges = random_graph(0)
    weights = np.linspace(0.5, 2, NUM_EDGES).astype(np.float32)
    expected = np.zeros_like(features)
    for (sender, receiver), weight in zip(edges, weights, strict=False):
        expected[receiver] += weight * features[sender]
    for form in both_forms(links.replace(weights=jnp.asarray(weights))):
        np.testing.assert_allclose(propagate(form, features), expected, atol=1e-6)


def test_the_mean_of_no_neighbours_is_zero():
    links, features, edges = random_graph(1)
    sources = [[s for s, t in edges if t == node] for node in range(NUM_NODES)]
    expected = [features[s].mean(0) if s else np.zeros(WIDTH) for s in sources]
    for form in both_forms(links):
        np.testing.assert_allclose(mean_of_neighbours(form, features), expected, atol=1e-6)
    assert not sources[6]


def test_symmetric_weights_follow_in_degrees():
    links, features, edges = random_graph(2)
    degree = np.bincount([t for _, t in edges], minlength=NUM_NODES).astype(float)
    expected = np.zeros_like(features)
    for s, t in edges:
        if degree[s] > 0:
            expected[t] += features[s] / np.sqrt(degree[s] * degree[t])
    for form in both_forms(links):
        weighted = symmetric_weights(form)
        np.testing.assert_allclose(propagate(weighted, features), expected, atol=1e-6)


@pytest.mark.parametrize("self_loops", [True, False])
def test_attention_is_the_softmax_of_each_targets_links(self_loops):
    links, _, edges = random_graph(3)
    rng = np.random.default_rng(4)
    source, target = rng.normal(size=(2, NUM_NODES, 2))
    values = rng.normal(size=(NUM_NODES, 2, WIDTH))
    expected = np.zeros((NUM_NODES, 2, WIDTH))
    for node in range(NUM_NODES):
        senders = [s for s, t in edges if t == node and not (self_loops and s == t)]
        senders += [node] if self_loops else []
        if not senders:
            continue
        scores = source[senders] + target[node]
        weights = np.exp(np.where(scores > 0, scores, 0.2 * scores))
        expected[node] = np.einsum("jh,jhd->hd", weights / weights.sum(0), values[senders])
    arrays = (jnp.float32(source), jnp.float32(target), jnp.float32(values))
    for form in both_forms(links):
        found = softmax_attention(form, *arrays, self_loops=self_loops)
        np.testing.assert_allclose(found, expected, atol=1e-5)


LAYERS = {
    "gcn": GCNConv(2),
    "sage": SAGEConv(2),
    "gin": GINConv(2, eps=0.5),
    "gat": GATConv(heads=2, head_dim=2),
}


@functools.cache
def layer_fn(name):
    """Compiled `(links, features) -> rows`, and its parameters."""
    layer, (links, features, _) = LAYERS[name], random_graph(0)
    extra = {"train": False} if name == "gat" else {}
    params = layer.init(jax.random.key(1), links, jnp.asarray(features), **extra)
    return jax.jit(lambda links, x: layer.apply(params, links, x, **extra)), params


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_permuting_the_nodes_permutes_the_rows(name, seed):
    links, features, _ = random_graph(seed)
    links = links.replace(is_sorted=False)
    order = np.random.default_rng(seed).permutation(NUM_NODES)
    position = np.append(np.argsort(order), NUM_NODES).astype(np.int32)
    moved = links.replace(
        senders=jnp.asarray(position[links.senders]),
        receivers=jnp.asarray(position[links.receivers]),
    )
    apply, _ = layer_fn(name)
    rows, permuted = apply(links, features), apply(moved, features[order])
    np.testing.assert_allclose(permuted, np.asarray(rows)[order], atol=1e-5)


@pytest.mark.parametrize("name", ["gcn", "sage", "gin"])
def test_gathering_before_or_after_the_product_gives_the_same_rows(name):
    links, features, _ = random_graph(5)
    layer = LAYERS[name]
    apply, params = layer_fn(name)
    extra = (0.5,) if name == "gin" else ()
    aggregate = layer.gather(links, jnp.asarray(features), *extra)
    rows = layer.apply(params, links, jnp.asarray(features), aggregate)
    np.testing.assert_allclose(rows, apply(links, features), atol=1e-5)


def test_a_jraph_graph_gives_its_edges_weights_and_mask():
    links, features, _ = random_graph(6)
    weights = jnp.arange(NUM_EDGES, dtype=jnp.float32)
    mask = links.receivers < NUM_NODES
    graph = jraph.GraphsTuple(
        nodes=jnp.asarray(features),
        edges={"weight": weights, "mask": mask},
        senders=links.senders,
        receivers=jnp.where(mask, links.receivers, 0),
        globals=None,
        n_node=jnp.array([NUM_NODES]),
        n_edge=jnp.array([NUM_EDGES]),
    )
    expected = propagate(links.replace(weights=weights), features)
    np.testing.assert_allclose(propagate(links_of(graph), features), expected, atol=1e-6)
    blocks = blocks_of(graph, 2)
    assert isinstance(blocks, Blocks)
    assert len(blocks.links) == 2
    with pytest.raises(ValueError, match="3 layers, the blocks have 2"):
        blocks_of(blocks, 3)
    with pytest.raises(ValueError, match="wieght"):
        links_of(graph._replace(edges={"wieght": weights}))


def test_needed_rows_are_the_targets_and_their_neighbours():
    links, _, edges = random_graph(7)
    mask = np.arange(NUM_NODES) == 3
    expected = mask | np.isin(np.arange(NUM_NODES), [s for s, t in edges if t == 3])
    for form in both_forms(links):
        np.testing.assert_array_equal(needed_rows(form, jnp.asarray(mask)), expected)


def star(num_leaves: int) -> EdgeLinks:
    """Node 0 receives from all others; node 1 from node 0."""
    senders = np.array([*range(1, num_leaves + 1), 0, 0, 0], np.int32)
    receivers = np.array([*[0] * num_leaves, 1, num_leaves + 1, num_leaves + 1], np.int32)
    return EdgeLinks(jnp.asarray(senders), jnp.asarray(receivers), None, num_leaves + 1, True)


def test_sampling_is_uniform_without_replacement():
    links, leaves, draws = star(6), 6, 2000
    nodes = jnp.array([0, 1, 2, 7], jnp.int32)
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = np.asarray(jax.vmap(lambda key: sample_neighbours(key, links, nodes, 3))(keys))
    hub = np.sort(drawn[:, 0], axis=1)
    assert (np.diff(hub, axis=1) > 0).all()
    assert hub.min() >= 1
    assert hub.max() <= leaves
    # All 20 subsets of 3 out of 6 are equally likely: chi-squared with 19 degrees of freedom.
    _, counts = np.unique(hub, axis=0, return_counts=True)
    assert len(counts) == 20
    assert ((counts - draws / 20) ** 2 / (draws / 20)).sum() < 43.8  # 0.999 quantile
    # One neighbour: taken; none, or padding: none.
    assert (drawn[:, 1] == [0, 7, 7]).all()
    assert (drawn[:, 2:] == 7).all()


def test_sampled_layers_chain_and_draw_only_existing_links():
    links, _, edges = random_graph(8)
    nodes = jnp.array([4, 1, NUM_NODES], jnp.int32)
    layers = sample_layers(jax.random.key(0), links, nodes, (2, 2))
    np.testing.assert_array_equal(layers[1].sources[:3], nodes)
    np.testing.assert_array_equal(layers[0].sources[: len(layers[1].sources)], layers[1].sources)
    targets = [layers[1].sources, nodes]
    for layer, target_nodes in zip(layers, targets, strict=True):
        real = np.asarray(layer.links.is_real())
        drawn = list(
            zip(
                np.asarray(layer.sources)[np.asarray(layer.links.senders)[real]].tolist(),
                np.asarray(target_nodes)[np.asarray(layer.links.receivers)[real]].tolist(),
                strict=True,
            )
        )
        assert set(drawn) <= set(edges)
        assert len(set(drawn)) == len(drawn)
        for node in np.asarray(target_nodes).tolist():
            degree = sum(t == node for _, t in edges)
            assert sum(t == node for _, t in drawn) == min(degree, 2)


def test_padding_edges_and_rows_change_nothing():
    links, features, _ = random_graph(9)
    for name in LAYERS:
        apply, params = layer_fn(name)
        del apply
        extra = {"train": False} if name == "gat" else {}
        more = links.replace(
            senders=jnp.append(links.senders, jnp.zeros(3, jnp.int32)),
            receivers=jnp.append(links.receivers, jnp.full(3, NUM_NODES + 2, jnp.int32)),
            num_targets=NUM_NODES + 2,
        )
        padding = links.receivers == NUM_NODES
        more = more.replace(
            receivers=more.receivers.at[:NUM_EDGES].add(jnp.where(padding, 2, 0)),
        )
        wide = np.concatenate([features, np.full((2, WIDTH), 1e6, np.float32)])
        rows = LAYERS[name].apply(params, more, jnp.asarray(wide), **extra)
        expected = LAYERS[name].apply(params, links, jnp.asarray(features), **extra)
        np.testing.assert_allclose(rows[:NUM_NODES], expected, atol=1e-5)
