"""A cheap baseline: which line follows the last k lines, counted (no neural network)."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from lab.errors import require
from lab.papers.drums.rows import Row
from lab.papers.drums.tokenizers import LineTokenizer


@dataclasses.dataclass(frozen=True)
class LineModel:
    """Counts of lines after the last 0..order lines; fit with `fit_lines`.

    p(line | context of length k) = (count + strength p(line | context of length k - 1)) /
    (total + strength): the shorter context smooths the longer one.
    """

    order: int
    counts: tuple[dict[tuple[int, ...], Counter], ...]
    strength: float = 2.0
    tokenizer: LineTokenizer = dataclasses.field(default_factory=LineTokenizer)

    def probabilities(self, context: Sequence[int]) -> np.ndarray:
        """float64 [67] of the next token."""
        size = self.tokenizer.vocab_size
        probability = np.full(size, 1.0 / size)
        for length in range(min(self.order, len(context)) + 1):
            key = tuple(context[len(context) - length :])
            counter = self.counts[length].get(key)
            if not counter:
                break
            seen = np.zeros(size)
            seen[list(counter)] = list(counter.values())
            total = seen.sum() + self.strength
            probability = (seen + self.strength * probability) / total
        return probability

    def nats_per_line(self, rows: Sequence[Row]) -> float:
        """-log p of the completions' lines, `SEP` and `END` included, mean over lines."""
        require(len(rows) > 0, "there are no rows")
        total, count = 0.0, 0
        for row in rows:
            prompt = self.tokenizer.encode(row.prompt)
            ids = prompt + self.tokenizer.encode(row.completion)
            for place in range(len(prompt), len(ids)):
                context = ids[max(0, place - self.order) : place]
                total -= float(np.log(self.probabilities(context)[ids[place]]))
            count += len(ids) - len(prompt)
        return total / count

    def compose(self, prompt: str, *, seed: int = 0, max_lines: int = 300) -> str:
        """The prompt with a drawn continuation, up to `END`."""
        rng, ids = np.random.default_rng(seed), self.tokenizer.encode(prompt)
        for _ in range(max_lines):
            chances = self.probabilities(ids[-self.order :] if self.order else [])
            chances[self.tokenizer.pad_id] = 0
            ids.append(int(rng.choice(len(chances), p=chances / chances.sum())))
            if ids[-1] == self.tokenizer.end_id:
                break
        return self.tokenizer.decode(ids)


def fit_lines(rows: Sequence[Row], order: int = 3) -> LineModel:
    """Counts the lines of prompts and completions."""
    require(order >= 0, f"order must not be negative, got {order}")
    require(len(rows) > 0, "there are no rows")
    tokenizer = LineTokenizer()
    counts = [defaultdict(Counter) for _ in range(order + 1)]
    for row in rows:
        ids = tokenizer.encode(row.prompt) + tokenizer.encode(row.completion)
        for place, token in enumerate(ids):
            for length in range(min(order, place) + 1):
                counts[length][tuple(ids[place - length : place])][token] += 1
    return LineModel(order, tuple(dict(c) for c in counts))
