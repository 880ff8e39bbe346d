"""Pictures of the study."""

import numpy as np

from experiments.reliant.claims import dominated_weights
from experiments.reliant.settings import RULES
from experiments.reliant.study import Cell, Study
from lab.papers.reliant import by_group
from lab.report import Figure, Run, figures

# A trade-off is drawn from the highest AUC down to so much less.
SHOWN_AUC = 0.1


def all_pictures(study: Study, run: Run) -> list[Figure]:
    """All pictures that the study has the runs for."""
    made = []
    curves = sorted(
        {(c.dataset, c.teacher, c.framework) for c in study.cells if c.method.startswith("curve")}
    )
    for key in curves:
        made += [trade_off(study, key, run), over_weights(study, key, run)]
    for dataset in study.graphs:
        made += [gaps(study, dataset, run), positive_rates(study, dataset, run)]
    made += [proxies(study, cell, run) for cell in study.cells if _has_picture_of_proxy(cell)]
    return [picture for picture in made if picture is not None]


def _has_picture_of_proxy(cell: Cell) -> bool:
    return cell.method == "reliant sp" and cell.proxy is not None


def trade_off(study: Study, key: tuple[str, str, str], run: Run) -> Figure:
    """AUC against delta-SP over the weights, with plain distillation and the teacher beside."""
    rule, curve = RULES.get(key[0], "selected"), study.curve(*key)
    auc = np.array([c.scores[rule]["auc"] for c in curve])
    gap = np.array([c.scores[rule]["delta_sp"] for c in curve])
    beaten = dominated_weights(study, key, rule)
    x, y = gap.mean(axis=1), auc.mean(axis=1)
    rivals = _rivals(study, key, rule)
    # What lies far below is drawn at the edge, so that the rest is readable.
    floor = max([*y, *(point[1] for point, *_ in rivals.values())]) - SHOWN_AUC
    fig, axes = figures.new(height=3.9)
    shown = y >= floor
    with figures.style():
        # Spreads end at 0, below which no gap lies.
        right = _std(gap)
        sides = [np.minimum(right, x)[shown], right[shown]]
        spread = {"xerr": sides, "yerr": _std(auc)[shown]}
        axes.errorbar(x[shown], y[shown], **spread, fmt="none", ecolor="#BBBBBB", lw=1, zorder=1)
        front = np.flatnonzero(~beaten)
        front = front[np.argsort(x[front])]
        drawn = np.maximum(y, floor)
        axes.plot(x[front], drawn[front], color=figures.BLUE, marker="o", label="RELIANT, best")
        hollow = {"mfc": "white", "color": figures.BLUE, "linestyle": "none"}
        inside = beaten & shown
        axes.plot(x[inside], y[inside], "o", label="RELIANT, dominated", **hollow)
        if not shown.all():
            axes.plot(x[~shown], drawn[~shown], "v", ms=8, label=f"below {floor:.2f}", **hollow)
        for name, (point, marker, colour) in rivals.items():
            size = 10 if marker == "*" else 7
            axes.plot(*point, marker, color=colour, label=name, markersize=size, alpha=0.8)
        names = [_label(cell, value, floor) for cell, value in zip(curve, y, strict=True)]
        _name_points(axes, x, drawn, names)
        axes.margins(0.1, 0.14)
        axes.set_xlim(left=-0.08 * x.max())
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.48, -0.2))
    title = f"{key[0]}, {key[2].upper()}"
    figures.label(axes, title=title, x="ΔSP (less is fairer)", y="AUC")
    caption = (
        f"Utility against bias over {len(curve)} weights of the penalty (numbers at the points), "
        f"mean of {auc.shape[1]} seeds with one standard deviation; {rule} epoch. Hollow: another "
        "weight, plain distillation or the teacher is at least as good in both."
    )
    alt = (
        f"{len(front)} of {len(curve)} weights are on the front; delta-SP runs from "
        f"{x.min():.3f} to {x.max():.3f}, AUC from {y.min():.3f} to {y.max():.3f}."
    )
    return run.figure(f"trade-off-{key[0]}-{key[2]}", fig, caption, alt)


