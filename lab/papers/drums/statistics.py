"""Further measures of drum texts: validity, density, states, agreement with what a drummer did."""

from collections.abc import Sequence

import numpy as np

from lab.errors import require
from lab.papers.drums.notation import MEASURE, WIDTH, is_line


def validity(pieces: Sequence[Sequence[str]], *, skip_lines: int = 0) -> float:
    """Share of lines that are well formed; NaN for no lines.

    Args: pieces, lines with or without newlines; skip_lines, of each piece (32 for the prompt).
    """
    require(len(pieces) > 0, "validity needs at least one piece, got none")
    lines = [line.rstrip("\n") for piece in pieces for line in piece[skip_lines:]]
    return float(np.mean([is_line(line) for line in lines])) if lines else float("nan")


def num_measures(lines: Sequence[str]) -> float:
    """Length in measures of 16 lines."""
    return len(lines) / MEASURE


def hit_density(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Share of steps with a hit, float [6], over grids bool [steps, 6]."""
    return np.concatenate(list(grids)).mean(axis=0)


def line_states(hits: np.ndarray) -> np.ndarray:
    """The number 0..63 of each step: column c counts 2 ** (5 - c); int [steps]."""
    return np.asarray(hits, np.int64) @ (1 << np.arange(WIDTH)[::-1])


def num_states(grids: Sequence[np.ndarray]) -> int:
    """How many of the 64 states of a step occur."""
    return len(np.unique(np.concatenate([line_states(grid) for grid in grids])))


def onset_f1(composed: np.ndarray, played: np.ndarray) -> float:
    """F1 of hits, place by place, over the steps that both have; NaN without any hit.

    Args: bool [steps, 6] each.
    """
    steps = min(len(composed), len(played))
    ours, theirs = composed[:steps], played[:steps]
    total = ours.sum() + theirs.sum()
    return float(2 * (ours & theirs).sum() / total) if total else float("nan")


def pattern_distance(hits: np.ndarray) -> float:
    """Diversity of a piece: mean Hamming distance of its full measures, over all pairs.

    Args: bool [steps, 6]. NaN for fewer than two measures.
    """
    count = len(hits) // MEASURE
    if count < 2:
        return float("nan")
    flat = hits[: count * MEASURE].reshape(count, -1).astype(np.int64)
    distances = np.abs(flat[:, None] - flat[None]).sum(axis=-1)
    return float(distances.sum() / (count * (count - 1)))
