"""The pictures of the study, drawn with `lab.papers.dacfl.figures`."""

from typing import Any

import numpy as np

from experiments.dacfl import Config
from experiments.dacfl.cells import CellResult
from experiments.dacfl.claims import bound_of, has_bound
from experiments.dacfl.study import Findings, outage_of
from lab.papers.dacfl import figures as draw
from lab.report import Figure, figures

LINES = (
    ("DACFL", "dacfl", "x"),
    ("CDSGD", "cdsgd", "omega"),
    ("DSGT", "dsgt", "omega"),
    ("exact diffusion", "exact_diffusion", "omega"),
    ("DFedAvg", "dfedavg", "omega"),
    ("local only", "local", "omega"),
)
WITH_SERVER = (*LINES, ("FedAvg", "fedavg", "omega"))


def all_pictures(config: Config, findings: Findings, run: Any) -> list[Figure]:
    """Every picture for which there are measurements; the first copy where one is shown."""
    dataset = config.datasets[0]
    partition = "shards" if "shards" in config.partitions else config.partitions[0]
    network = "sparse" if "sparse" in config.networks else config.networks[0]
    result = findings.grid[dataset, partition, network]
    where = f"{dataset}, {partition}, {network}"
    pictures = [
        _networks(result, run, where),
        _bands(config, result, run, where),
        _variance(config, result, run, where),
        _consensus(config, result, run, where),
        _bytes(result, run, where),
        _labels(result, run, where),
        _classes(result, run, where),
        _sigmas(findings, dataset, partition, run),
    ]
    if findings.outage is not None:
        pictures.append(_outage(config, findings.outage, run))
    if findings.links:
        pictures.append(_links(findings, run))
    pictures.append(_tracking(findings, run))
    return pictures


def _shown(result: CellResult, lines=LINES) -> list[tuple[str, str, str]]:
    return [line for line in lines if f"{line[1]}/accuracy_{line[2]}" in result]


def _rounds(result: CellResult, name: str = "dacfl") -> np.ndarray:
    """The round after which each evaluation was made."""
    periods = result[f"{name}/accuracy_mean"].shape[1]
    every = result[f"{name}/loss"].shape[1] // periods
    return every * np.arange(1, periods + 1)


def _networks(result: CellResult, run: Any, where: str) -> Figure:
    lines = _shown(result)[:2]
    fig, axes = figures.new(1, len(lines), width=4.4 * len(lines), height=3.6, squeeze=False)
    values = [100 * result[f"{name}/final_{readout}"][0] for _, name, readout in lines]
    limits = (min(v.min() for v in values), max(v.max() for v in values))
    for place, (title, _, _), accuracy in zip(axes[0], lines, values, strict=True):
        draw.network(place, result["matrix"], accuracy / 100, title, limits)
    caption = f"Users coloured by accuracy, links as wide as their weight ({where}, first seed)."
    ranges = [
        f"{t[0]}: {v.min():.1f} to {v.max():.1f} %" for t, v in zip(lines, values, strict=True)
    ]
    return run.figure("networks", fig, caption, f"A graph of users; {'; '.join(ranges)}.")


def _bands(config: Config, result: CellResult, run: Any, where: str) -> Figure:
    del config
    fig, axes = figures.new(height=3.4)
    lines = _shown(result)
    series = {title: result[f"{name}/accuracy_{readout}"][0] for title, name, readout in lines}
    draw.accuracy_bands(axes, _rounds(result), series, "Accuracy over users")
    lowest = 100 * min(values[0].min() for values in series.values())
    axes.set_ylim(max(0, lowest - 5), 100)
    caption = (
        f"Median user, quartiles and range over users ({where}, first seed): narrow bands are "
        "users who agree."
    )
    last = ", ".join(
        f"{t} {100 * v[-1].min():.0f} to {100 * v[-1].max():.0f} %" for t, v in series.items()
    )
    return run.figure("accuracy-bands", fig, caption, f"Bands over rounds; at the end {last}.")


