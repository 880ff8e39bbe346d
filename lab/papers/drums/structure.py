"""How measures repeat and vary: edit distances of neighbours, and their two clusters."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lab.errors import require
from lab.papers.drums.clusters import exact_two_means, two_centres
from lab.papers.drums.notation import HIT, MEASURE, REST, WIDTH

MAX_MEASURES = 16

Clustering = Callable[[np.ndarray], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Structure:
    """Structural metrics of a set of pieces.

    Attributes:
      stabilities: float [n] a piece, see `stabilities`.
      mean: over all stabilities of all pieces, NaN without any.
      gap, within: distance of the two cluster centres and of a value to its own centre, averaged
        over the pieces that have clusters.
      zero_share: of stabilities that are 0.
      num_without_clusters: pieces with fewer than two stabilities.
    """

    stabilities: tuple[np.ndarray, ...]
    mean: float
    gap: float
    within: float
    zero_share: float
    num_without_clusters: int


def levenshtein(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Edit distances with unit costs, int64 [n]; all pairs at once, one anti-diagonal at a time."""
    distinct = {pair: 0 for pair in pairs if pair[0] != pair[1]}
    for place, distance in zip(distinct, _anti_diagonals(list(distinct)), strict=True):
        distinct[place] = int(distance)
    return np.array([distinct.get(pair, 0) for pair in pairs], np.int64)


def _anti_diagonals(pairs: list[tuple[str, str]]) -> np.ndarray:
    if not pairs:
        return np.zeros(0, np.int64)
    first, rows = _codes([a for a, _ in pairs])
    second, columns = _codes([b for _, b in pairs])
    height, width = first.shape[1], second.shape[1]
    place = np.arange(height + 1)
    # before[p, i] and last[p, i] are d(i, k - 2 - i) and d(i, k - 1 - i) of pair p.
    before, last = (np.zeros((len(pairs), height + 1), np.int32) for _ in range(2))
    found = np.where(rows + columns == 0, 0, -1)
    for k in range(1, height + width + 1):
        low, high = max(1, k - width), min(height, k - 1)
        now = np.full_like(last, k)  # d(0, k) = d(k, 0) = k
        if low <= high:
            i = place[low : high + 1]
            differs = first[:, i - 1] != second[:, k - i - 1]
            steps = np.minimum(last[:, i - 1], last[:, i]) + 1
            now[:, i] = np.minimum(steps, before[:, i - 1] + differs)
        ends = rows + columns == k
        found[ends] = now[ends, rows[ends]]
        before, last = last, now
    return found


def _codes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(text) for text in texts])
    codes = np.zeros((len(texts), max(int(lengths.max()), 1)), np.uint32)
    for row, text in zip(codes, texts, strict=True):
        row[: len(text)] = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes, lengths


def measures_of(
    lines: Sequence[str],
    *,
    steps_per_measure: int = MEASURE,
    max_measures: int | None = MAX_MEASURES,
) -> list[str]:
    """The measures as the official code compares them: 16 lines, their newlines kept, joined by
    one more newline. A partial last measure counts."""
    starts = range(0, len(lines), steps_per_measure)
    joined = ["\n".join(lines[start : start + steps_per_measure]) for start in starts]
    return joined[:max_measures]


def stabilities(pieces: Sequence[Sequence[str]], **options: Any) -> list[np.ndarray]:
    """s_i = min(Lev(m_i, m_{i-1}), Lev(m_i, m_{i+1})) of every measure that has two neighbours.

    Args: pieces, lines with their newlines; options of `measures_of`.
    Returns: int64 [measures - 2] a piece, empty for fewer than three measures.
    """
    measures = [measures_of(lines, **options) for lines in pieces]
    pairs = [pair for piece in measures for pair in itertools.pairwise(piece)]
    distances, done, found = levenshtein(pairs), 0, []
    for piece in measures:
        own = distances[done : done + max(len(piece) - 1, 0)]
        done += len(own)
        found.append(np.minimum(own[:-1], own[1:]))
    return found


def structure(
    pieces: Sequence[Sequence[str]], clustering: Clustering = exact_two_means, **options: Any
) -> Structure:
    """Structural metrics of pieces, lines with their newlines.

    Args: clustering, values -> (gap, within); options of `measures_of`.
    Raises: InvalidInputError for no pieces.
    """
    require(len(pieces) > 0, "structure needs at least one piece, got none")
    return structure_of(stabilities(pieces, **options), clustering)


def structure_of(
    values: Sequence[np.ndarray], clustering: Clustering = exact_two_means
) -> Structure:
    """The metrics from the stabilities of every piece."""
    pooled = np.concatenate([np.asarray(v, np.float64) for v in values])
    clusters = np.array([clustering(v) for v in values]).reshape(-1, 2)
    has_clusters = ~np.isnan(clusters[:, 0])
    gap, within = clusters[has_clusters].mean(axis=0) if has_clusters.any() else (np.nan, np.nan)
    return Structure(
        tuple(values),
        mean=float(pooled.mean()) if len(pooled) else float("nan"),
        gap=float(gap),
        within=float(within),
        zero_share=float((pooled == 0).mean()) if len(pooled) else float("nan"),
        num_without_clusters=int((~has_clusters).sum()),
    )


def fill_spikes(values: np.ndarray) -> np.ndarray:
    """Places of the stabilities above the midpoint of the two centres: where a fill breaks the
    pattern. Values s_i belong to measure i + 2, counted from 1."""
    values = np.asarray(values, np.float64)
    if len(values) < 2 or values.min() == values.max():
        return np.zeros(0, np.int64)
    low, high = two_centres(values)
    return np.flatnonzero(values > (low + high) / 2)


def repeated(lines: Sequence[str], num_measures: int = MAX_MEASURES) -> list[str]:
    """The naive continuation: the first measure, then the second one again and again."""
    second = list(lines[MEASURE : 2 * MEASURE])
    return list(lines[:MEASURE]) + second * (num_measures - 1)


def random_pieces(num_pieces: int, *, seed: int = 29, num_lines: int = 256) -> list[list[str]]:
    """Pieces of fair coin flips, drawn line by line as the official script does."""
    generator = random.Random(seed)
    choose = functools.partial(generator.choice, [REST, HIT])
    return [
        ["".join(choose() for _ in range(WIDTH)) + "\n" for _ in range(num_lines)]
        for _ in range(num_pieces)
    ]
