"""What is varied on the first data set with the first model, and the membership attack."""

import dataclasses
import functools
import time

import jax
import numpy as np

from experiments.graph_unlearning import Config
from experiments.graph_unlearning.study import (
    Problem,
    kept_edges,
    learned_weights,
    load_problem,
    partitions_of,
    scores,
    time_requests,
    train_repeats,
    training_of,
)
from lab.metrics.classification import micro_f1
from lab.papers import graph_unlearning as gu

METHOD = "blpa"


def _first(config: Config) -> tuple[str, str]:
    return config.datasets[0], config.models[0]


def _few(config: Config) -> int:
    return config.sweeps.repeats


def measure_num_shards(config: Config, data_dir) -> list[dict]:
    """C7: F1 and the warm time of a request for every number of shards."""
    name, model = _first(config)
    problem = load_problem(name, config, data_dir)
    training, rows = training_of(config, model, problem), []
    for num_shards in config.sweeps.num_shards:
        graphs = partitions_of(problem, METHOD, config, _few(config), num_shards=num_shards).graphs
        trained = train_repeats(problem, training, graphs, config.seed)
        weights = learned_weights(problem, trained, config.seed)
        f1 = scores(problem, trained, weights)
        timed = time_requests(config, name, model, METHOD, data_dir, num_shards)
        rows.append({"num_shards": num_shards, "f1": f1, "seconds": timed["request_seconds"]})
    return rows


def measure_deltas(config: Config, data_dir) -> list[dict]:
    """F1, kept edges and largest shard for every slack of the size limit."""
    name, model = _first(config)
    problem = load_problem(name, config, data_dir)
    training, rows = training_of(config, model, problem), []
    for delta in config.sweeps.shard_size_deltas:
        options = gu.PartitionOptions(shard_size_delta=delta)
        graphs = partitions_of(problem, METHOD, config, _few(config), options=options).graphs
        trained = train_repeats(problem, training, graphs, config.seed)
        rows.append(
            {
                "delta": delta,
                "f1": scores(problem, trained),
                "kept_edges": [kept_edges(g) for g in graphs],
                "largest": [int(g.shard_sizes().max()) for g in graphs],
            }
        )
    return rows


def measure_lbaggr_nodes(config: Config, data_dir) -> list[dict]:
    """C9: F1 of the learned aggregator for every number of optimisation nodes."""
    name, model = _first(config)
    problem = load_problem(name, config, data_dir)
    graphs = partitions_of(problem, METHOD, config, config.repeats).graphs
    trained = train_repeats(problem, training_of(config, model, problem), graphs, config.seed)
    rows = []
    for size in config.sweeps.lbaggr_nodes:
        start = time.perf_counter()
        weights = learned_weights(problem, trained, config.seed, size)
        seconds = time.perf_counter() - start
        f1 = scores(problem, trained, weights)["lbaggr"]
        rows.append({"size": size, "f1": f1, "seconds": seconds})
    return rows


def measure_edge_ratios(config: Config, data_dir) -> list[dict]:
    """F1 from scratch and of the shards, for every share of edges deleted beforehand."""
    name, model = _first(config)
    rows = []
    for ratio in config.sweeps.edge_ratios:
        problem = load_problem(name, config, data_dir, ratio)
        training = training_of(config, model, problem)
        row = {"ratio": ratio}
        for method in ("scratch", METHOD):
            graphs = partitions_of(problem, method, config, _few(config)).graphs
            trained = train_repeats(problem, training, graphs, config.seed)
            row[method] = scores(problem, trained)["mean"]
        rows.append(row)
    return rows


@functools.lru_cache(maxsize=2)
def fitted(config: Config, data_dir) -> gu.Ensemble:
    """One ensemble with the mean aggregator: what requests are sent to."""
    name, model = _first(config)
    problem = load_problem(name, config, data_dir)
    setup = gu.EnsembleConfig(
        model=model,
        num_shards=problem.num_shards,
        method=METHOD,
        aggregator="mean",
        features=config.features,
        test_ratio=config.test_ratio,
        num_epochs=config.num_epochs,
        num_neighbours=config.num_neighbours,
        dropout_first_epoch_only=config.dropout_first_epoch_only,
        seed=config.seed,
    )
    return gu.fit(problem.dataset, setup)


