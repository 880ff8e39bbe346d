"""GraphEraser after the partition: shards, unlearning, aggregation, attack."""

import jax
import numpy as np

from lab.metrics.classification import macro_f1, micro_f1
from lab.papers.graph_unlearning import aggregation
from lab.papers.graph_unlearning.attack import membership_auc, posterior_distances
from lab.papers.graph_unlearning.requests import (
    delete_edges,
    delete_nodes,
    draw_request,
    sharded_graph,
)
from lab.papers.graph_unlearning.shards import shard_data
from lab.papers.graph_unlearning.timing import unlearning_time


def shards(entry):
    labels, test_ids = entry.other("labels"), entry.other("test_indices")
    return _shards(entry, entry.arrays["input/edge_index"], labels, test_ids)


def _shards(entry, edge_index, labels, test_ids):
    values = {}
    for k in range(entry.config["num_shards"]):
        shard = shard_data(edge_index, labels, test_ids, k)
        for name in ("node_ids", "edge_index", "train_mask", "test_mask"):
            values[f"output/shard{k}/{name}"] = getattr(shard, name)
    return {key: value for key, value in values.items() if key in entry.expected}


def _sharded_graph(edge_index, labels, num_shards):
    train, test = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    return sharded_graph(edge_index, labels, train, test, num_shards)


def node_unlearning(entry):
    assert not entry.config["repartition"]
    edges, labels = entry.other("graph")["edge_index"], entry.other("labels")
    graph = _sharded_graph(edges, labels, entry.config["num_shards"])
    after, effect = delete_nodes(graph, entry.arrays["input/nodes"])
    return {
        "output/affected_shards": effect.affected_shards,
        "output/retrained_shards": effect.retrained_shards,
        "output/num_unlearned_directed_edges": np.asarray(effect.num_removed_edges),
        **_shards(entry, after.edge_index, after.labels, entry.other("test_indices")),
    }


def edge_unlearning(entry):
    pairs = entry.arrays["input/edges"]
    both_ways = np.concatenate([pairs, pairs[::-1]], axis=1)
    graph = _sharded_graph(both_ways, entry.other("labels"), entry.config["num_shards"])
    _, effect = delete_edges(graph, pairs)
    names = ("same shard", "cross shard", "touches a test node")
    kinds = np.asarray([entry.config["kinds"].index(names[kind]) for kind in effect.edge_kinds])
    return {"output/affected_shards": effect.affected_shards, "output/kind": kinds}


def unlearning_time_of_samples(entry):
    assert entry.config["std"] == "population"
    shard_of_sample = entry.other("labels")[entry.arrays["input/sampled_nodes"]]
    # The file lists the times by shard.
    time = unlearning_time(entry.arrays["input/shard_seconds"], np.sort(shard_of_sample))
    return {
        "output/per_request_seconds": time.per_request_seconds,
        "output/mean": time.mean_seconds,
        "output/std": time.std_seconds,
    }


def unlearning_request(entry):
    config = entry.config
    members = [entry.arrays[f"input/shard{k}"] for k in range(config["num_shards"])]
    rng = np.random.RandomState(config["seed"])
    return {f"output/{config['kind']}": draw_request(members, config["num"], config["kind"], rng)}


def lbaggr(entry):
    config = entry.config
    assert config["double_softmax"]
    assert config["keep_last_batch"]
    assert (config["b1"], config["b2"], config["eps"], config["clip_min"]) == (0.9, 0.999, 1e-8, 0)
    fit = aggregation.fit_lbaggr(
        entry.arrays["input/opt_logprob"],
        entry.arrays["input/opt_labels"],
        entry.arrays["input/epoch_order"],
        aggregation.LBAggrConfig(
            learning_rate=config["lr"],
            batch_size=config["batch_size"],
            num_epochs=config["epochs"],
            norm_coefficient=config["norm_coefficient"],
        ),
    )
    values = {
        "output/weights_per_epoch": _where_finite(entry, "weights_per_epoch", fit),
        "output/loss_sum_per_epoch": _where_finite(entry, "loss_sum_per_epoch", fit),
        "output/best_finite_epoch": fit.best_epoch,
        "output/weights_finite_best": fit.weights,
        "output/best_epoch": fit.official_best_epoch,
        "output/weights": fit.official_weights,
    }
    return {key: np.ma.asarray(value) for key, value in values.items() if key in entry.expected}


def _where_finite(entry, name, fit):
    """The official numbers are NaN once all weights are 0; ours stay, and are not compared."""
    finite = np.isfinite(entry.arrays[f"output/{name}"])
    return np.ma.array(np.asarray(getattr(fit, name)), mask=~finite)


def lbaggr_loss(entry):
    rows = entry.config["rows"]
    log_probs = entry.arrays["input/opt_logprob"][:, :rows]
    labels = entry.arrays["input/opt_labels"][:rows]
    loss, gradient = jax.jit(jax.value_and_grad(aggregation.lbaggr_loss))(
        entry.arrays["input/loss_check_weights"],
        log_probs,
        labels,
        norm_coefficient=entry.config["norm_coefficient"],
    )
    return {"output/loss_check": loss, "output/loss_check_grad": gradient}


def aggregate_predictions(entry):
    log_probs, labels = entry.arrays["input/test_logprob"], entry.arrays["input/test_labels"]
    weights = entry.arrays[entry.config["lbaggr_weights"]]
    scores = {
        "mean": aggregation.mean_log_probs(log_probs),
        "meanprob": aggregation.mean_probs(log_probs),
        "majority": aggregation.votes(log_probs),
        "lbaggr": aggregation.weighted_log_probs(log_probs, weights),
    }
    chosen = {name: np.asarray(aggregation.predict(score)) for name, score in scores.items()}
    values = {f"output/f1_{name}": micro_f1(chosen[name], labels) for name in chosen}
    num_classes = entry.config["num_classes"]
    values["output/f1_macro_mean"] = macro_f1(chosen["mean"], labels, num_classes)
    for name, prediction in chosen.items():
        tied = entry.config["tied_rows"].get(f"pred_{name}", [])
        mask = np.isin(np.arange(len(labels)), tied)
        values[f"output/pred_{name}"] = np.ma.array(prediction, mask=mask)
    return {key: value for key, value in values.items() if key in entry.expected}


def membership_attack(entry):
    members = posterior_distances(entry.other("pos_before"), entry.other("pos_after"))
    others = posterior_distances(entry.other("neg_before"), entry.other("neg_after"))
    name = {"after": "after", "after_repartition": "repartition"}[entry.config["after"]]
    values = {
        f"output/auc_{name}": membership_auc(members, others),
        "output/l2_pos": members,
        "output/l2_neg": others,
    }
    return {key: value for key, value in values.items() if key in entry.expected}


KINDS = {
    "shard_data": shards,
    "node_unlearning": node_unlearning,
    "edge_unlearning": edge_unlearning,
    "unlearning_time": unlearning_time_of_samples,
    "unlearning_request": unlearning_request,
    "lbaggr": lbaggr,
    "lbaggr_loss": lbaggr_loss,
    "aggregate_predictions": aggregate_predictions,
    "membership_attack": membership_attack,
}
