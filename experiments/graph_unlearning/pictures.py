"""The pictures: what a partition is, how even it is, what it costs and what it is worth."""

import numpy as np

from experiments.graph_unlearning.study import (
    AGGREGATORS,
    Problem,
    kept_edges,
    load_problem,
    partitions_of,
)
from lab.report import figures

NAMES = {
    "scratch": "scratch",
    "random": "random (SISA)",
    "blpa": "BLPA",
    "bekm": "BEKM",
    "bekm_released": "BEKM as released",
    "lpa": "LPA, no limit",
    "kmeans": "k-means, no limit",
}


def partition_picture(config, run):
    """Edges of the training graph, nodes ordered by shard: blocks are what shards keep."""
    problem = load_problem(config.datasets[0], config, run.data_dir)
    methods = [m for m in ("random", "blpa", "bekm") if m in config.methods]
    fig, axes = figures.new(1, len(methods), width=3.0 * len(methods), height=3.4, squeeze=False)
    shares = {}
    with figures.style():
        for axis, method in zip(axes[0], methods, strict=True):
            graph = partitions_of(problem, method, config, 1).graphs[0]
            total = graph.training_graph().edge_index.shape[1] // 2
            shares[method] = kept_edges(graph) / total
            _draw_blocks(axis, problem, graph)
            figures.label(axis, title=f"{NAMES[method]}: {shares[method]:.0%} kept")
    text = ", ".join(f"{NAMES[m]} {share:.0%}" for m, share in shares.items())
    return run.figure(
        "partition",
        fig,
        caption=(
            f"The training graph of {problem.dataset.name}, nodes in the order of their shards. "
            "Only edges inside a block (dark) are left for training; edges across shards "
            "(light) are cut."
        ),
        alt=f"Adjacency matrices ordered by shard. Share of edges kept: {text}.",
    )


def _draw_blocks(axis, problem: Problem, graph) -> None:
    order = np.argsort(graph.labels[graph.train_ids], kind="stable")
    place = np.full(graph.num_nodes, -1)
    place[graph.train_ids[order]] = np.arange(len(order))
    ends, labels = place[graph.edge_index], graph.labels[graph.edge_index]
    inside = (ends >= 0).all(axis=0)
    same = inside & (labels[0] == labels[1])
    size = 1.5 if len(order) > 1000 else 3
    for chosen, color in ((inside & ~same, "#C9C9C9"), (same, figures.BLUE)):
        axis.scatter(*ends[:, chosen], s=size, color=color, linewidths=0, rasterized=True)
    axis.set(xlim=(0, len(order)), ylim=(len(order), 0), aspect="equal", xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(True)


def size_picture(config, run, unbalanced: dict[str, list[int]], cells):
    """Shard sizes of every partition, the unbalanced ones too."""
    name, model = config.datasets[0], config.models[0]
    sizes = {
        NAMES[method]: np.ravel(cells[name, model, method]["shard_sizes"])
        for method in config.methods
    }
    sizes |= {NAMES[method]: np.array(values) for method, values in unbalanced.items()}
    fig, axes = figures.new(width=5.5, height=3.2)
    with figures.style():
        for row, values in enumerate(sizes.values()):
            jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(values))
            color = figures.PALETTE[row % len(figures.PALETTE)]
            axes.scatter(values, row + jitter, s=9, color=color, alpha=0.5, linewidths=0)
        axes.set_yticks(range(len(sizes)), list(sizes))
        axes.set_xscale("log")
        axes.invert_yaxis()
    figures.label(axes, title="Shard sizes", x="train nodes in a shard (log scale)")
    limits = "; ".join(f"{k} {v.min()} to {v.max()}" for k, v in sizes.items())
    return run.figure(
        "shard_sizes",
        fig,
        caption=(
            f"Every dot is a shard of {name}. Without a size limit sizes differ widely, and "
            "unlearning costs what retraining the largest shard costs."
        ),
        alt=f"Sizes of shards, smallest to largest: {limits}.",
    )


