"""Pictures of a drums run."""

from collections.abc import Mapping, Sequence

import numpy as np

from lab.papers.drums.notation import COLUMNS, MEASURE
from lab.report import figures

# Drawn from the bottom: what is struck with the foot, then snare and toms, then cymbals.
_ORDER = ("kick", "snare", "tom", "hi-hat", "ride", "crash")


def piano_roll(run, name: str, grooves: Mapping[str, np.ndarray], prompt_steps: int):
    """A row of hits a drum: what was given is shaded, what was composed is not."""
    titles = list(grooves)
    fig, axes = figures.new(len(grooves), width=7.0, height=1.9 * len(grooves), squeeze=False)
    for ax, (title, hits) in zip(axes[:, 0], grooves.items(), strict=True):
        for place, drum in enumerate(_ORDER):
            steps = np.flatnonzero(hits[:, COLUMNS.index(drum)])
            colour = figures.PALETTE[place % len(figures.PALETTE)]
            ax.broken_barh([(s, 0.82) for s in steps], (place - 0.38, 0.76), color=colour)
        ax.axvspan(0, prompt_steps, color="#E8E8E8", zorder=0)
        ax.set_yticks(range(len(_ORDER)), _ORDER)
        ax.set_xlim(0, len(hits))
        ax.set_ylim(-0.6, len(_ORDER) - 0.4)
        bars = np.arange(0, len(hits) + 1, MEASURE)
        ax.set_xticks(bars, [*map(str, range(1, len(bars))), ""])
        ax.set_xticks(np.arange(0, len(hits) + 1, 4), minor=True)
        ax.grid(axis="y", visible=False)
        figures.label(ax, title=title)
    figures.label(axes[-1, 0], title=titles[-1], x="measure")
    return run.figure(
        name,
        fig,
        caption="Grooves as piano rolls: the two given measures on grey, the continuation behind.",
        alt="Six rows, one a drum, with a mark at every 16th note that is struck: "
        f"{', '.join(titles)}.",
    )


def stability_lines(run, systems: Mapping[str, Sequence[Sequence[float]]]):
    """The paper's plot of one piece a system: stability of each measure, and the mean of all."""
    fig, (left, right) = figures.new(1, 2, width=7.4, height=3.0)
    names = list(systems)
    with figures.style():
        for i, name in enumerate(names):
            values = next((v for v in systems[name] if len(v) >= 8), systems[name][0])
            places = np.arange(2, len(values) + 2)
            marker = figures.MARKERS[i % len(figures.MARKERS)]
            left.plot(places, values, label=name, marker=marker, color=_colour(i))
            means = _means_by_measure(systems[name])
            right.plot(np.arange(2, len(means) + 2), means, marker=marker, color=_colour(i))
        fig.legend(loc="outside lower center", ncols=len(names))
        for ax in (left, right):
            ax.set_xticks(range(2, 16, 2))
            ax.set_ylim(-1, 50)
    figures.label(left, title="One piece", x="measure", y="edit distance to a neighbour")
    figures.label(right, title="Mean of all pieces", x="measure")
    return run.figure(
        "stability",
        fig,
        caption="How far each measure is from the nearer of its neighbours, in character edits: "
        "0 repeats it, spikes are fills. Left one test piece, right the mean of all.",
        alt="Lines over measures 2 to 15 for " + ", ".join(names),
    )


def _means_by_measure(pieces: Sequence[Sequence[float]]) -> np.ndarray:
    longest = max(map(len, pieces))
    sums, counts = np.zeros(longest), np.zeros(longest)
    for values in pieces:
        sums[: len(values)] += values
        counts[: len(values)] += 1
    return sums / np.maximum(counts, 1)


def _colour(i: int) -> str:
    return figures.PALETTE[i % len(figures.PALETTE)]


