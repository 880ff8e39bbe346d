import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.graph import EdgeLinks, symmetric_weights, whole_graph
from lab.papers.graph_unlearning import models
from lab.papers.graph_unlearning.losses import node_loss
from lab.papers.graph_unlearning.steps import (
    NodeBatch,
    OptimizerConfig,
    make_node_step,
    make_optimizer,
)
from lab.train.state import state_of

init_variables = jax.jit(models.init_variables, static_argnums=(0, 2))


def test_the_loss_is_the_mean_over_masked_nodes():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels, mask = np.array([0, 2, 1, 1]), np.array([True, False, True, False])
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(log_probs[0, 0] + log_probs[2, 1]) / 2
    np.testing.assert_allclose(node_loss(logits, labels, mask), expected, rtol=1e-5)
    assert node_loss(logits, labels, np.zeros(4, bool)) == 0


def one_step(name, optimizer, features):
    config = models.model_config(name, 2)
    variables = init_variables(config, jax.random.key(0), features.shape[1])
    variables["params"] = jax.tree.map(lambda x: x + 0.1, variables["params"])
    links = EdgeLinks(jnp.array([1, 0]), jnp.array([0, 1]), None, 3, is_sorted=True)
    graph = whole_graph(jnp.asarray(features), symmetric_weights(links), config.num_layers)
    batch = NodeBatch(graph, jnp.array([0, 1, 0]), jnp.array([True, True, False]))
    state = state_of(variables, make_optimizer(config, optimizer), jax.random.key(1))
    after, metrics = jax.jit(make_node_step(config, optimizer))(state, batch)
    return state, after, metrics


def test_l2_is_part_of_the_gradient_and_spares_what_gets_none():
    # All features are zero, so the loss's gradient of every kernel is zero: L2 alone moves them,
    # by Adam's first step, which is the learning rate against the sign of the weight.
    before, after, _ = one_step("gcn", OptimizerConfig(0.05, 0.01), np.zeros((3, 4), np.float32))
    for layer in ("conv0", "conv1"):
        kernel = before.params[layer]["kernel"]
        expected = kernel - 0.05 * np.sign(kernel)
        np.testing.assert_allclose(after.params[layer]["kernel"], expected, rtol=1e-3)
        np.testing.assert_array_equal(after.params[layer]["bias"], before.params[layer]["bias"])


def test_without_l2_nothing_moves_where_there_is_no_gradient():
    before, after, metrics = one_step("gcn", OptimizerConfig(0.05), np.zeros((3, 4), np.float32))
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-6)
    assert metrics["accuracy"] == 0.5
    assert after.step == 1


def test_bad_optimizers_are_refused():
    model = models.model_config("gcn", 2)
    with pytest.raises(InvalidInputError, match="learning_rate must be positive, got 0"):
        make_optimizer(model, OptimizerConfig(0.0))
    with pytest.raises(InvalidInputError, match=r"l2 must not be negative, got -0\.1"):
        make_optimizer(model, OptimizerConfig(0.1, -0.1))
