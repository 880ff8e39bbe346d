"""Pictures of a network and of what became of its users. Each function draws on given axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.report import figures

_DASHES = ("-", "--", "-.", ":")


def layout(matrix: np.ndarray) -> np.ndarray:
    """Places for the users, float [N, 2] in [-1, 1]: a circle, or for more than 24 users the two
    slowest directions of the mixing matrix."""
    n = len(matrix)
    if n <= 24:
        angle = 2 * np.pi * np.arange(n) / n
        return np.stack([np.sin(angle), np.cos(angle)], axis=1)
    _, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    places = vectors[:, -3:-1]
    return places / np.abs(places).max(axis=0)


def network(
    axes: Any,
    matrix: np.ndarray,
    accuracy: np.ndarray,
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> None:
    """Users as dots coloured by accuracy, links as lines as wide as their weight.

    Args: matrix float [N, N], the mixing matrix; accuracy float [N], fractions; limits, of the
      colours in percent, to compare several pictures.
    """
    places, n = layout(matrix), len(matrix)
    off_diagonal = np.abs(matrix - np.diag(np.diag(matrix)))
    widest = off_diagonal.max() if n > 1 and off_diagonal.max() > 0 else 1.0
    for i in range(n):
        for j in range(i + 1, n):
            if off_diagonal[i, j] > 0:
                width = 0.4 + 2.6 * off_diagonal[i, j] / widest
                axes.plot(
                    *places[[i, j]].T, color=figures.GREY, linewidth=width, alpha=0.6, zorder=1
                )
    size = 260 if n <= 24 else 60
    dots = axes.scatter(*places.T, s=size, c=100 * accuracy, cmap="cividis", zorder=2)
    if limits is not None:
        dots.set_clim(*limits)
    dots.axes.figure.colorbar(dots, ax=axes, label="accuracy, %")
    if n <= 24:
        for user, (x, y) in enumerate(places):
            is_dark = dots.norm(100 * accuracy[user]) < 0.55
            color = "white" if is_dark else "black"
            axes.text(x, y, str(user), ha="center", va="center", fontsize=8, color=color)
    axes.set_aspect("equal")
    axes.margins(0.14)
    axes.set_axis_off()
    figures.label(axes, title=title)


def accuracy_bands(
    axes: Any, rounds: Sequence[int], accuracy: Mapping[str, np.ndarray], title: str = ""
) -> None:
    """For each algorithm the median user's accuracy, the quartiles and the range over users.

    Args: accuracy, name to float [P, N], fractions.
    """
    for number, (name, values) in enumerate(accuracy.items()):
        values = 100 * np.asarray(values)
        color = figures.PALETTE[number % len(figures.PALETTE)]
        low, first, middle, third, high = np.percentile(values, (0, 25, 50, 75, 100), axis=1)
        style = _DASHES[number % len(_DASHES)]
        axes.plot(rounds, middle, style, label=name, color=color)
        axes.fill_between(rounds, first, third, color=color, alpha=0.25, linewidth=0)
        axes.fill_between(rounds, low, high, color=color, alpha=0.1, linewidth=0)
    figures.label(axes, title=title, x="round", y="accuracy of users, %")
    axes.legend(loc="lower right")


def consensus(
    axes: Any,
    distances: Mapping[str, np.ndarray],
    bound: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Consensus distances over rounds on a logarithmic axis, with the bound C7 on that of x.

    Args: distances, name to float [T], mean squared distances to the mean; bound float [T], the
      bound on the same quantity.
    """
    for number, (name, values) in enumerate(distances.items()):
        rounds = np.arange(1, len(values) + 1)
        color = figures.PALETTE[number % len(figures.PALETTE)]
        axes.plot(rounds, values, _DASHES[number % len(_DASHES)], label=name, color=color)
    if bound is not None:
        axes.plot(
            np.arange(1, len(bound) + 1),
            bound,
            ":",
            color="black",
            label="bound on x",
            linewidth=1.2,
        )
    axes.set_yscale("log")
    axes.set_ylim(top=8 * axes.get_ylim()[1])  # room for the legend
    figures.label(axes, title=title, x="round", y="mean |model - mean|²")
    axes.legend(loc="upper right", ncols=2)


def against_bytes(
    axes: Any, sent: Mapping[str, np.ndarray], accuracy: Mapping[str, np.ndarray], title: str = ""
) -> None:
    """Average accuracy over megabytes that a user has sent.

    Args: sent, name to float [P], bytes so far; accuracy, name to float [P], fractions.
    """
    for number, (name, values) in enumerate(accuracy.items()):
        color = figures.PALETTE[number % len(figures.PALETTE)]
        marker = figures.MARKERS[number % len(figures.MARKERS)]
        every = max(1, len(values) // 6)
        axes.plot(
            sent[name] / 1e6, 100 * values, label=name, color=color, marker=marker, markevery=every
        )
    figures.label(axes, title=title, x="megabytes sent by a user", y="Average of Acc, %")
    axes.legend(loc="lower right")


def label_histogram(axes: Any, histogram: np.ndarray, title: str = "") -> None:
    """How many examples of each class each user holds.

    Args: histogram int [N, C].
    """
    users, classes = histogram.shape
    figures.heat_map(
        axes,
        histogram,
        rows=[str(i) for i in range(users)],
        columns=[str(c) for c in range(classes)],
        bar_label="examples",
    )
    figures.label(axes, title=title, x="class", y="user")


def class_heat_map(axes: Any, accuracy: np.ndarray, title: str = "") -> None:
    """Accuracy of each user on each class.

    Args: accuracy float [N, C], fractions.
    """
    users, classes = accuracy.shape
    figures.heat_map(
        axes,
        100 * accuracy,
        rows=[str(i) for i in range(users)],
        columns=[str(c) for c in range(classes)],
        bar_label="accuracy, %",
    )
    axes.images[0].set_clim(0, 100)
    figures.label(axes, title=title, x="class", y="user")


def outage(
    axes: Any,
    rounds: Sequence[int],
    accuracy: np.ndarray,
    user: int,
    start: int,
    length: int,
    title: str = "",
) -> None:
    """The users' accuracy around the absence of one of them.

    Args: accuracy float [P, N], fractions; the user was absent in rounds start..start+length-1.
    """
    values = 100 * np.asarray(accuracy)
    others = np.delete(values, user, axis=1)
    axes.axvspan(start, start + length, color=figures.GREY, alpha=0.15, linewidth=0)
    axes.plot(rounds, others.mean(axis=1), color=figures.BLUE, label="mean of the others")
    axes.fill_between(
        rounds, others.min(axis=1), others.max(axis=1), color=figures.BLUE, alpha=0.15, linewidth=0
    )
    axes.plot(rounds, values[:, user], "--", color=figures.VERMILION, label=f"user {user}")
    figures.label(axes, title=title, x="round (grey: user absent)", y="accuracy, %")
    axes.legend(loc="lower right")


def mixing_speed(axes: Any, sigmas: Mapping[str, np.ndarray], title: str = "") -> None:
    """sigma(W_t) over the rounds.

    Args: sigmas, name to float [T].
    """
    for number, (name, values) in enumerate(sigmas.items()):
        color = figures.PALETTE[number % len(figures.PALETTE)]
        axes.step(
            np.arange(len(values)), values, _DASHES[number % len(_DASHES)], label=name, color=color
        )
    axes.set_ylim(-0.03, 1.3)  # a dense network's 0 stays visible, the legend has room
    axes.set_yticks(np.linspace(0, 1, 6))
    figures.label(axes, title=title, x="round", y="sigma of W")
    axes.legend(loc="upper center", ncols=2)
