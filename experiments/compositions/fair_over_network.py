"""DACFL x RELIANT x graph unlearning: users agree on a graph student that is fair in each of them.

python -m experiments.compositions.fair_over_network
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compositions.launch import launch
from experiments.compositions.ring import of_users, ring
from lab.papers import dacfl, graph_unlearning, reliant
from lab.papers.graph_unlearning.minibatches import whole_batch
from lab.papers.graph_unlearning.models import init_variables
from lab.papers.graph_unlearning.steps import OPTIMIZERS, make_optimizer
from lab.papers.reliant.generated import biased_graph
from lab.papers.reliant.losses import soft_target_loss
from lab.report import Measurement, Result, Run, Table
from lab.train.state import Aux

TITLE = "Fairness over a network"
SUMMARY = "DACFL's users distil a GCN with RELIANT's penalty on the bias that each of them sees."
COLUMNS = ("weight of the bias", "the bias users see", "accuracy", "delta-SP", "delta-EO")


@dataclasses.dataclass(frozen=True)
class Config:
    """How large the graph, how many users, how long."""

    num_nodes: int = 1000
    """Nodes of the generated graph, which has a bias built in."""
    num_users: int = 5
    """Users on a ring, each with a part of the graph."""
    num_rounds: int = 100
    """Rounds of DACFL."""
    alphas: tuple[float, ...] = (0.0, 1.0, 10.0)
    """Weights of the bias in the users' losses."""
    seed: int = 0
    """Of everything."""


def main(config: Config, run: Run) -> Result:
    """Trains at every weight; scores the users' models on the test nodes of the whole graph."""
    dataset = biased_graph(num_nodes=config.num_nodes)
    graph = reliant.prepare(dataset)
    teacher = reliant.teach(
        reliant.TeacherConfig("gcn", max_epochs=200), graph, jax.random.key(config.seed)
    ).knowledge
    model = graph_unlearning.model_config("gcn", dataset.num_classes)
    module = graph_unlearning.build(model)
    start = init_variables(model, jax.random.key(config.seed), dataset.num_features)["params"]
    batch_of = functools.partial(whole_batch, model, dataset.features, dataset.labels)
    held, whole = _shards(config, dataset)
    nodes = jax.vmap(batch_of)(held)
    users = {
        "nodes": nodes.replace(mask=held.train_mask & held.rows(dataset.train_mask)),
        "teacher": held.rows(teacher.log_probs),
        "groups": _groups(held, dataset.sensitive),
    }

    def loss_fn(params, model_state, batch, key):
        nodes = batch["nodes"]
        logits = module.apply({"params": params}, nodes.graph, train=True, rngs={"dropout": key})
        distance = soft_target_loss(logits, batch["teacher"], nodes.labels, nodes.mask)
        unfair = reliant.bias(jax.nn.softmax(logits), batch["groups"])
        return distance + batch["alpha"] * unfair, Aux({"bias": unfair}, model_state)

    rows, everything = [], batch_of(whole).graph
    logits_of = jax.jit(
        jax.vmap(lambda params: module.apply({"params": params}, everything, train=False))
    )
    simulation = dacfl.Simulation(
        "dacfl",
        loss_fn,
        dacfl.Protocol(config.num_rounds, learning_rate=dacfl.LearningRate(0.2, 1.0)),
        tx=make_optimizer(model, OPTIMIZERS["gcn"]),
    )
    for alpha in config.alphas:
        # A user's weight is part of its data, so that one compiled simulation serves all.
        given = users | {"alpha": np.full(config.num_users, alpha, np.float32)}
        data = dacfl.federated_data(given, None, ring(config.num_users))
        done = simulation.run(start, data, jax.random.key(config.seed))
        logits = logits_of(of_users(done, "dacfl"))[:, : dataset.num_nodes]
        found = [reliant.evaluate(one, graph, warn=False) for one in logits]
        scores = (
            Measurement.of([getattr(one, name) for one in found])
            for name in ("accuracy", "delta_sp", "delta_eo")
        )
        rows.append((alpha, float(done.history["dacfl"]["bias"][-10:].mean()), *scores))
    return Result(TITLE, SUMMARY, tables=[Table("Test nodes of the whole graph", COLUMNS, rows)])


def _shards(config: Config, dataset):
    """The users' parts of the graph as one stack, and the whole graph."""
    everyone = np.arange(dataset.num_nodes)
    training = graph_unlearning.training_graph(dataset.edge_index, everyone, dataset.num_nodes)
    parts = graph_unlearning.partition(
        training, "random", config.num_users, np.random.RandomState(config.seed)
    )
    none, numbers = np.zeros(0, np.int32), range(config.num_users)
    held = graph_unlearning.stack_shards(dataset.edge_index, parts, none, numbers)
    whole = graph_unlearning.stack_shards(dataset.edge_index, parts * 0, none, [0])
    return held.train, whole.train.select(0)


def _groups(held, sensitive: np.ndarray):
    """What each user's bias compares, with a leading axis of users."""
    of_user = [
        reliant.bias_groups(row, mask, "sp")
        for row, mask in zip(np.asarray(held.rows(sensitive)), held.train_mask, strict=True)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_user)


if __name__ == "__main__":
    raise SystemExit(launch("fair_over_network"))
