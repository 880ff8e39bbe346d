"""Does a model copy? Occurrences of its measures in a reference, and repeats within a piece."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lab.errors import require
from lab.papers.drums.notation import MEASURE, SILENCE


@dataclasses.dataclass(frozen=True)
class Copying:
    """Occurrences in a reference: counts int64 [measures], of the measures that are not silent."""

    counts: np.ndarray

    @property
    def num_measures(self) -> int:
        return len(self.counts)

    @property
    def new_share(self) -> float:
        """Share of measures that occur nowhere in the reference; NaN for none."""
        return float((self.counts == 0).mean()) if len(self.counts) else float("nan")

    def histogram(self, num_bins: int = 10, top: int = 11) -> np.ndarray:
        """The figure's bins: measures by occurrences from 0 to `top`, the first bin 0 and 1."""
        return np.histogram(self.counts, num_bins, (0, top))[0]


def measure_texts(lines: Sequence[str]) -> list[str]:
    """The exact text of each measure, 16 lines; a partial last one counts."""
    return ["".join(lines[i : i + MEASURE]) for i in range(0, len(lines), MEASURE)]


def is_silent(measure: str) -> bool:
    return all(line == SILENCE for line in measure.splitlines())


def copying(
    pieces: Sequence[Sequence[str]],
    reference: Sequence[Sequence[str]],
    *,
    generated_only: bool = False,
) -> Copying:
    """How often each measure of `pieces` that is not silent occurs among the reference's.

    The paper's figure counts in the test texts though its axis says training; the default of the
    experiment is the training texts.

    Args:
      pieces, reference: lines with their newlines.
      generated_only: leave out the two given measures.
    Raises: InvalidInputError for no pieces.
    """
    require(len(pieces) > 0, "copying needs at least one piece, got none")
    known = Counter(measure for lines in reference for measure in measure_texts(lines))
    skipped = 2 if generated_only else 0
    measures = [m for lines in pieces for m in measure_texts(lines)[skipped:] if not is_silent(m)]
    return Copying(np.array([known[m] for m in measures], np.int64))


def identity_shares(pieces: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Shares of generated measures identical to the one before, and to one of the prompt's two.

    Full measures from the third on, silent ones included; the share is taken in each piece, then
    averaged over the pieces that have such measures. NaN where none has.
    """
    to_previous, to_prompt = [], []
    for lines in pieces:
        whole = measure_texts(lines[: len(lines) // MEASURE * MEASURE])
        if len(whole) < 3:
            continue
        pairs = itertools.pairwise(whole[1:])
        to_previous.append(np.mean([previous == own for previous, own in pairs]))
        to_prompt.append(np.mean([own in whole[:2] for own in whole[2:]]))
    if not to_previous:
        return float("nan"), float("nan")
    return float(np.mean(to_previous)), float(np.mean(to_prompt))
