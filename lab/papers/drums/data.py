"""Rows to batches: tokens, weights, padding to length buckets, packing of several texts a row.

A batch is a dict of arrays, one row a text or several texts packed:

    ids        int32 [B, T], padding behind
    segments   int32 [B, T], the number of the text within its row from 1, 0 on padding
    positions  int32 [B, T], places within the text
    prompt     float32 [B, T], 1 where a token of a prompt is a target (not a text's first one)
    completion float32 [B, T], 1 where a token of a completion is
    lines      float32 [B], lines of the completions, `SEP` and `END` included
"""

import dataclasses
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import InvalidInputError, require
from lab.papers.drums.notation import SEPARATOR
from lab.papers.drums.rows import Row
from lab.papers.drums.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A row in tokens: prompt and completion encoded separately and joined."""

    ids: np.ndarray
    prompt_length: int
    num_lines: int
    name: str = ""

    @property
    def length(self) -> int:
        return len(self.ids)


def encode_rows(
    rows: Sequence[Row], tokenizer: Tokenizer, *, context: int | None = None
) -> list[Encoded]:
    """Encodes rows; those longer than `context` are cut at a measure's end, with a warning."""
    require(len(rows) > 0, "there are no rows to encode")
    encoded, num_cut = [], 0
    for row in rows:
        prompt, completion = tokenizer.encode(row.prompt), tokenizer.encode(row.completion)
        lines = row.num_completion_lines
        if context is not None and len(prompt) + len(completion) > context:
            row, completion = _cut_row(row, tokenizer, context - len(prompt))
            lines, num_cut = row.completion.count("\n"), num_cut + 1
        ids = np.array([*prompt, *completion], np.int32)
        encoded.append(Encoded(ids, len(prompt), lines, row.name))
    if num_cut:
        warnings.warn(
            f"{num_cut} of {len(rows)} texts are longer than a context of {context} tokens and "
            "were cut at the end of a measure",
            stacklevel=2,
        )
    return encoded


def _cut_row(row: Row, tokenizer: Tokenizer, room: int) -> tuple[Row, list[int]]:
    """The row with as many whole measures of its completion as `room` tokens hold."""
    mark = f"{SEPARATOR}\n"
    measures = row.completion.split(mark)
    for count in range(len(measures) - 1, 0, -1):
        completion = mark.join(measures[:count]) + mark
        tokens = tokenizer.encode(completion)
        if len(tokens) <= room:
            return dataclasses.replace(row, completion=completion), tokens
    raise InvalidInputError(
        f"{row.name or 'a text'}: not one measure of the completion fits beside its prompt; "
        "choose a longer context or another tokenizer"
    )


def windows(rows: Sequence[Row], num_measures: int = 2, *, min_hits: int = 8) -> list[Row]:
    """Rows whose completion is only its first measures, `SEP` behind each, for short budgets.

    Rows with fewer measures, or fewer than `min_hits` hits in them, are left out.
    """
    mark, kept = f"{SEPARATOR}\n", []
    for row in rows:
        measures = row.completion.split(mark)
        if len(measures) <= num_measures:
            continue
        completion = mark.join(measures[:num_measures]) + mark
        if completion.count("o") >= min_hits:
            kept.append(Row(row.prompt, completion, row.name))
    return kept


def padded(
    texts: Sequence[Encoded],
    pad_id: int,
    *,
    length: int | None = None,
) -> Batch:
    """One text a row, padded behind to `length` (by default the longest)."""
    length = length or max(text.length for text in texts)
    packs = [[text] for text in texts]
    return _packed(packs, pad_id, length)


def packed(texts: Sequence[Encoded], pad_id: int, length: int) -> Batch:
    """As few rows of `length` tokens as first-fit packing, longest first, finds; texts in one row
    do not see each other."""
    packs: list[list[Encoded]] = []
    room: list[int] = []
    for text in sorted(texts, key=lambda t: -t.length):
        place = next((i for i, free in enumerate(room) if free >= text.length), None)
        if place is None:
            packs.append([])
            room.append(length)
            place = len(packs) - 1
        packs[place].append(text)
        room[place] -= text.length
    return _packed(packs, pad_id, length)


def buckets(
    texts: Sequence[Encoded],
    pad_id: int,
    batch_size: int,
    *,
    multiple: int = 64,
) -> list[Batch]:
    """Batches of texts of similar length, each padded to a multiple, so that few shapes occur.

    A last batch is filled with rows that have no targets ("mask" 0).
    """
    ordered = sorted(texts, key=lambda t: t.length)
    batches = []
    for start in range(0, len(ordered), batch_size):
        part = ordered[start : start + batch_size]
        length = -(-part[-1].length // multiple) * multiple
        batches.append(filled(padded(part, pad_id, length=length), batch_size))
    return batches


def filled(batch: Batch, batch_size: int) -> Batch:
    """The batch with "mask" float32 [batch_size], and rows without targets at the end."""
    rows = len(batch["ids"])
    missing = batch_size - rows
    require(missing >= 0, f"{rows} rows do not fit a batch of {batch_size}")
    grown = {
        name: np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for name, x in batch.items()
    }
    for name in ("prompt", "completion", "lines"):
        grown[name][rows:] = 0
    return grown | {"mask": (np.arange(batch_size) < rows).astype(np.float32)}


def _packed(packs, pad_id, length) -> Batch:
    require(len(packs) > 0, "there are no texts to put into a batch")
    shape = (len(packs), length)
    batch = {
        "ids": np.full(shape, pad_id, np.int32),
        "segments": np.zeros(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
        "prompt": np.zeros(shape, np.float32),
        "completion": np.zeros(shape, np.float32),
        "lines": np.array([sum(t.num_lines for t in pack) for pack in packs], np.float32),
    }
    for row, pack in enumerate(packs):
        start = 0
        for number, text in enumerate(pack, start=1):
            end = start + text.length
            require(
                end <= length,
                f"{text.name or 'a text'} has {text.length} tokens, a row only {length}",
            )
            batch["ids"][row, start:end] = text.ids
            batch["segments"][row, start:end] = number
            batch["positions"][row, start:end] = np.arange(text.length)
            batch["prompt"][row, start + 1 : start + text.prompt_length] = 1
            batch["completion"][row, start + text.prompt_length : end] = 1
            start = end
    return batch


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts padded on the left: ids int32 [B, T], mask bool [B, T]."""

    ids: jax.Array
    mask: jax.Array


def left_padded(prompts: Sequence[str], tokenizer: Tokenizer, *, multiple: int = 16) -> Prompts:
    """Encodes prompts into one batch whose width is a multiple, so that few shapes occur."""
    require(len(prompts) > 0, "there are no prompts")
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    require(min(map(len, encoded)) > 0, "a prompt is empty")
    width = -(-max(map(len, encoded)) // multiple) * multiple
    ids = np.full((len(encoded), width), tokenizer.pad_id, np.int32)
    mask = np.zeros((len(encoded), width), bool)
    for row, tokens in enumerate(encoded):
        ids[row, width - len(tokens) :] = tokens
        mask[row, width - len(tokens) :] = True
    return Prompts(jnp.asarray(ids), jnp.asarray(mask))


def check_ids(ids: np.ndarray, vocab_size: int) -> None:
    """Raises InvalidInputError for token ids outside a vocabulary (a gather would clamp them)."""
    ids = np.asarray(ids)
    low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
    require(
        low >= 0 and high < vocab_size,
        f"token ids reach from {low} to {high}, the model's vocabulary from 0 to {vocab_size - 1}: "
        "model and tokenizer do not belong together",
    )