def measure_deletions(config: Config, data_dir) -> list[dict]:
    """Warm seconds and F1 of one request for 1, 10, 100 ... nodes, of each distribution."""
    ensemble, rows = fitted(config, data_dir), []
    truth = ensemble.labels[np.sort(ensemble.graph.test_ids)]
    for kind in ("random", "top1", "adaptive", "last5"):
        for num in config.sweeps.deletions:
            if num > max(len(m) for m in ensemble.graph.members()) and kind == "top1":
                continue
            rng = np.random.default_rng(config.seed)
            nodes = gu.draw_request(ensemble.graph.members(), num, kind, rng)
            gu.unlearn(ensemble, nodes=nodes)  # compiles
            after, receipt = gu.unlearn(ensemble, nodes=nodes)
            rows.append(
                {
                    "kind": kind,
                    "num": num,
                    "shards": len(receipt.effect.retrained_shards),
                    "train_seconds": receipt.train_seconds,
                    "seconds": receipt.seconds,
                    "f1": float(micro_f1(truth, gu.predict(after))),
                }
            )
    return rows


def measure_attack(config: Config, data_dir) -> dict:
    """C8: does the change of the posterior tell unlearned nodes from never-trained ones?

    A: before and after unlearning; B: before, and after unlearning with a new partition. And what
    changed: distance of parameters, accuracy on the forgotten and on the test nodes, beside an
    ensemble that never saw the nodes.
    """
    problem = load_problem(_first(config)[0], config, data_dir)
    before = fitted(config, data_dir)
    rng = np.random.default_rng(config.seed + 1)
    num = min(config.attack_requests, len(before.graph.train_ids) // 4)
    members = gu.draw_request(before.graph.members(), num, "random", rng)
    others = gu.draw_negatives(before.graph.test_ids, num, rng)
    after, _ = gu.unlearn(before, nodes=members)
    again, _ = gu.unlearn(before, nodes=members, repartition=True)
    reference = _never_saw(before, after)
    queries = np.concatenate([members, others])
    rows = {
        name: query_posteriors(problem, ensemble, queries)
        for name, ensemble in {"before": before, "after": after, "again": again}.items()
    }
    results = {"num": num}
    for name in ("after", "again"):
        result = gu.membership_attack(
            rows["before"][:num], rows[name][:num], rows["before"][num:], rows[name][num:], rng
        )
        results[name] = {"auc": result.auc, "interval": result.interval}
    ensembles = {"before": before, "after": after, "again": again, "never saw": reference}
    results["state"] = {
        name: _state(problem, ensemble, before, members) for name, ensemble in ensembles.items()
    }
    return results


def _never_saw(before: gu.Ensemble, after: gu.Ensemble) -> gu.Ensemble:
    """Every shard trained anew on what is left: the reference for what unlearning should give."""
    stack = gu.stack_shards(
        after.graph.edge_index,
        after.graph.labels,
        after.graph.test_ids,
        range(after.graph.num_shards),
        train_shape=before.train_shape,
        inference_shape=before.inference_shape,
    ).train
    states, _ = gu.train_shards(
        after.training,
        after.features,
        after.labels,
        stack,
        gu.shard_keys(after.config.seed, range(after.graph.num_shards)),
        num_columns=after.num_columns,
    )
    variables = jax.tree.map(np.asarray, gu.variables_of(states))
    return dataclasses.replace(after, variables=variables)


def _state(problem: Problem, ensemble: gu.Ensemble, before: gu.Ensemble, members) -> dict:
    difference = jax.tree.map(
        lambda a, b: float(np.square(a - b).sum()), ensemble.variables, before.variables
    )
    forgotten = query_posteriors(problem, ensemble, members).argmax(axis=1)
    return {
        "parameter_distance": float(np.sqrt(sum(jax.tree.leaves(difference)))),
        "forget_f1": float(micro_f1(ensemble.labels[members], forgotten)),
        "test_f1": float(micro_f1(problem.truth, gu.predict(ensemble))),
    }


def query_posteriors(problem: Problem, ensemble: gu.Ensemble, nodes: np.ndarray) -> np.ndarray:
    """Mean log-probabilities of nodes, each on a shard's train nodes and itself: [k, C].

    Edges and features are those before any deletion: whoever asks about a node knows it.
    """
    num_shards = ensemble.graph.num_shards
    stack = gu.stack_queries(problem.edge_index, ensemble.graph.labels, nodes, num_shards)
    models = np.tile(np.arange(num_shards), len(nodes))
    variables = jax.tree.map(lambda x: x[models], ensemble.variables)
    logits = gu.shard_logits(ensemble.training, variables, problem.features, stack)
    rows = gu.posteriors(logits, stack.test_mask)
    return rows.reshape(len(nodes), num_shards, -1).mean(axis=1)
