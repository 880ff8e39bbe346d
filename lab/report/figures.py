"""Figures of one look: readable at phone width, told apart by the colour-blind, without pyplot.

matplotlib is imported when the first figure is made. Every helper draws on given axes and returns
nothing; `new` makes a figure, `Run.figure` saves it.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.errors import require

# Okabe & Ito (2008), the order chosen so that neighbours also differ in lightness.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#6B6B6B"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH, HEIGHT = 4.5, 3.0
_HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo")

STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "hatch.linewidth": 0.6,
}


@contextlib.contextmanager
def style():
    """The shared style for a block that draws with matplotlib itself."""
    import matplotlib
    from cycler import cycler

    colours: dict[Any, Any] = {"axes.prop_cycle": cycler(color=PALETTE)}
    with matplotlib.rc_context(STYLE | colours):
        yield


@style()
def new(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float | None = None,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """A figure and its axes (one, or an array of them), in the shared style.

    What is drawn later with matplotlib itself takes the style inside `with style():`.

    Args:
      width, height: of the whole figure, inches; the height defaults to 3 inches a row.
      **kwargs: of `Figure.subplots`, sharey=True for instance.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (width, HEIGHT * rows if height is None else height)
    fig = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.subplots(rows, columns, **kwargs)


@style()
def label(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Writes the title and the names of the axes."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


@style()
def bars(
    axes: Any,
    names: Sequence[str],
    values: Sequence[float] | Mapping[str, Sequence[float]],
    errors: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Bars with error whiskers; a mapping of series gives a group of bars for each name.

    Args:
      names: one a bar or group.
      values, errors: heights and whisker half-lengths, alike in form.
    """
    series = values if isinstance(values, Mapping) else {"": values}
    spreads = errors if isinstance(errors, Mapping) else {"": errors}
    places = np.arange(len(names))
    width = 0.8 / len(series)
    for i, (series_name, heights) in enumerate(series.items()):
        require(
            len(heights) == len(names),
            f"{len(names)} bars are named, series {series_name!r} has {len(heights)} values",
        )
        axes.bar(
            places + (i - (len(series) - 1) / 2) * width,
            heights,
            width * 0.92,
            yerr=spreads.get(series_name),
            label=series_name or None,
            color=PALETTE[i % len(PALETTE)],
            hatch=_HATCHES[i % len(_HATCHES)],
            edgecolor="white",
            error_kw={"elinewidth": 1.2, "capsize": 2.5, "ecolor": "#222222"},
        )
    axes.set_xticks(places, names)
    axes.grid(axis="x", visible=False)
    is_crowded = sum(len(str(name)) for name in names) > 34
    if is_crowded:
        axes.tick_params(axis="x", rotation=30)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
    _legend_if_many(axes, len(series))


@style()
def lines(axes: Any, x: Sequence[float], series: Mapping[str, Any], *, bands: bool = True) -> None:
    """Lines over x, one a series.

    Args:
      series: name to float [len(x)], or to float [repeats, len(x)], drawn as the mean with a band
        of one standard deviation.
      bands: whether to draw the bands.
    """
    for i, (name, values) in enumerate(series.items()):
        values = np.atleast_2d(np.asarray(values, dtype=np.float64))
        require(
            values.shape[-1] == len(x),
            f"series {name!r} has {values.shape[-1]} points over {len(x)} places",
        )
        mean = values.mean(axis=0)
        color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        every = max(1, len(x) // 8)
        axes.plot(x, mean, label=name, color=color, marker=marker, markevery=every)
        if bands and len(values) > 1:
            std = values.std(axis=0, ddof=1)
            axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.18, linewidth=0)
    _legend_if_many(axes, len(series))


@style()
def histogram(axes: Any, series: Mapping[str, Any] | Sequence[float], *, bins: int = 20) -> None:
    """Histogram of one set of values, or of several by name over the same bins, as outlines."""
    series = series if isinstance(series, Mapping) else {"": series}
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in series.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins=bins)
    styles = ("solid", "dashed", "dotted", "dashdot")
    for i, (name, values) in enumerate(arrays.items()):
        color = PALETTE[i % len(PALETTE)]
        axes.hist(values, edges, color=color, alpha=0.35, label=name or None)
        outline = {"histtype": "step", "color": color, "linewidth": 1.5}
        axes.hist(values, edges, linestyle=styles[i % len(styles)], **outline)
    _legend_if_many(axes, len(arrays))


@style()
def heat_map(
    axes: Any,
    values: Any,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    number_format: str | None = None,
    bar_label: str = "",
) -> None:
    """A matrix as colours with a colour bar.

    Args:
      values: float [num_rows, num_columns].
      rows, columns: names of the rows and columns.
      number_format: writes each value into its cell ("{:.2f}").
    """
    values = np.asarray(values, dtype=np.float64)
    require(values.ndim == 2, f"a heat map needs a matrix, got shape {values.shape}")
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, label=bar_label)
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows)
    if columns is not None:
        axes.set_xticks(range(len(columns)), columns)
    if number_format is not None:
        for (i, j), value in np.ndenumerate(values):
            color = "white" if image.norm(value) < 0.55 else "black"
            place = {"ha": "center", "va": "center", "fontsize": 8}
            axes.text(j, i, number_format.format(value), color=color, **place)


def _legend_if_many(axes: Any, num_series: int) -> None:
    if num_series > 1:
        axes.legend()
