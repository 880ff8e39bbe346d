"""GraphEraser, host side: splits, partitions, shards, unlearning, aggregation, attack."""

import numpy as np

from lab.papers.graph_unlearning.balanced_kmeans import assignment_kmeans, balanced_kmeans, kmeans
from lab.papers.graph_unlearning.data import split_nodes, thin_edges, training_graph
from lab.papers.graph_unlearning.label_propagation import (
    balanced_label_propagation,
    label_propagation,
)
from lab.papers.graph_unlearning.linear_program import desired_moves, plan_moves
from lab.papers.graph_unlearning.partition import (
    intra_shard_edges,
    labels_by_node,
    random_labels,
    size_limit,
)


def balanced_init(entry):
    config = entry.config
    rng = np.random.RandomState(config["seed"])
    return {"input/init_labels": random_labels(config["num_nodes"], config["num_shards"], rng)}


def shard_size_limit(entry):
    config = entry.config
    numbers = (config["num_nodes"], config["num_shards"], config["shard_size_delta"])
    return {"input/threshold": np.asarray(size_limit(*numbers))}


def blpa(entry):
    edges = np.stack(np.nonzero(entry.arrays["input/adj"])[::-1])
    return _blpa(entry, edges)


def blpa_dataset(entry):
    graph = _dataset_training_graph(entry)
    result = _blpa(entry, graph.edge_index)
    key = f"output/{entry.config['ties']}/intra_shard_edges"
    if key in entry.expected:
        last = result[f"output/{entry.config['ties']}/labels_iter{entry.config['max_iterations']}"]
        result[key] = np.asarray(intra_shard_edges(graph.edge_index, last))
    return result


def _blpa(entry, edges):
    config = entry.config
    assert config["order"] == "stable ascending, reversed"
    ties = {"first": "first", "numpy_rng": "random"}[config["ties"]]
    result = balanced_label_propagation(
        edges,
        entry.arrays["input/init_labels"],
        config["num_shards"],
        config["size_limit"],
        np.random.RandomState(config["tie_seed"]) if ties == "random" else None,
        max_iterations=config["max_iterations"],
        terminate_delta=config["terminate_delta"],
        ties=ties,
        isolated={"shard 0": "shard0", "stay": "stay"}[config["isolated"]],
        keep_rounds=tuple(config["label_iterations"]),
    )
    values = {"labels": result.labels, "deltas": result.deltas}
    values |= {f"labels_iter{rounds}": kept for rounds, kept in result.history.items()}
    prefixed = {f"output/{config['ties']}/{name}": value for name, value in values.items()}
    return {key: value for key, value in prefixed.items() if key in entry.expected}


def lpa_unconstrained(entry):
    order, edges = entry.arrays["input/node_order"], entry.arrays["input/edge_index"]
    graph = training_graph(edges, order, entry.config["num_nodes"])
    labels = label_propagation(graph.edge_index, graph.num_nodes)
    return {
        "output/labels": labels_by_node(graph, labels),
        "output/num_communities": np.asarray(labels.max() + 1),
    }


def bekm(entry):
    return _kept(entry, _bekm(entry))


def bekm_dataset(entry):
    values = _bekm(entry)
    edges = _dataset_training_graph(entry).edge_index
    kept = intra_shard_edges(edges, values["output/labels"])
    return _kept(entry, values | {"output/intra_shard_edges": np.asarray(kept)})


def _bekm(entry):
    config = entry.config
    result = balanced_kmeans(
        entry.arrays["input/embedding"],
        entry.arrays["input/init_centroid_index"],
        config["size_limit"],
        max_iterations=config["max_iterations"],
        terminate_delta=config["terminate_delta"],
    )
    return {
        "output/labels_iter1": result.first_labels,
        "output/labels": result.labels,
        "output/order": result.order,
        "output/centroids": result.centroids,
        "output/deltas": result.deltas,
    }