def _rivals(study: Study, key: tuple[str, str, str], rule: str) -> dict[str, tuple]:
    """What the weights of a curve are seen beside: name -> ((delta-SP, AUC), marker, colour)."""
    cells = {
        "vanilla": (study.get(*key, "vanilla"), "s", figures.VERMILION),
        "reg only": (study.get(*key, "reg only"), "^", figures.GREEN),
        "teacher": (study.get(key[0], key[1], "", "teacher"), "*", "black"),
    }
    means = lambda scores: tuple(float(scores[n].mean()) for n in ("delta_sp", "auc"))  # noqa: E731
    return {
        name: (means(cell.scores[rule]), marker, colour)
        for name, (cell, marker, colour) in cells.items()
        if cell is not None
    }


def _std(values: np.ndarray) -> np.ndarray:
    """Standard deviation over seeds, 0 of a single one: float [weights, seeds] -> [weights]."""
    return values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))


def _label(cell: Cell, auc: float, floor: float) -> str:
    return f"{cell.alpha:g}" if auc >= floor else f"{cell.alpha:g} (AUC {auc:.2f})"


def _name_points(axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Names at the points, above and below in turn from left to right, as neighbours are close."""
    for place, i in enumerate(np.argsort(x, kind="stable")):
        up = place % 2 == 0
        style = {"xytext": (0, 6 if up else -6), "textcoords": "offset points", "ha": "center"}
        axes.annotate(names[i], (x[i], y[i]), fontsize=7, va="bottom" if up else "top", **style)


def over_weights(study: Study, key: tuple[str, str, str], run: Run) -> Figure:
    """Both gaps and the AUC against the weight."""
    rule, curve = RULES.get(key[0], "selected"), study.curve(*key)
    weights = [cell.alpha for cell in curve]
    names = {"delta_sp": "ΔSP", "delta_eo": "ΔEO"}
    fig, (upper, lower) = figures.new(2, 1, height=4.6, sharex=True)
    places = np.arange(len(weights))
    series = {n: np.array([c.scores[rule][s] for c in curve]).T for s, n in names.items()}
    figures.lines(upper, places, series)
    utility = np.array([c.scores[rule]["auc"] for c in curve]).T
    accuracy = np.array([c.scores[rule]["accuracy"] for c in curve]).T
    figures.lines(lower, places, {"AUC": utility, "accuracy": accuracy})
    upper.set_ylim(bottom=0)
    lower.set_xticks(places, [f"{w:g}" for w in weights], rotation=30)
    figures.label(upper, title=f"{key[0]}, {key[2].upper()}", y="gap between groups")
    figures.label(lower, x="weight of the bias", y="utility")
    gap = series["ΔSP"].mean(axis=0)
    return run.figure(
        f"weights-{key[0]}-{key[2]}",
        fig,
        f"What the weight of the penalty does; bands are one standard deviation; {rule} epoch.",
        f"Delta-SP goes from {gap[0]:.3f} at weight 0 to {gap[-1]:.3f} at {weights[-1]:g}; AUC "
        f"from {utility.mean(axis=0)[0]:.3f} to {utility.mean(axis=0)[-1]:.3f}.",
    )


def gaps(study: Study, dataset: str, run: Run) -> Figure:
    """Delta-SP of the methods with the first teacher, by framework."""
    rule = RULES.get(dataset, "selected")
    mine = [c for c in study.cells if c.dataset == dataset]
    teacher = mine[0].teacher
    methods = ["vanilla", "reg only", "sensitive proxy", "reliant sp", "reliant eo"]
    frameworks = sorted({c.framework for c in mine if c.method == "vanilla"})
    ran = [
        m for m in methods if all(study.get(dataset, teacher, f, m) is not None for f in frameworks)
    ]
    values, errors = {}, {}
    for framework in frameworks:
        found = [study.get(dataset, teacher, framework, m).scores[rule]["delta_sp"] for m in ran]
        values[framework.upper()] = [float(v.mean()) for v in found]
        errors[framework.upper()] = [float(v.std(ddof=1)) if len(v) > 1 else 0.0 for v in found]
    fig, axes = figures.new()
    names = [m.replace("sensitive proxy", "true s").replace("reliant", "RELIANT") for m in ran]
    figures.bars(axes, names, values, errors)
    level = float(study.get(dataset, teacher, "", "teacher").scores[rule]["delta_sp"][0])
    axes.axhline(level, color="black", linestyle="dashed", linewidth=1.2, label="teacher")
    axes.set_ylim(top=1.25 * max(level, *(v for series in values.values() for v in series)))
    with figures.style():
        axes.legend(fontsize=8, ncols=1 + len(frameworks), loc="upper right")
    figures.label(axes, title=dataset, y="ΔSP")
    told = "; ".join(
        f"{f}: " + ", ".join(f"{n} {v:.3f}" for n, v in zip(names, values[f], strict=True))
        for f in values
    )
    return run.figure(
        f"gaps-{dataset}",
        fig,
        f"Delta-SP of plain distillation, its ablations and RELIANT on {dataset}; whiskers are one "
        f"standard deviation over seeds; {rule} epoch.",
        f"Delta-SP, teacher {level:.3f}; {told}.",
    )


def positive_rates(study: Study, dataset: str, run: Run) -> Figure:
    """Share of each group that is predicted positive: the gap that delta-SP is."""
    rule, graph = RULES.get(dataset, "selected"), study.graphs[dataset]
    cells = [c for c in study.cells if c.dataset == dataset]
    teacher = cells[0].teacher
    framework = next(c.framework for c in cells if c.method == "vanilla")
    chosen = {"teacher": study.get(dataset, teacher, "", "teacher")}
    for method in ("vanilla", "reliant sp"):
        chosen[method.replace("reliant", "RELIANT")] = study.get(
            dataset, teacher, framework, method
        )
    rates = {}
    for name, cell in chosen.items():
        groups = [by_group(x, graph) for x in cell.logits[rule]]
        rates[name] = np.mean([[row["positive_share"] for row in rows] for rows in groups], axis=0)
    base = [row["base_rate"] for row in by_group(chosen["teacher"].logits[rule][0], graph)]
    rates = {"true labels": np.array(base), **rates}
    fig, axes = figures.new()
    series = {f"group {g}": [float(r[g]) for r in rates.values()] for g in range(graph.num_groups)}
    figures.bars(axes, list(rates), series)
    figures.label(axes, title=f"{dataset}, {framework.upper()}", y="predicted positive")
    told = ", ".join(f"{n} {abs(r[0] - r[-1]):.3f}" for n, r in rates.items())
    return run.figure(
        f"rates-{dataset}",
        fig,
        f"Share of each group of {dataset} that is positive, in truth and as predicted; {rule} "
        "epoch, mean over seeds.",
        f"Differences between the first and the last group: {told}.",
    )


def proxies(study: Study, cell: Cell, run: Run) -> Figure:
    """What the learned proxies took up: their main direction, by group."""
    groups = np.asarray(study.graphs[cell.dataset].sensitive)
    centred = cell.proxy - cell.proxy.mean(axis=0)
    means = [centred[groups == g].mean(axis=0) for g in (0, 1)]
    direction = means[1] - means[0]
    length = np.linalg.norm(direction)
    projected = centred @ (direction / length if length else np.eye(len(direction))[0])
    fig, axes = figures.new()
    figures.histogram(axes, {f"group {g}": projected[groups == g] for g in (0, 1)}, bins=30)
    title = f"{cell.dataset}, {cell.framework.upper()}, {cell.teacher.upper()}"
    figures.label(axes, title=title, x="proxy along the groups' difference", y="nodes")
    apart = abs(projected[groups == 1].mean() - projected[groups == 0].mean())
    apart = apart / max(projected.std(), 1e-12)
    return run.figure(
        f"proxies-{cell.dataset}-{cell.framework}-{cell.teacher}",
        fig,
        "The bias that the proxies carry after training: each node's proxy projected on the "
        "difference of the groups' means (first seed, weight "
        f"{cell.alpha:g}).",
        f"The groups' means lie {apart:.2f} standard deviations apart.",
    )
