"""Fine-tuning: what moves and what does not, LoRA, copies in one call, resume."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError
from lab.nn.decoder import DecoderConfig, init_params
from lab.papers.drums.data import encode_rows, padded
from lab.papers.drums.library import library_rows
from lab.papers.drums.lora import LoraConfig, init_lora, with_lora
from lab.papers.drums.losses import prompt_weighted_loss
from lab.papers.drums.steps import (
    begin,
    begin_lora,
    evaluation,
    fine_tuning,
    lora_tuning,
    optimizer,
)
from lab.papers.drums.tokenizers import LineTokenizer
from lab.papers.drums.whole import Hyper, rows_of_step, stack, train_copy
from lab.train import compile_copies

TOKENIZER = LineTokenizer()
CONFIG = DecoderConfig(
    architecture="llama",
    vocab_size=67,
    context=80,
    width=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    ffn_width=24,
)
TEXTS = encode_rows(library_rows(8, num_bars=4), TOKENIZER)
BATCH = padded(TEXTS, TOKENIZER.pad_id, length=72)


@pytest.fixture(scope="module", name="params")
def initial_params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))


def moved(before, after):
    """Names of the leaves that changed, and for stacked ones of which blocks."""
    found = {}
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        changed = np.asarray(a != b)
        if name.startswith("blocks/"):
            changed = changed.reshape(len(changed), -1).any(axis=1).tolist()
        else:
            changed = bool(changed.any())
        found[name] = changed
    return found


def test_training_lowers_the_loss_and_moves_everything(params):
    tx = optimizer(3e-3)
    step = jax.jit(fine_tuning(CONFIG, tx))
    state, losses = begin(params, tx, jax.random.key(1)), []
    for _ in range(12):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.5
    changed = moved(params, state.params)
    assert all(np.all(value) for value in changed.values())
    totals = evaluation(CONFIG)(state.params, BATCH)
    assert totals["lines"] == sum(t.num_lines for t in TEXTS)
    assert totals["tokens"] == sum(t.length - t.prompt_length for t in TEXTS)


def test_frozen_blocks_and_embeddings_stay(params):
    tx = optimizer(1e-2, num_layers=3, frozen_layers=2)
    step = jax.jit(fine_tuning(CONFIG, tx, frozen_layers=2))
    state, _ = step(begin(params, tx, jax.random.key(1)), BATCH)
    changed = moved(params, state.params)
    assert changed.pop("embed") is False
    assert changed.pop("norm/scale") is True
    assert all(value == [False, False, True] for value in changed.values())


def test_the_gradient_of_trained_blocks_does_not_depend_on_freezing_others(params):
    def gradient(frozen):
        loss = functools.partial(prompt_weighted_loss, CONFIG, frozen_layers=frozen)
        gradient = jax.jit(jax.grad(lambda p: loss(p, {}, BATCH)[0]))
        return gradient(params)["blocks"]["down"]["kernel"]

    free, frozen = gradient(0), gradient(2)
    np.testing.assert_allclose(frozen[2], free[2], atol=1e-7)
    assert not frozen[:2].any()


@pytest.mark.parametrize("parts", [("q", "v"), ("k", "proj")])
def test_adapters_begin_at_the_model_and_move_their_own_columns_only(parts, params):
    lora = LoraConfig(rank=2, parts=parts)
    adapters = init_lora(CONFIG, lora, jax.random.key(2))
    start = with_lora(CONFIG, lora, params, adapters)
    assert not any(np.any(v) for v in moved(params, start).values())
    tx = optimizer(1e-2, weight_decay=0.0)
    step = jax.jit(lora_tuning(CONFIG, lora, tx))
    state = begin_lora(params, adapters, tx, jax.random.key(3))
    for _ in range(2):
        state, metrics = step(state, BATCH)
    assert np.isfinite(metrics["loss"])
    merged = with_lora(CONFIG, lora, params, state.params)
    kernel = np.asarray(merged["blocks"]["qkv"]["kernel"] != params["blocks"]["qkv"]["kernel"])
    columns = dict(zip("qkv", np.split(kernel, np.cumsum(CONFIG.qkv_widths)[:2], -1), strict=True))
    assert {part for part, c in columns.items() if c.any()} == set(parts) & set("qkv")
    others = moved(params, merged)
    assert np.any(others.pop("blocks/proj/kernel")) == ("proj" in parts)
    others.pop("blocks/qkv/kernel")
    assert not any(np.any(value) for value in others.values())


def test_adapters_are_the_low_rank_sum(params):
    lora = LoraConfig(rank=2, alpha=6.0, parts=("k",))
    adapters = init_lora(CONFIG, lora, jax.random.key(2))
    adapters["k"]["b"] = jax.random.normal(jax.random.key(5), adapters["k"]["b"].shape)
    merged = with_lora(CONFIG, lora, params, adapters)["blocks"]["qkv"]["kernel"]
    delta = np.asarray(merged - params["blocks"]["qkv"]["kernel"])[:, :, 16:24]
    for block in range(3):
        a, b = np.asarray(adapters["k"]["a"][block]), np.asarray(adapters["k"]["b"][block])
        np.testing.assert_allclose(delta[block], 3.0 * a @ b, atol=1e-5)
    with pytest.raises(InvalidInputError, match="parts are"):
        LoraConfig(parts=("w",))
    with pytest.raises(InvalidInputError, match="rank"):
        LoraConfig(rank=0)


def test_every_epoch_takes_every_row_once_and_only_allowed_ones():
    key = jax.random.key(0)
    take = jax.jit(rows_of_step, static_argnums=(3, 4))
    epoch = np.concatenate([take(key, s, 8, 8, 2) for s in range(4)])
    other = np.concatenate([take(key, s, 8, 8, 2) for s in range(4, 8)])
    assert sorted(epoch) == sorted(other) == list(range(8))
    assert epoch.tolist() != other.tolist()
    few = np.concatenate([take(key, s, 3, 8, 2) for s in range(4)])
    assert set(few.tolist()) == {0, 1, 2}


def test_a_copy_is_what_it_is_alone_and_prompt_weights_differ():
    config = dataclasses.replace(CONFIG, num_layers=1)
    tx = optax.sgd(0.1)
    chunk = train_copy(config, tx, 4, 2)
    run = compile_copies(chunk, (0, None, 0, None), jax.devices()[:1], in_turn=True)
    starts = [init_params(config, jax.random.key(i)) for i in (0, 0, 1)]
    states = stack([begin(p, tx, jax.random.key(7)) for p in starts])
    hyper = Hyper(jnp.array([0.0, 1.0, 0.0]), jnp.array([8, 8, 8], jnp.int32))
    out, history = run(states, BATCH, hyper, jnp.int32(2))
    assert history["loss"].shape == (3, 2)
    assert history["loss"][0, 0] != history["loss"][1, 0]
    alone = begin(starts[2], tx, jax.random.key(7))
    single, _ = jax.jit(chunk)(alone, BATCH, Hyper(jnp.float32(0), jnp.int32(8)), jnp.int32(2))
    for a, b in zip(jax.tree.leaves(single.params), jax.tree.leaves(out.params), strict=True):
        np.testing.assert_allclose(a, b[2], atol=1e-6)