def _variance(config: Config, result: CellResult, run: Any, where: str) -> Figure:
    del config
    fig, axes = figures.new()
    series = {
        title: 1e4 * result[f"{name}/accuracy_{readout}"].var(axis=-1)
        for title, name, readout in _shown(result)
    }
    figures.lines(
        axes, _rounds(result), {t: np.maximum(v, 1e-3) for t, v in series.items()}, bands=False
    )
    axes.set_yscale("log")
    axes.set_ylim(top=8 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper center", ncols=3)
    figures.label(axes, title="Var of Acc", x="round", y="Var of Acc, percent²")
    caption = f"Variance of accuracy over users, mean over seeds ({where})."
    last = ", ".join(f"{t} {v[:, -1].mean():.2g}" for t, v in series.items())
    return run.figure("variance", fig, caption, f"Falling curves; at the end {last} percent².")


def _consensus(config: Config, result: CellResult, run: Any, where: str) -> Figure:
    fig, axes = figures.new(height=3.4)
    error, bound = bound_of(result, 0)
    num_users = result["dacfl/final_x"].shape[1]
    wanted = (("DACFL x", "dacfl/consensus_x"), ("CDSGD omega", "cdsgd/consensus_omega"))
    wanted += (("DACFL omega", "dacfl/consensus_omega"),)
    distances = {title: result[name][0] for title, name in wanted if name in result}
    shown = bound**2 / num_users if has_bound(config) else None
    draw.consensus(axes, distances, shown, "How far users are from their mean")
    axes.set_ylim(bottom=max(1e-7, 0.5 * min(v[v > 0].min() for v in distances.values())))
    caption = f"Mean squared distance to the users' mean ({where}, first seed)"
    alt = f"Curves over rounds; x ends at {distances['DACFL x'][-1]:.2g}"
    if shown is not None:
        caption += ", and what the bound C7 allows for x"
        ratio = float((error / bound).max())
        alt += f", below its bound, at most {100 * ratio:.0f} % of it"
    caption, alt = f"{caption}.", f"{alt}."
    return run.figure("consensus", fig, caption, alt)


def _bytes(result: CellResult, run: Any, where: str) -> Figure:
    fig, axes = figures.new()
    lines = _shown(result, WITH_SERVER)
    sent = {title: result.megabytes(name) for title, name, _ in lines}
    accuracy = {
        title: result[f"{name}/accuracy_{readout}"].mean(axis=(0, -1))
        for title, name, readout in lines
    }
    draw.against_bytes(axes, sent, accuracy, "Accuracy against traffic")
    caption = f"Average of Acc over what a user has sent; DACFL and DSGT send two arrays ({where})."
    totals = ", ".join(f"{t} {v[-1] / 1e6:.0f} MB" for t, v in sent.items())
    return run.figure("bytes", fig, caption, f"Rising curves; in the whole run {totals}.")


def _labels(result: CellResult, run: Any, where: str) -> Figure:
    fig, axes = figures.new(height=3.4)
    draw.label_histogram(axes, result["histogram"], "Who holds what")
    classes = (result["histogram"] > 0).sum(axis=1)
    caption = f"Training examples of each class ({where}, first seed)."
    alt = f"A heat map; users hold {classes.min()} to {classes.max()} classes."
    return run.figure("labels", fig, caption, alt)


def _classes(result: CellResult, run: Any, where: str) -> Figure:
    lines = _shown(result)[:2]
    fig, axes = figures.new(1, len(lines), width=4.4 * len(lines), height=3.4, squeeze=False)
    worst = []
    for place, (title, name, readout) in zip(axes[0], lines, strict=True):
        values = result[f"{name}/class_accuracy_{readout}"][0, -1]
        draw.class_heat_map(place, values, title)
        worst.append(f"{title} at worst {100 * values.min():.0f} %")
    caption = f"Accuracy of each user on each class after the last round ({where}, first seed)."
    return run.figure(
        "classes", fig, caption, f"Heat maps of users and classes; {'; '.join(worst)}."
    )


def _sigmas(findings: Findings, dataset: str, partition: str, run: Any) -> Figure:
    fig, axes = figures.new()
    series = {
        network.replace("_", " "): r["sigmas"][0]
        for (d, p, network), r in findings.grid.items()
        if (d, p) == (dataset, partition)
    }
    draw.mixing_speed(axes, series, "How slowly each network mixes")
    ends = ", ".join(f"{name} {values.mean():.2f}" for name, values in series.items())
    caption = "sigma of W over the rounds: what one round leaves of a disagreement at worst."
    return run.figure("sigma", fig, caption, f"Steps over rounds; means: {ends}.")


def _outage(config: Config, result: CellResult, run: Any) -> Figure:
    user, start, length = outage_of(config)
    lines = _shown(result)
    fig, axes = figures.new(1, len(lines), width=3.2 * len(lines), sharey=True, squeeze=False)
    after = []
    for place, (title, name, readout) in zip(axes[0], lines, strict=True):
        values = result[f"{name}/accuracy_{readout}"].mean(axis=0)
        draw.outage(place, _rounds(result), values, user, start, length, title)
        after.append(f"{title} {100 * values[-1, user]:.0f} %")
    for place in axes[0, 1:]:
        place.set_ylabel("")
    caption = f"User {user} is offline for {length} rounds (mean over seeds)."
    alt = (
        f"The absent user's accuracy stands still, then catches up: {', '.join(after)} at the end."
    )
    return run.figure("outage", fig, caption, alt)


def _links(findings: Findings, run: Any) -> Figure:
    fig, axes = figures.new()
    chances = sorted(findings.links)
    results = [findings.links[p] for p in chances]
    series = {
        title: np.stack([r.average(name, readout) for r in results], axis=1)
        for title, name, readout in _shown(results[0])
    }
    figures.lines(axes, chances, series)
    figures.label(axes, title="Lost links", x="chance that a link is down", y="Average of Acc, %")
    last = ", ".join(f"{t} {v[:, -1].mean():.1f}" for t, v in series.items())
    caption = (
        "Average of Acc when links fail at random in every round (mean and spread over seeds)."
    )
    return run.figure("links", fig, caption, f"Lines; at the highest chance {last} %.")


def _tracking(findings: Findings, run: Any) -> Figure:
    errors = findings.theory["late_error"]
    fig, axes = figures.new(width=5.4)
    methods = list(next(iter(errors.values())))
    values = {method: [e[method] for e in errors.values()] for method in methods}
    names = [name.replace("_", " ") for name in errors]
    figures.bars(axes, names, values)
    figures.label(axes, title="Following a moving mean", y="late tracking error")
    caption = "Error of three estimates of the mean of moving signals, without any training (C5)."
    alt = "FODAC's bars are the lowest: " + ", ".join(
        f"{name} {e['FODAC']:.2f}" for name, e in zip(names, errors.values(), strict=True)
    )
    return run.figure("tracking", fig, caption, f"{alt}.")
