"""Prompts in, grooves out: a whole batch continued in one compiled call."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require
from lab.nn.decoder import unstack
from lab.nn.generation import NEVER, Automaton, Generated, generate
from lab.nn.sampling import Sampling, sampling
from lab.papers.drums.data import check_ids, left_padded
from lab.papers.drums.grammar import START, grammar, longest
from lab.papers.drums.grid import Groove
from lab.papers.drums.model_files import DrumModel
from lab.papers.drums.notation import (
    END,
    MEASURE,
    STEPS_PER_QUARTER,
    WIDTH,
    check_prompt,
    drumroll_of,
    parse_drumroll,
    prompt_of,
)

PROMPT_STEPS = 2 * MEASURE
MAX_NEW_TOKENS = 1000
# Between the seeds of one prompt's candidates.
CANDIDATE_SEEDS = 1_000_003


@dataclasses.dataclass(frozen=True)
class Composition:
    """One continued prompt.

    Attributes:
      text: prompt and continuation as the model reads and writes them.
      is_finished: whether the model ended the piece, or the most tokens were reached.
      num_tokens: drawn.
    """

    text: str
    is_finished: bool
    num_tokens: int

    @property
    def drumroll(self) -> str:
        """The drumroll: `SEP` removed, cut at `END`, and a partial last line dropped where the
        piece was cut off."""
        text = drumroll_of(self.text)
        if self.is_finished or text.endswith("\n") or "\n" not in text:
            return text
        return text[: text.rindex("\n") + 1]

    @property
    def lines(self) -> list[str]:
        """Lines of the drumroll, newlines kept."""
        return self.drumroll.splitlines(keepends=True)


class Composer:
    """A model made ready to continue prompts: weights cast and laid out for decoding.

    Args:
      dtype: of the weights in decoding; bfloat16 halves what is read for each token.
      cache_step: see `lab.nn.generation.generate`.
    """

    def __init__(self, model: DrumModel, *, dtype: str = "float32", cache_step: int | None = None):
        ready = model.with_dtype(dtype)
        self.config, self.tokenizer = ready.config, model.tokenizer
        self.params = jax.jit(unstack)(ready.params)
        self.cache_step = cache_step

    def compose(
        self,
        prompts: Sequence[str],
        *,
        num_steps: int | None = None,
        constrained: bool = True,
        seeds: int | Sequence[int] = 0,
        max_new_tokens: int | None = None,
        settings: Sampling | None = None,
        **sampled: Any,
    ) -> list[Composition]:
        """Continues every prompt, all in one call.

        Args:
          prompts: whole measures of 16 lines, a line `SEP` behind each (`prompt_of`).
          num_steps: exactly so many more steps (needs the grammar); None: until the model ends.
          constrained: let the grammar mask what would not be a groove.
          seeds: one a prompt: the same seed and prompt give the same continuation whatever else
            is in the batch; or a number from which one is drawn for every row.
          max_new_tokens: by default what the longest spelling of `num_steps` needs, else 1000.
          settings: or as keywords temperature, top_k, top_p, min_p, repetition, each a number or
            an array of one a prompt.
        Raises: InvalidInputError for a prompt of other characters or no whole measures, or texts
          that do not fit the model's context (before anything is compiled).
        """
        require(len(prompts) > 0, "there are no prompts")
        require(constrained or num_steps is None, "only the grammar can count steps")
        prompts = [check_prompt(prompt) for prompt in prompts]
        batch = left_padded(prompts, self.tokenizer)
        check_ids(np.asarray(batch.ids), self.config.vocab_size)
        automaton = self.automaton(num_steps) if constrained else None
        if max_new_tokens is None:
            max_new_tokens = MAX_NEW_TOKENS
            if automaton is not None and num_steps is not None:
                max_new_tokens = longest(automaton)
        settings = settings or sampling(len(prompts), **sampled)
        out = self.run(batch.ids, batch.mask, seeds, settings, max_new_tokens, automaton)
        return self._compositions(prompts, out)

    def automaton(self, num_steps: int | None) -> Automaton:
        """The grammar of continuations of so many steps, for this model's tokens."""
        return grammar(self.tokenizer.drum_tokens(), num_steps)

    def run(
        self,
        ids: Any,
        mask: Any,
        seeds: Any,
        settings: Any,
        max_new_tokens: Any,
        automaton: Any = None,
    ) -> Generated:
        """The compiled call itself: one program a shape of (prompts, tokens)."""
        rows = ids.shape[0]
        return generate(
            self.config,
            self.params,
            ids,
            mask,
            _keys(seeds, rows),
            settings,
            max_new_tokens=max_new_tokens,
            end_id=jnp.int32(self.tokenizer.end_id if automaton is None else NEVER),
            pad_id=self.tokenizer.pad_id,
            automaton=automaton,
            states=None if automaton is None else jnp.full(rows, START, jnp.int32),
            cache_step=self.cache_step,
            track_seen=bool((np.asarray(settings.repetition) != 1).any()),
        )

    def _compositions(self, prompts: Sequence[str], out: Generated) -> list[Composition]:
        tokens, lengths, finished = map(np.asarray, (out.tokens, out.lengths, out.is_finished))
        found = []
        for prompt, row, length, ended in zip(prompts, tokens, lengths, finished, strict=True):
            text = self.tokenizer.decode(row[:length].tolist())
            is_finished = bool(ended) or END in text
            found.append(Composition(prompt + text, is_finished, int(length)))
        return found


