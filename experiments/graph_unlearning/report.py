"""From measurements to claims, tables and pictures."""

import dataclasses

import numpy as np

from experiments.graph_unlearning import SUMMARY, TITLE, Config, pictures, sweeps
from experiments.graph_unlearning.claims import all_claims
from experiments.graph_unlearning.study import (
    AGGREGATORS,
    embeddings_of,
    load_problem,
    measure_cell,
    time_requests,
)
from lab.papers import graph_unlearning as gu
from lab.report import Measurement, Result, Table

UNBALANCED = ("lpa", "kmeans")
SWEEPS = {
    "num_shards": sweeps.measure_num_shards,
    "deltas": sweeps.measure_deltas,
    "lbaggr_nodes": sweeps.measure_lbaggr_nodes,
    "edge_ratios": sweeps.measure_edge_ratios,
    "deletions": sweeps.measure_deletions,
    "attack": sweeps.measure_attack,
}


@dataclasses.dataclass
class Findings:
    """All measurements of a run.

    Attributes: cells, by (data set, model, method); times, by (data set, model): seconds from
      scratch and a request; unbalanced, shard sizes by method; sweeps, by name.
    """

    cells: dict[tuple[str, str, str], dict]
    times: dict[tuple[str, str], dict]
    unbalanced: dict[str, list[int]]
    sweeps: dict


def study_result(config: Config, run) -> Result:
    """Measures everything (what a killed run had measured is kept), then judges it."""
    findings = measure(config, run)
    methods = [m for m in methods_of(config, config.datasets[0]) if m != "scratch"]
    figures = [
        pictures.score_picture(config, run, findings.cells, methods),
        pictures.partition_picture(config, run),
        pictures.size_picture(config, run, findings.unbalanced, findings.cells),
        pictures.time_picture(config, run, findings.times),
        pictures.sweep_picture(config, run, findings.sweeps["num_shards"]),
        pictures.weight_picture(config, run, findings.cells),
    ]
    return Result(
        TITLE,
        SUMMARY,
        claims=all_claims(config, findings, preset=run.preset),
        tables=all_tables(config, findings),
        figures=figures,
        notes=(
            "Seconds of requests and of training from scratch are warm: compilation, which comes "
            "once a shape, is left out.",
            "The paper's full text was not available; values that could not be read are given as "
            "not available.",
        ),
    )


def methods_of(config: Config, name: str) -> list[str]:
    """The partitions of a data set; the released BEKM is shown on the first one only."""
    shows_released = config.official_bekm and "bekm" in config.methods
    released = ["bekm_released"] if shows_released and name == config.datasets[0] else []
    return ["scratch", *config.methods, *released]


def models_of(config: Config, name: str, data_dir) -> tuple[str, ...]:
    """The shard models that are trained on a data set."""
    if load_problem(name, config, data_dir).dataset.num_nodes > config.large:
        return config.large_models
    return config.models if name == config.datasets[0] else config.other_models


def measure(config: Config, run) -> Findings:
    """Every cell, time and sweep; each is a part that a resumed run need not measure again."""
    names = [(n, m) for n in config.datasets for m in models_of(config, n, run.data_dir)]
    total = sum(len(methods_of(config, n)) + 1 for n, _ in names) + len(SWEEPS) + 1
    cells, times = {}, {}
    with run.progress("graph_unlearning", total) as task:

        def part(label, compute):
            task.advance(0, now=label)
            value = run.kept(label, compute)
            task.advance(1)
            return value

        for name, model in names:
            args = (config, name, model)
            for method in methods_of(config, name):
                cells[name, model, method] = part(
                    f"{name}-{model}-{method}",
                    lambda args=args, method=method: measure_cell(*args, method, run.data_dir),
                )
            times[name, model] = part(
                f"{name}-{model}-time", lambda args=args: measure_times(*args, run.data_dir)
            )
        unbalanced = part("unbalanced", lambda: measure_unbalanced(config, run.data_dir))
        swept = {
            label: part(label, lambda compute=compute: compute(config, run.data_dir))
            for label, compute in SWEEPS.items()
        }
    return Findings(cells, times, unbalanced, swept)


def measure_times(config: Config, name: str, model: str, data_dir) -> dict:
    """Warm seconds of a request (BLPA shards) and of training from scratch."""
    scratch = time_requests(config, name, model, "scratch", data_dir)
    shards = time_requests(config, name, model, "blpa", data_dir)
    return {
        "scratch": scratch["request_seconds"],
        "request": shards["request_seconds"],
        "request_std": shards["request_std"],
        "shard_seconds": shards["shard_seconds"],
    }