def temperature_lines(run, sweep: Mapping[str, Sequence[Mapping[str, float]]], human: Mapping):
    """Structural mean and the two identity shares over the temperature."""
    temperatures = [float(t) for t in sweep]
    fig, axes = figures.new(1, 3, width=8.4, height=2.8)
    panels = {
        "mean": "mean stability",
        "to_previous": "repeats the measure before",
        "to_prompt": "repeats the prompt",
    }
    for ax, (key, title) in zip(axes, panels.items(), strict=True):
        values = np.array([[row[key] for row in sweep[str(t)]] for t in temperatures]).T
        figures.lines(ax, temperatures, {"model": values})
        with figures.style():
            ax.axhline(human[key], color=figures.VERMILION, linestyle="dashed", label="human")
            ax.legend()
        figures.label(ax, title=title, x="temperature")
    return run.figure(
        "temperature",
        fig,
        caption="The model from random weights at several temperatures, with a band of one "
        "standard deviation over seeds; the dashed line is what the drummers played.",
        alt="Stability rises with temperature, repetition falls; human values are dashed lines.",
    )


def training_lines(run, name: str, steps: Sequence[int], series: Mapping[str, np.ndarray], x: str):
    """Nats a line on development texts while training."""
    fig, ax = figures.new()
    figures.lines(ax, list(steps), dict(series))
    figures.label(ax, title="Held-out loss", x=x, y="nats a line")
    return run.figure(
        f"training_{name}",
        fig,
        caption="-log p of the continuations of development texts, a line of the drumroll, while "
        "training; bands are one standard deviation over seeds.",
        alt=f"Falling curves: {', '.join(series)}.",
    )


def codec_lines(run, grids: Sequence[Mapping[str, float]]):
    """What the grids lose of real performances."""
    fig, (left, right) = figures.new(1, 2, width=7.4, height=2.8)
    places = [row["steps_per_quarter"] for row in grids]
    figures.lines(
        left,
        places,
        {"mean": [row["onset_ms"] for row in grids], "95 %": [row["onset_ms_95"] for row in grids]},
    )
    figures.label(left, title="Error of the onset", x="steps a quarter", y="milliseconds")
    figures.lines(right, places, {"": [100 * (1 - row["kept_share"]) for row in grids]})
    figures.label(right, title="Hits that fall on another", x="steps a quarter", y="%")
    return run.figure(
        "codec",
        fig,
        caption="What writing all performances on a grid loses. The paper's grid has 4 steps a "
        "quarter; with offsets kept beside it the onset error is nil.",
        alt="Both errors fall as the grid gets finer.",
    )


def occurrence_bars(run, histograms: Mapping[str, Sequence[int]], reference: str):
    """The paper's figure of copying: measures by how often they occur in a reference."""
    fig, ax = figures.new()
    labels = ["0-1", *(str(i) for i in range(2, 11))]
    shares = {name: np.array(h) / max(sum(h), 1) for name, h in histograms.items()}
    figures.bars(ax, labels, shares)
    ax.set_yscale("log")  # nine measures of ten are in the first bin
    ax.set_ylim(1e-3, 1)
    figures.label(
        ax, title="Copying", x=f"occurrences among the {reference} texts", y="share of measures"
    )
    return run.figure(
        "copying",
        fig,
        caption=f"How often the measures of each system occur, letter for letter, in the "
        f"{reference} texts; the last bin is 10 and 11.",
        alt="Most measures fall into the first bin for every system.",
    )


def speed_bars(run, speed: Mapping[str, Mapping[str, float]]):
    """Tokens a second by batch size."""
    fig, ax = figures.new()
    values = speed["tokens_per_second"]
    figures.bars(ax, [f"batch {size}" for size in values], list(values.values()))
    figures.label(ax, title="SmolLM2 decoding", y="tokens a second")
    return run.figure(
        "speed",
        fig,
        caption="Tokens a second of SmolLM2-135M in bfloat16, all prompts in one compiled loop.",
        alt="Bars rise with the batch size.",
    )
