"""DACFL x graph unlearning: users train one graph network, each holding a shard of the graph.

python -m experiments.compositions.graph_over_network
"""

import dataclasses
import functools

import jax
import numpy as np

from experiments.compositions.launch import launch
from experiments.compositions.ring import ring, users_table
from lab.data.embedded import generated_citations
from lab.metrics.classification import micro_f1
from lab.papers import dacfl, graph_unlearning
from lab.papers.graph_unlearning.minibatches import whole_batch
from lab.papers.graph_unlearning.models import init_variables
from lab.papers.graph_unlearning.steps import OPTIMIZERS, make_loss, make_optimizer
from lab.report import Result, Run

TITLE = "A graph model over a network"
SUMMARY = "DACFL's users each hold a shard that graph unlearning cut, and agree on one GCN."


@dataclasses.dataclass(frozen=True)
class Config:
    """How large the graph, how many users, how long."""

    num_nodes: int = 800
    """Nodes of the generated citation graph."""
    num_users: int = 8
    """Users on a ring, as many as shards."""
    num_rounds: int = 200
    """Rounds of DACFL, a step each."""
    learning_rate: float = 0.3
    """Times that of graph unlearning's own optimizer."""
    algorithms: tuple[str, ...] = ("dacfl", "local", "centralised")
    """Of `dacfl.ALGORITHMS`, on the same batches."""
    seed: int = 0
    """Of partition, initialisation and training."""


def main(config: Config, run: Run) -> Result:
    """Trains the users, and GraphEraser's ensemble on the same shards for comparison."""
    dataset = generated_citations(num_nodes=config.num_nodes)
    settings = graph_unlearning.EnsembleConfig(
        model="gcn", num_shards=config.num_users, aggregator="mean", seed=config.seed
    )
    ensemble = graph_unlearning.fit(dataset, settings)
    graph, model = ensemble.graph, graph_unlearning.model_config("gcn", dataset.num_classes)
    batch_of = functools.partial(whole_batch, model, ensemble.features, ensemble.labels)
    held = graph_unlearning.stack_shards(
        graph.edge_index, graph.labels, graph.test_ids, range(graph.num_shards)
    )
    in_one_place = np.where(graph.labels >= 0, 0, -1)
    whole = graph_unlearning.stack_shards(graph.edge_index, in_one_place, graph.test_ids, [0])
    tested = whole.inference.select(0)
    done = dacfl.simulate(
        config.algorithms,
        make_loss(graph_unlearning.build(model)),
        init_variables(model, jax.random.key(config.seed), dataset.num_features)["params"],
        dacfl.federated_data(
            jax.vmap(batch_of)(held.train),
            None,
            ring(config.num_users),
            batch_of(tested).replace(mask=tested.test_mask),
        ),
        dacfl.Protocol(
            config.num_rounds, learning_rate=dacfl.LearningRate(config.learning_rate, 1.0)
        ),
        jax.random.key(config.seed),
        evaluate=dacfl.loss_evaluation(make_loss(graph_unlearning.build(model), train=False)),
        tx=make_optimizer(model, OPTIMIZERS["gcn"]),
    )
    truth = ensemble.labels[np.sort(graph.test_ids)]
    averaged = float(micro_f1(graph_unlearning.predict(ensemble), truth))
    table = users_table(
        "Test nodes of the whole graph",
        done,
        "accuracy",
        "accuracy",
        is_loss=False,
        others=[("GraphEraser: a model a shard, averaged", averaged)],
    )
    return Result(TITLE, SUMMARY, tables=[table])


if __name__ == "__main__":
    raise SystemExit(launch("graph_over_network"))