def kmeans_from_centroids(entry):
    result = kmeans(
        entry.arrays["input/embedding"],
        entry.arrays["input/init_centroid_index"],
        max_iterations=entry.config["max_iterations"],
        tolerance=entry.config["tol"],
    )
    return {"output/unbalanced/inertia": result.cost}


def assignment(entry):
    objective = entry.config["objective"]
    result = assignment_kmeans(
        entry.arrays["input/embedding"],
        entry.arrays["input/init_centroid_index"],
        objective=objective,
        max_iterations=entry.config["iterations"],
    )
    name = {"min": "base_min", "max": "base_official_max"}[objective]
    return {f"output/{name}/cost_iter1": result.cost}


def blp_lp(entry):
    config, labels = entry.config, entry.arrays["input/init_labels"]
    official = config["constraint"] == "official"
    edges = np.stack(np.nonzero(entry.arrays["input/adj"])[::-1])
    moves = desired_moves(edges, labels, config["num_shards"], official=official)
    sizes = np.bincount(labels, minlength=config["num_shards"])
    plan = plan_moves(moves, sizes, config["size_limit"], official=official)
    return {"output/desired_moves": moves, "output/lp_objective_iter1": plan.objective}


def train_graph(entry):
    config, graph = entry.config, _dataset_training_graph(entry)
    rng = np.random.RandomState(config["init_seed"])
    labels = random_labels(graph.num_nodes, config["num_shards"], rng)
    limit = size_limit(graph.num_nodes, config["num_shards"], config["shard_size_delta"])
    return {
        "train_graph_num_edges": np.asarray(graph.edge_index.shape[1] // 2),
        "train_graph_num_isolated": np.asarray(graph.num_isolated()),
        "random_intra_shard_edges": np.asarray(intra_shard_edges(graph.edge_index, labels)),
        "blpa/input/train_nodes": graph.node_ids,
        "blpa/input/init_labels": labels,
        "blpa/input/threshold": np.asarray(limit),
    }


def _dataset_training_graph(entry):
    config = entry.config
    data = np.load(entry.data_path(config["data"]["graph"]))
    num_nodes = len(data["y"])
    train, _ = split_nodes(num_nodes, config["test_ratio"], config["split_seed"])
    return training_graph(data["edge_index"].astype(np.int32), train, num_nodes)


def train_test_split(entry):
    config = entry.config
    train, test = split_nodes(config["num_nodes"], config["test_ratio"], config["seed"])
    return {"train": train, "test": test}


def edge_thinning(entry):
    rng = np.random.RandomState(entry.config["seed"])
    edges = entry.other("graph")["edge_index"]
    return {"output/edge_index": thin_edges(edges, entry.config["ratio_deleted"], rng)}


def random_partition(entry):
    config, edges = entry.config, entry.arrays["input/edge_index"]
    train, test = split_nodes(config["num_nodes"], config["test_ratio"], config["split_seed"])
    graph = training_graph(edges, train, config["num_nodes"])
    rng = np.random.RandomState(config["seed"])
    labels = random_labels(graph.num_nodes, config["num_shards"], rng)
    pairs = graph.node_ids[graph.edge_index].T
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return {
        "output/train_indices": train,
        "output/test_indices": test,
        "output/train_graph_nodes": graph.node_ids,
        "output/train_graph_edges": pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))],
        "output/random_labels": labels_by_node(graph, labels),
    }


def _kept(entry, values):
    return {key: value for key, value in values.items() if key in entry.expected}


KINDS = {
    "balanced_init": balanced_init,
    "size_limit": shard_size_limit,
    "blpa": blpa,
    "blpa_dataset": blpa_dataset,
    "lpa_unconstrained": lpa_unconstrained,
    "bekm": bekm,
    "bekm_dataset": bekm_dataset,
    "kmeans_from_centroids": kmeans_from_centroids,
    "assignment_kmeans": assignment,
    "blp_lp": blp_lp,
    "train_graph": train_graph,
    "train_test_split": train_test_split,
    "edge_thinning": edge_thinning,
    "random_partition": random_partition,
}
