"""Batches: masks, packing, buckets, cutting, prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.decoder import DecoderConfig, init_params
from lab.papers.drums.data import (
    buckets,
    check_ids,
    encode_rows,
    filled,
    left_padded,
    packed,
    padded,
    windows,
)
from lab.papers.drums.library import library_rows
from lab.papers.drums.losses import completion_nll, next_token_nll, target_masks
from lab.papers.drums.rows import Row
from lab.papers.drums.tokenizers import LineTokenizer

TOKENIZER = LineTokenizer()
ROWS = [
    *library_rows(3, num_bars=4),
    *library_rows(2, num_bars=6),
    *library_rows(2, num_bars=3, seed=1),
]
TEXTS = encode_rows(ROWS, TOKENIZER)
CONFIG = DecoderConfig(vocab_size=67, context=160, width=16, num_layers=2, num_heads=2)


def test_masks_mark_prompt_and_completion_targets():
    batch = padded(TEXTS[:1], TOKENIZER.pad_id, length=128)
    text = TEXTS[0]
    assert batch["prompt"].sum() == text.prompt_length - 1
    assert batch["completion"].sum() == text.length - text.prompt_length
    assert batch["lines"].tolist() == [ROWS[0].num_completion_lines]
    masks = target_masks(jnp.array([text.prompt_length]), jnp.array([text.length]), 128)
    for name, mask in masks.items():
        assert np.array_equal(batch[name], mask)
    assert (batch["ids"][0, text.length :] == TOKENIZER.pad_id).all()


def test_packed_texts_do_not_see_each_other():
    params = init_params(CONFIG, jax.random.key(0))
    pad, length = TOKENIZER.pad_id, 160
    nll = jax.jit(lambda batch: completion_nll(CONFIG, params, batch))
    alone = padded(TEXTS, pad, length=length)
    together = packed(TEXTS, pad, length)
    assert len(together["ids"]) < len(TEXTS)
    assert together["completion"].sum() == alone["completion"].sum()
    assert together["lines"].sum() == alone["lines"].sum()
    rows = jax.device_get(nll(together)), jax.device_get(nll(alone))
    sums = [
        (values * batch["completion"][:, 1:]).sum()
        for values, batch in zip(rows, (together, alone), strict=True)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_a_chunked_loss_is_the_whole_one():
    params = init_params(CONFIG, jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (2, 29, 16))
    targets = jax.random.randint(jax.random.key(2), (2, 29), 0, 67)

    def total(hidden, chunk):
        return next_token_nll(params, hidden, targets, chunk=chunk).sum()

    whole, gradient = jax.value_and_grad(total)(hidden, None)
    cut, cut_gradient = jax.value_and_grad(total)(hidden, 8)
    assert cut == pytest.approx(float(whole), rel=1e-6)
    np.testing.assert_allclose(cut_gradient, gradient, atol=1e-6)


def test_buckets_hold_every_text_once_in_few_shapes():
    batches = buckets(TEXTS, TOKENIZER.pad_id, 2, multiple=32)
    assert all(len(batch["ids"]) == 2 for batch in batches)
    assert all(batch["ids"].shape[1] % 32 == 0 for batch in batches)
    assert sum(batch["lines"].sum() for batch in batches) == sum(t.num_lines for t in TEXTS)
    assert sum(batch["mask"].sum() for batch in batches) == len(TEXTS)
    with pytest.raises(InvalidInputError, match="do not fit a batch of 1"):
        filled(padded(TEXTS[:2], 66), 1)


def test_long_texts_are_cut_after_a_measure_with_a_warning():
    with pytest.warns(UserWarning, match=r"of 7 texts are longer than a context of 70"):
        short = encode_rows(ROWS, TOKENIZER, context=70)
    assert max(t.length for t in short) <= 70
    text = TOKENIZER.decode(short[3].ids)
    assert text.endswith("SEP\n")
    assert short[3].num_lines == len(short[3].ids) - short[3].prompt_length
    with pytest.raises(InvalidInputError, match="not one measure"):
        encode_rows(ROWS, TOKENIZER, context=40)
    with pytest.raises(InvalidInputError, match="a row only 50"):
        packed(TEXTS, 66, 50)
    with pytest.raises(InvalidInputError, match="no rows"):
        encode_rows([], TOKENIZER)


def test_windows_end_behind_a_measure():
    rows = windows(ROWS, 2)
    assert len(rows) == 2  # six bars have four behind the prompt, four only two
    assert all(row.completion.count("SEP\n") == 2 for row in rows)
    assert all(row.completion.endswith("SEP\n") for row in rows)
    assert windows([Row(ROWS[3].prompt, "------\n" * 16 + "SEP\n" * 3)], 2) == []


def test_prompts_are_padded_on_the_left():
    batch = left_padded(["o-----\n" * 3, "--o---\n" * 5], TOKENIZER, multiple=4)
    assert batch.ids.shape == (2, 8)
    assert batch.mask.sum(axis=1).tolist() == [3, 5]
    assert batch.ids[0, 5:].tolist() == [32] * 3
    with pytest.raises(InvalidInputError, match="is empty"):
        left_padded(["", "o-----\n"], TOKENIZER)
    with pytest.raises(InvalidInputError, match="no prompts"):
        left_padded([], TOKENIZER)


def test_ids_outside_the_vocabulary_are_refused():
    check_ids(np.array([[0, 66]]), 67)
    with pytest.raises(InvalidInputError, match=r"from 0 to 67.* do not belong together"):
        check_ids(np.array([[0, 67]]), 67)
