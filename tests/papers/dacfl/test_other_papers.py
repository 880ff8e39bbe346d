"""Federated rounds train a model of another paper: each user holds a graph of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.data.embedded import generated_citations
from lab.nn.graph import EdgeLinks, whole_graph
from lab.papers import dacfl
from lab.papers.graph_unlearning import models
from lab.papers.graph_unlearning.steps import NodeBatch, make_loss

NUM_USERS, NUM_NODES, NUM_ROUNDS = 4, 100, 30
MODEL = models.GINConfig(num_classes=5, hidden=(8, 8), classifier_hidden=8)


def user_graphs():
    """Four parts of a citation graph as one NodeBatch with a leading users axis, padded."""
    whole = generated_citations(num_nodes=NUM_USERS * NUM_NODES)
    graphs = []
    for user in range(NUM_USERS):
        sources, targets = whole.edge_index - user * NUM_NODES
        inside = (np.minimum(sources, targets) >= 0) & (np.maximum(sources, targets) < NUM_NODES)
        links = np.full((2, 600), NUM_NODES, np.int32)  # padding leads to a node that is not there
        links[:, : inside.sum()] = sources[inside], targets[inside]
        links[0] = np.minimum(links[0], NUM_NODES - 1)
        nodes = slice(user * NUM_NODES, (user + 1) * NUM_NODES)
        edges = EdgeLinks(jnp.asarray(links[0]), jnp.asarray(links[1]), None, NUM_NODES)
        graph = whole_graph(jnp.asarray(whole.features[nodes]), edges, MODEL.num_layers)
        graphs.append(NodeBatch(graph, jnp.asarray(whole.labels[nodes]), jnp.ones(NUM_NODES, bool)))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *graphs)


def test_users_train_a_graph_network_with_batch_statistics():
    graphs, module = user_graphs(), models.build(MODEL)
    first = jax.tree.map(lambda x: x[0], graphs)
    init = jax.jit(lambda key: module.init(key, first.graph, train=False))
    variables = dict(init(jax.random.key(0)))
    params = variables.pop("params")
    network = dacfl.draw_network(
        dacfl.NetworkConfig(dacfl.TopologyConfig("ring")), NUM_USERS, 0, NUM_ROUNDS
    )
    data = dacfl.federated_data(graphs, None, network)
    done = dacfl.simulate(
        "dacfl",
        make_loss(module),
        params,
        data,
        dacfl.Protocol(NUM_ROUNDS, 1, learning_rate=dacfl.LearningRate(0.02)),
        jax.random.key(1),
        tx=optax.adam(1.0),
        model_state=variables,
    )
    history = done.history["dacfl"]
    assert history["loss"][-3:].mean() < 0.85 * history["loss"][:3].mean()
    assert history["accuracy"][-1] > history["accuracy"][0]
    assert history["gap"].max() < 1e-5
    moved = done.states["dacfl"].model_state["batch_stats"]
    before = variables["batch_stats"]
    assert any(
        np.abs(a - b).max() > 0
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(before), strict=True)
    )