def score_picture(config, run, cells, method_names):
    """F1 of every partition and aggregator, a panel a model."""
    name = config.datasets[0]
    models = [m for m in config.models if (name, m, "random") in cells]
    fig, axes = figures.new(len(models), 1, width=5.5, height=2.1 * len(models), squeeze=False)
    for axis, model in zip(axes[:, 0], models, strict=True):
        rows = {a: [np.mean(cells[name, model, m]["f1"][a]) for m in method_names]
                for a in AGGREGATORS}  # fmt: skip
        errors = {a: [np.std(cells[name, model, m]["f1"][a]) for m in method_names]
                  for a in AGGREGATORS}  # fmt: skip
        figures.bars(axis, [NAMES[m] for m in method_names], rows, errors)
        scratch = np.mean(cells[name, model, "scratch"]["f1"]["mean"])
        with figures.style():
            axis.axhline(scratch, color=figures.GREY, linestyle="--", linewidth=1.2)
            axis.set_ylim(0, 1)
        figures.label(axis, title=model.upper(), y="micro-F1")
        if axis is not axes[0, 0]:
            axis.get_legend().remove()
        else:
            axis.legend(ncols=3, loc="upper right", fontsize=8)
    return run.figure(
        "f1",
        fig,
        caption=(
            f"Micro-F1 on {name} by partition and aggregator, mean and standard deviation over "
            "repeats; the dashed line is training from scratch."
        ),
        alt="Bars of F1 for each shard model, partition and aggregator; values are in the table.",
    )


def time_picture(config, run, times):
    """Seconds of one request beside training from scratch."""
    labels = [f"{name}\n{model}" for name, model in times]
    fig, axes = figures.new(width=5.5, height=3.0)
    values = {
        "from scratch": [t["scratch"] for t in times.values()],
        "one request": [t["request"] for t in times.values()],
    }
    figures.bars(axes, labels, values)
    with figures.style():
        axes.set_yscale("log")
        for place, t in enumerate(times.values()):
            ratio = t["scratch"] / t["request"]
            axes.text(place, t["scratch"] * 1.15, f"{ratio:.0f}x", ha="center", fontsize=8)
        axes.margins(y=0.15)
    figures.label(axes, title="Unlearning one request", y="seconds (log scale)")
    text = ", ".join(f"{n} {m} {t['scratch'] / t['request']:.1f}x" for (n, m), t in times.items())
    return run.figure(
        "unlearning_time",
        fig,
        caption="Warm seconds of training from scratch and of retraining the one affected shard.",
        alt=f"How many times faster a request is than retraining from scratch: {text}.",
    )


def sweep_picture(config, run, rows):
    """F1 and the cost of a request against the number of shards."""
    fig, (top, bottom) = figures.new(2, 1, width=4.5, height=4.6, sharex=True)
    x = [row["num_shards"] for row in rows]
    figures.lines(top, x, {a: np.array([row["f1"][a] for row in rows]).T for a in AGGREGATORS})
    figures.label(top, title="More shards: faster, weaker", y="micro-F1")
    figures.lines(bottom, x, {"one request": [row["seconds"] for row in rows]})
    figures.label(bottom, x="number of shards", y="seconds a request")
    with figures.style():
        bottom.set_ylim(bottom=0)
    text = ", ".join(
        f"S={row['num_shards']}: {np.mean(row['f1']['mean']):.2f} in {row['seconds']:.3g} s"
        for row in rows
    )
    return run.figure(
        "num_shards",
        fig,
        caption="F1 (mean, one standard deviation) and the warm time of a request against S.",
        alt=f"Mean-aggregated F1 and seconds a request: {text}.",
    )


def weight_picture(config, run, cells):
    """The learned aggregator's weight of every shard, against its size."""
    name, model = config.datasets[0], config.models[0]
    methods = [m for m in config.methods if (name, model, m) in cells]
    fig, axes = figures.new(len(methods), 1, width=4.5, height=1.7 * len(methods), squeeze=False)
    for axis, method in zip(axes[:, 0], methods, strict=True):
        weights = np.sort(cells[name, model, method]["weights"])[::-1]
        figures.bars(axis, [""] * len(weights), weights.tolist())
        with figures.style():
            axis.axhline(1 / len(weights), color=figures.GREY, linestyle="--", linewidth=1.0)
        figures.label(axis, title=NAMES[method], y="weight")
    return run.figure(
        "lbaggr_weights",
        fig,
        caption="Weights that the learned aggregator gives to the shards, largest first; dashed: "
        "equal weights.",
        alt="Sorted aggregation weights for each partition.",
    )