def _keys(seeds: int | Sequence[int], rows: int) -> jax.Array:
    if isinstance(seeds, int):
        base = jax.random.key(seeds)
        return jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.arange(rows))
    require(len(seeds) == rows, f"{len(seeds)} seeds for {rows} prompts")
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def prompt_of_groove(groove: Groove) -> str:
    """The prompt of a groove: its first two neighbouring measures of 16 steps that sound, or the
    first two that sound where none are neighbours.

    Raises: InvalidInputError where fewer than two sound.
    """
    measures = groove.hits[: len(groove.hits) // MEASURE * MEASURE].reshape(-1, MEASURE, WIDTH)
    sounding = np.flatnonzero(measures.any(axis=(1, 2)))
    require(
        len(sounding) >= 2,
        f"a prompt needs 2 measures of {MEASURE} steps that are not empty, the groove has "
        f"{len(sounding)} in {len(groove.hits)} steps",
    )
    first = np.argmax(np.diff(sounding) == 1)
    return prompt_of(measures[sounding[first : first + 2]].reshape(-1, WIDTH))


def compose_bars(
    composer: Composer,
    prompts: Sequence[str],
    *,
    num_bars: int,
    meter: tuple[int, int] = (4, 4),
    bpm: float | None = None,
    with_prompt: bool = True,
    candidates: int = 1,
    seeds: int | Sequence[int] = 0,
    **options: Any,
) -> list[Groove]:
    """Grooves of exactly so many bars in a meter of quarters, each continuing a prompt.

    Args:
      with_prompt: the given steps are the groove's beginning; otherwise the bars come after them.
      candidates: drawn for each prompt, all in one call; the one with the fewest silent measures is
        taken, of equals the first. Models that have read pieces with silence at the end write it.
      seeds, options: of `Composer.compose`.
    Raises: InvalidInputError where the bars are no longer than the prompt.
    """
    require(meter[1] == 4 and meter[0] >= 1, f"meter is {meter[0]}/{meter[1]}; accepted: x/4")
    require(num_bars >= 1, f"num_bars must be at least 1, got {num_bars}")
    total = num_bars * meter[0] * STEPS_PER_QUARTER
    missing = total - (PROMPT_STEPS if with_prompt else 0)
    require(
        missing > 0,
        f"{num_bars} bars of {meter[0]}/4 are {total} steps, no more than the prompt's "
        f"{PROMPT_STEPS}: ask for more bars, or leave the prompt out",
    )
    require(candidates >= 1, f"candidates must be at least 1, got {candidates}")
    if not isinstance(seeds, int):
        seeds = [seed + turn * CANDIDATE_SEEDS for turn in range(candidates) for seed in seeds]
    drawn = [*prompts] * candidates
    found = composer.compose(drawn, num_steps=missing, seeds=seeds, **options)
    hits = [_hits(composition) for composition in found]
    chosen = [
        min(hits[i :: len(prompts)], key=lambda own: num_silent(own[PROMPT_STEPS:]))
        for i in range(len(prompts))
    ]
    first = 0 if with_prompt else PROMPT_STEPS
    return [Groove(own[first:][:total], meter=meter, bpm=bpm) for own in chosen]


def _hits(composition: Composition) -> np.ndarray:
    hits, malformed = parse_drumroll(composition.text, on_error="repair")
    if malformed:
        warnings.warn(f"{len(malformed)} malformed lines were repaired", stacklevel=3)
    return hits


def num_silent(hits: np.ndarray) -> int:
    """How many measures of 16 steps have no hit; a partial last one counts."""
    starts = range(0, len(hits), MEASURE)
    return sum(not hits[start : start + MEASURE].any() for start in starts)