def measure_unbalanced(config: Config, data_dir) -> dict[str, list[int]]:
    """Shard sizes of the partitions without a size limit."""
    problem = load_problem(config.datasets[0], config, data_dir)
    graph = gu.training_graph(problem.edge_index, problem.train_ids, problem.dataset.num_nodes)
    sizes = {}
    for method in UNBALANCED:
        rows = None
        if method in gu.EMBEDDING_METHODS:
            if "bekm" not in config.methods:
                continue  # nothing else needs the embedding
            rows, _ = embeddings_of(problem, config)
        rng = np.random.RandomState(config.seed)
        labels = gu.partition(graph, method, problem.num_shards, rng, embeddings=rows)
        sizes[method] = np.bincount(labels)[np.unique(labels)]
    return sizes


def all_tables(config: Config, found: Findings) -> list[Table]:
    """The spec's tables, computed."""
    tables = [score_table(config, found, name) for name in config.datasets]
    return [*tables, time_table(found), *sweep_tables(config, found)]


def score_table(config: Config, found: Findings, name: str) -> Table:
    """Micro-F1: mean / majority / LBAggr for every model and partition."""
    rows = []
    for (dataset, model, method), cell in found.cells.items():
        if dataset != name:
            continue
        f1 = [Measurement.of(cell["f1"][a]) for a in AGGREGATORS]
        if method == "scratch":
            f1 = [f1[0], "", ""]
        kept = Measurement.of(cell["kept_edges"])
        rows.append([model, pictures.NAMES[method], *f1, kept])
    columns = ["model", "partition", "mean", "majority", "LBAggr", "edges kept"]
    return Table(f"Micro-F1 on {name}", columns, rows)


def time_table(found: Findings) -> Table:
    """Seconds by data set and model."""
    rows = []
    for (name, model), t in found.times.items():
        together = found.cells[name, model, "blpa"]
        rows.append(
            [
                name,
                model,
                t["scratch"],
                Measurement.of(t["shard_seconds"], "s"),
                t["scratch"] / t["request"],
                together["train_seconds"] / len(together["shard_sizes"]),
                Measurement.of(together["partition_seconds"], "s"),
            ]
        )
    columns = [
        "data",
        "model",
        "scratch, s",
        "one shard",
        "ratio",
        "all shards of a repeat, s",
        "BLPA partition",
    ]
    note = (
        "Scratch and one shard: warm. All shards: their part of the one compiled call that trains "
        "every repeat, its compilation included."
    )
    return Table("Training and unlearning time", columns, rows, note)


def sweep_tables(config: Config, found: Findings) -> list[Table]:
    """One table a sweep."""
    first = f"{config.datasets[0]}, {config.models[0]}, BLPA"
    shards = [
        [r["num_shards"], *(Measurement.of(r["f1"][a]) for a in AGGREGATORS), r["seconds"]]
        for r in found.sweeps["num_shards"]
    ]
    deltas = [
        [
            r["delta"],
            Measurement.of(r["f1"]["mean"]),
            Measurement.of(r["kept_edges"]),
            Measurement.of(r["largest"]),
        ]
        for r in found.sweeps["deltas"]
    ]
    sizes = [
        ["all" if r["size"] is None else r["size"], Measurement.of(r["f1"]), r["seconds"]]
        for r in found.sweeps["lbaggr_nodes"]
    ]
    ratios = [
        [r["ratio"], Measurement.of(r["scratch"]), Measurement.of(r["blpa"])]
        for r in found.sweeps["edge_ratios"]
    ]
    keys = ("kind", "num", "shards", "train_seconds", "seconds", "f1")
    deletions = [[r[k] for k in keys] for r in found.sweeps["deletions"]]
    attack = found.sweeps["attack"]
    states = [
        [name, s["parameter_distance"], s["forget_f1"], s["test_f1"]]
        for name, s in attack["state"].items()
    ]
    return [
        Table(
            f"Number of shards ({first})",
            ["S", "mean", "majority", "LBAggr", "seconds a request"],
            shards,
        ),
        Table(
            f"Slack of the size limit ({first})",
            ["delta", "F1, mean", "edges kept", "largest shard"],
            deltas,
        ),
        Table(f"Nodes of LBAggr ({first})", ["nodes", "F1", "seconds to fit all repeats"], sizes),
        Table(
            f"Share of edges deleted before training ({first})",
            ["deleted", "F1, scratch", "F1, shards, mean"],
            ratios,
        ),
        Table(
            f"One request ({first}, mean aggregator)",
            ["drawn from", "nodes", "shards retrained", "training, s", "in all, s", "F1 after"],
            deletions,
            "Warm. random: all shards; top1: the largest; adaptive and last5: the larger and the "
            "smaller half.",
        ),
        Table(
            f"What {attack['num']} deletions change ({first})",
            ["ensemble", "parameter distance", "F1 on the forgotten", "F1 on test nodes"],
            states,
            "after: unlearned; again: unlearned with a new partition; never saw: all shards "
            "trained anew on what is left, the reference for after.",
        ),
    ]
