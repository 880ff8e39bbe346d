import functools

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.graph import EdgeLinks, symmetric_weights, whole_graph
from lab.papers.graph_unlearning import models
from tests.papers.graph_unlearning.graphs import random_edges

NUM_NODES, NUM_FEATURES, NUM_CLASSES = 12, 5, 3

init_variables = jax.jit(models.init_variables, static_argnums=(0, 2))


def count(config, num_features):
    shapes = jax.eval_shape(
        functools.partial(models.init_variables, config, num_features=num_features),
        jax.random.key(0),
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gat", 92_373),
        ("gcn", 23_063),
        ("gin", 50_471),
        ("sage", 737_543),
        ("mlp", 384_307),
        ("full_gin", 56_999),
    ],
)
def test_parameter_counts_on_cora(name, parameters):
    assert count(models.model_config(name, 7), 1433) == parameters


@pytest.mark.parametrize(("name", "untrained"), [("gcn", 23), ("full_gcn", 0), ("full_gin", 6528)])
def test_parameters_without_a_gradient(name, untrained):
    config = models.model_config(name, 7)
    params = jax.eval_shape(
        functools.partial(models.init_variables, config, num_features=1433), jax.random.key(0)
    )["params"]
    mask = models.trainable(config, params)
    left_out = [x.size for x, t in zip(*map(jax.tree.leaves, (params, mask)), strict=True) if not t]
    # Three unused convolutions of 2 (32 * 32 + 32) and three unused norms of 64.
    assert sum(left_out) == untrained


def graph_arrays():
    edges = random_edges(NUM_NODES - 2, 14, seed=3)
    features = np.random.default_rng(0).normal(size=(NUM_NODES, NUM_FEATURES))
    return edges, features.astype(np.float32)


@functools.cache
def variables_and_apply(name):
    config = models.model_config(name, NUM_CLASSES)
    variables = init_variables(config, jax.random.key(1), NUM_FEATURES)
    module = models.build(config)
    apply = jax.jit(lambda graph: module.apply(variables, graph, train=False))
    return config, variables, apply


@pytest.mark.parametrize("name", models.MODELS)
def test_a_jraph_graph_and_blocks_give_the_same_logits(name):
    config, _, apply = variables_and_apply(name)
    edges, features = graph_arrays()
    senders, receivers = jnp.asarray(edges)
    graph = jraph.GraphsTuple(
        nodes=jnp.asarray(features),
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=jnp.array([NUM_NODES]),
        n_edge=jnp.array([edges.shape[1]]),
    )
    links = EdgeLinks(senders, receivers, None, NUM_NODES, is_sorted=True)
    if isinstance(config, models.GCNConfig):
        links = symmetric_weights(links)
    blocks = whole_graph(jnp.asarray(features), links, config.num_layers)
    logits = apply(blocks)
    assert logits.shape == (NUM_NODES, NUM_CLASSES)
    np.testing.assert_allclose(apply(graph), logits, atol=1e-5)
    gathered = models.gather_first(config, links, blocks.features)
    if gathered is not None:
        np.testing.assert_allclose(apply(blocks.replace(aggregate=gathered)), logits, atol=1e-5)


def test_a_node_without_neighbours_gets_zero_logits_from_the_batch_gcn():
    config, _, apply = variables_and_apply("gcn")
    edges, features = graph_arrays()
    links = symmetric_weights(EdgeLinks(*jnp.asarray(edges), None, NUM_NODES, is_sorted=True))
    logits = apply(whole_graph(jnp.asarray(features), links, config.num_layers))
    isolated = np.setdiff1d(np.arange(NUM_NODES), edges[1])
    assert len(isolated) >= 2
    np.testing.assert_array_equal(np.asarray(logits)[isolated], 0)


def test_initial_weights_are_in_the_official_ranges():
    sage = init_variables(models.model_config("sage", 7), jax.random.key(0), 400)["params"]
    kernel = np.abs(sage["conv0"]["neighbour_kernel"])
    assert 0.99 / 20 < kernel.max() <= 1 / 20
    assert 0 < np.abs(sage["conv0"]["neighbour_bias"]).max() <= 1 / 20
    gat = init_variables(models.model_config("gat", 7), jax.random.key(0), 400)["params"]
    glorot, attention = np.sqrt(6 / (400 + 64)), np.sqrt(6 / (8 + 8))
    assert 0.99 * glorot < np.abs(gat["conv0"]["kernel"]).max() <= glorot
    assert 0.9 * attention < np.abs(gat["conv0"]["source_attention"]).max() <= attention
    assert not np.any(gat["conv0"]["bias"])


@pytest.mark.parametrize("name", ["gcn", "gat", "sage", "gin"])
def test_dropout_acts_in_train_mode_only(name):
    config, variables, apply = variables_and_apply(name)
    edges, features = graph_arrays()
    links = symmetric_weights(EdgeLinks(*jnp.asarray(edges), None, NUM_NODES, is_sorted=True))
    blocks = whole_graph(jnp.asarray(features), links, config.num_layers)
    module = models.build(config)

    @jax.jit
    def train(key):
        return module.apply(
            variables, blocks, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )[0]

    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(train(jax.random.key(0)), first)
    np.testing.assert_array_equal(apply(blocks), apply(blocks))


def test_unknown_models_are_refused():
    with pytest.raises(InvalidInputError, match="unknown model 'gnc'; there are gcn, gat"):
        models.model_config("gnc", 7)
    with pytest.raises(InvalidInputError, match="num_classes must be at least 2, got 1"):
        models.model_config("gcn", 1)
