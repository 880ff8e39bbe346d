"""Sums over neighbours of undirected graphs, and their gradients, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.data.graphs import clean_edges
from lab.nn.graph import (
    GCNConv,
    dropped_neighbour_sum,
    neighbour_sum,
    pair_features,
    pair_products,
    pairs_of,
    propagate,
    symmetric_links,
)
from lab.nn.hashed_dropout import keep_pairs

NUM_NODES = 12


def links_and_matrix(self_loops=True, seed=0):
    pairs = np.random.default_rng(seed).integers(0, NUM_NODES, (2, 20))
    edges = clean_edges(pairs, NUM_NODES, one_directional="symmetrise")[0]
    matrix = np.zeros((NUM_NODES, NUM_NODES), np.float32)
    matrix[edges[1], edges[0]] = 1
    if self_loops:
        matrix += np.eye(NUM_NODES, dtype=np.float32)
    links = symmetric_links(edges, NUM_NODES, self_loops=self_loops)
    return jax.tree.map(jnp.asarray, links), matrix


def rows_of(width, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(NUM_NODES, width)), jnp.float32)


@pytest.mark.parametrize("width", [1, 3, 4, 9])
def test_neighbour_sum_is_the_product_with_the_adjacency_matrix(width):
    links, matrix = links_and_matrix()
    rows = rows_of(width)
    np.testing.assert_allclose(neighbour_sum(links, rows), matrix @ rows, rtol=1e-5, atol=1e-5)


def test_normalised_links_multiply_by_the_normalised_matrix():
    links, matrix = links_and_matrix()
    scale = 1 / np.sqrt(matrix.sum(axis=1))
    expected = scale[:, None] * (matrix @ (scale[:, None] * rows_of(5)))
    found = propagate(links.normalised(), rows_of(5))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [2, 9])
def test_gradient_and_vmap_of_a_sum(width):
    links, matrix = links_and_matrix()
    rows = jnp.stack([rows_of(width, seed) for seed in range(3)])
    weights = rows_of(width, 9)
    gradient = jax.grad(lambda x: jnp.sum(neighbour_sum(links, x) * weights))
    found = jax.vmap(gradient)(rows)
    np.testing.assert_allclose(found[1], matrix.T @ weights, rtol=1e-5, atol=1e-5)
    several = jax.vmap(neighbour_sum, (None, 0))(links, rows)
    np.testing.assert_allclose(several[2], matrix @ rows[2], rtol=1e-5, atol=1e-5)


def test_an_isolated_node_without_a_loop_gets_zero():
    links = jax.tree.map(
        jnp.asarray, symmetric_links(np.zeros((2, 0), np.int32), 3, self_loops=False)
    )
    assert not np.asarray(neighbour_sum(links.normalised(), jnp.ones((3, 2)))).any()


@pytest.mark.parametrize("num_whole", [0, 1])
def test_dropped_sum_and_its_gradient_use_the_same_mask(num_whole):
    links, matrix = links_and_matrix()
    key, rate, width = jax.random.key(3), 0.4, 3
    words = jax.random.bits(key, (2,), jnp.uint32)
    kept = np.asarray(keep_pairs(words, links.senders, links.receivers, rate))
    dropped = np.zeros_like(matrix)
    dropped[links.receivers, links.senders] = kept / (1 - rate)
    matrices = [dropped] * (width - num_whole) + [matrix] * num_whole
    rows, weights = rows_of(width), rows_of(width, 7)
    expected = np.stack([m @ c for m, c in zip(matrices, rows.T, strict=True)], axis=1)
    found = dropped_neighbour_sum(links, rows, key, rate, num_whole)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(
        lambda x: jnp.sum(dropped_neighbour_sum(links, x, key, rate, num_whole) * weights)
    )(rows)
    expected = np.stack([m.T @ c for m, c in zip(matrices, weights.T, strict=True)], axis=1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def test_pair_products_and_their_gradients():
    links, matrix = links_and_matrix()
    pairs = jax.tree.map(jnp.asarray, pairs_of(links))
    assert pairs.counts.sum() == matrix.sum()
    rows, diagonal = rows_of(4), jnp.arange(1.0, 5.0)
    cotangent = jnp.sin(jnp.arange(pairs.first.shape[0], dtype=jnp.float32))

    def quick(rows, diagonal):
        features = jax.lax.stop_gradient(pair_features(pairs, rows))
        return jnp.vdot(pair_products(links, pairs, rows, features, diagonal), cotangent)

    def plain(rows, diagonal):
        scores = jnp.sum(rows[pairs.first] * diagonal * rows[pairs.second], axis=1)
        return jnp.vdot(scores, cotangent)

    for found, expected in zip(
        jax.grad(quick, (0, 1))(rows, diagonal),
        jax.grad(plain, (0, 1))(rows, diagonal),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_layers_take_symmetric_links_and_edge_links_alike():
    links, _ = links_and_matrix()
    layer, rows = GCNConv(3), rows_of(5)
    variables = layer.init(jax.random.key(0), links.normalised(), rows)
    found = layer.apply(variables, links.normalised(), rows)
    expected = layer.apply(variables, links.normalised().as_edges(), rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
