"""Decoders: parameter counts, caches, packing, dropout, and a slow reference of the attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn import decoder
from lab.nn.decoder import GPT2_SMALL, SMOLLM2_135M, DecoderConfig, init_params, num_parameters

GPT2 = DecoderConfig(vocab_size=31, context=24, width=16, num_layers=2, num_heads=4)
LLAMA = DecoderConfig(
    architecture="llama",
    vocab_size=31,
    context=24,
    width=24,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    ffn_width=20,
    is_tied=False,
)
BOTH = pytest.mark.parametrize("config", [GPT2, LLAMA], ids=lambda c: c.architecture)
IDS = np.random.default_rng(3).integers(0, 31, (2, 10)).astype(np.int32)
apply = jax.jit(decoder.apply, static_argnums=0)
init = jax.jit(init_params, static_argnums=0)
prefill = jax.jit(decoder.prefill, static_argnums=(0, 4))


def test_published_sizes():
    assert num_parameters(GPT2_SMALL) == 124_439_808
    assert num_parameters(SMOLLM2_135M) == 134_515_008


@BOTH
def test_logits_depend_on_the_past_only(config):
    params = init(config, jax.random.key(0))
    before = apply(config, params, IDS)
    after = apply(config, params, np.where(np.arange(10) == 6, 0, IDS))
    np.testing.assert_allclose(after[:, :6], before[:, :6], atol=1e-5)
    assert not np.allclose(after[:, 6:], before[:, 6:], atol=1e-3)


@BOTH
def test_cached_decoding_gives_the_logits_of_the_whole_text(config):
    params = init(config, jax.random.key(0))
    whole = apply(config, params, IDS)
    hidden, cache = prefill(config, params, IDS[:, :4], jnp.ones((2, 4), bool), 7)
    flat = decoder.unstack(params)
    step = jax.jit(decoder.decode, static_argnums=0)
    logits = [decoder.logits_of(params, hidden)]
    for place in range(4, 10):
        cache = decoder.grow(cache, 10) if place == 7 else cache
        hidden, cache = step(config, flat, IDS[:, place], cache)
        logits.append(decoder.logits_of(params, hidden))
    np.testing.assert_allclose(jnp.stack(logits, 1), whole[:, 3:], atol=1e-4)
    assert cache.length == 10


@BOTH
def test_left_padding_changes_nothing(config):
    params = init(config, jax.random.key(0))
    padded = jnp.concatenate([jnp.zeros((2, 3), IDS.dtype), IDS], axis=1)
    mask = jnp.arange(13)[None] >= jnp.full((2, 1), 3)
    hidden, _ = prefill(config, params, padded, mask, 13)
    whole = apply(config, params, IDS)[:, -1]
    np.testing.assert_allclose(decoder.logits_of(params, hidden), whole, atol=1e-4)


@BOTH
def test_segments_keep_packed_texts_apart(config):
    params = init(config, jax.random.key(0))
    segments = jnp.array([[1] * 4 + [2] * 6])
    positions = jnp.array([[*range(4), *range(6)]])
    both = apply(config, params, IDS[:1], segments=segments, positions=positions)
    alone = apply(config, params, IDS[:1, 4:])
    np.testing.assert_allclose(both[:, 4:], alone, atol=1e-4)


@BOTH
def test_stacked_and_separate_blocks_agree(config):
    params = init(config, jax.random.key(0))
    every = jax.jit(lambda p: decoder.hidden_states(config, p, IDS, every_block=True))
    states, flat = every(params), every(decoder.unstack(params))
    assert len(states) == len(flat) == 3
    for a, b in zip(states, flat, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    some = jnp.array([5, 2])
    np.testing.assert_allclose(
        decoder.logits_of(params, states[-1], some),
        decoder.logits_of(params, states[-1])[..., some],
        atol=1e-5,
    )


def test_recomputing_activations_changes_no_gradient():
    params = init(LLAMA, jax.random.key(0))

    def loss(params, config):
        return decoder.apply(config, params, IDS).var()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain, again = (gradient(params, dataclasses.replace(LLAMA, remat=r)) for r in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)


def test_grouped_attention_is_softmax_over_the_visible():
    q = np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)).astype(np.float32)
    k, v = np.random.default_rng(1).normal(size=(2, 1, 2, 5, 8)).astype(np.float32)
    visible = np.tril(np.ones((4, 5), bool), 1)
    found = decoder._attend(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), visible)
    for key in range(2):
        for group in range(3):
            for t in range(4):
                scores = k[0, key] @ q[0, key, group, t] / np.sqrt(8)
                weights = np.where(visible[t], np.exp(scores), 0)
                wanted = (weights / weights.sum()) @ v[0, key]
                np.testing.assert_allclose(found[0, key, group, t], wanted, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    x = jax.random.normal(jax.random.key(0), (2, 8))
    first = (
        decoder.rotate(x[:1], jnp.array([3]), 100.0)
        @ decoder.rotate(x[1:], jnp.array([5]), 100.0).T
    )
    moved = (
        decoder.rotate(x[:1], jnp.array([13]), 100.0)
        @ decoder.rotate(x[1:], jnp.array([15]), 100.0).T
    )
    np.testing.assert_allclose(first, moved, atol=1e-4)


def test_dropout_needs_a_key_and_keeps_the_mean():
    config = dataclasses.replace(GPT2, dropout_rate=0.5)
    params = init(config, jax.random.key(0))
    calm = apply(config, params, IDS)
    np.testing.assert_allclose(calm, apply(GPT2, params, IDS), atol=1e-6)
    one, same, other = (apply(config, params, IDS, key=jax.random.key(k)) for k in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-3)
    dropped = decoder.Dropout(jax.random.key(0), 0.25)(jnp.ones((100, 100)), 1)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(1 / 0.75)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "rnn"}, "architecture is 'rnn'"),
        ({"width": 18, "head_dim": None}, "must divide the width 18"),
        ({"num_kv_heads": 3}, "must divide num_heads"),
        ({"num_kv_heads": 2}, "one key head for each"),
        ({"num_layers": 0}, "must be positive"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        dataclasses.replace(GPT2, **change)


def test_odd_rotary_heads_and_long_texts_are_refused():
    with pytest.raises(InvalidInputError, match="even head_dim"):
        dataclasses.replace(LLAMA, head_dim=7)
    with pytest.raises(InvalidInputError, match="do not fit a context of 24"):
        decoder.apply(GPT2, init_params(GPT2, jax.random.key(0)), jnp.zeros((1, 25), int))
