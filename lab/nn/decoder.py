"""Decoder-only language models, GPT-2 and Llama, as pure functions of a parameter pytree.

    x_0 = embed[ids]  (GPT-2: + positions[pos])
    x  += proj(attention(norm1(x)))       x += mlp(norm2(x))       logits = norm(x_L) embed^T

GPT-2: LayerNorm, biases, fc2(gelu_tanh(fc1(x))). Llama: RMSNorm, no biases, rotary positions
(half-split), grouped keys, down(silu(gate(x)) * up(x)).

Parameters: `embed` [V, D]; GPT-2's `positions` [context, D]; `norm`; `head` {"kernel" [D, V]} where
it is not tied; and `blocks`, either one pytree stacked along a leading axis of L, run as a scan
(for training), or a tuple of L pytrees, run one by one (`unstack`, for decoding). Kernels are
[in, out]; queries, keys and values of a block lie side by side in `qkv`, gate and up in `gate_up`.

Dimension letters: B batch, T tokens, S cache slots, H query heads, K key heads, G = H / K queries a
key, d width of a head, D width, F width inside the MLP, V vocabulary, L blocks.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from flax import struct

from lab.errors import require

Params = Any
MASKED = -1e30  # finite, so that a row without any visible key stays finite too


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder, and how it is run.

    Attributes:
      ffn_width: F; None is 4 D.
      num_kv_heads, head_dim: None is num_heads, and width / num_heads.
      is_tied: the output matrix is the embedding.
      dropout_rate: on embeddings, attention weights and both branches (GPT-2's training).
      dtype: of matrix products; the residual stream, norms, softmaxes and logits are float32.
      remat: recompute a block's activations in the backward pass instead of keeping them.
    """

    architecture: Literal["gpt2", "llama"] = "gpt2"
    vocab_size: int = 50257
    context: int = 1024
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    ffn_width: int | None = None
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    is_tied: bool = True
    dropout_rate: float = 0.0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        known = self.architecture in ("gpt2", "llama")
        require(known, f"architecture is {self.architecture!r}; accepted: 'gpt2', 'llama'")
        sizes = (self.vocab_size, self.context, self.width, self.num_layers, self.num_heads)
        require(min(sizes) >= 1, f"sizes must be positive: {self}")
        has_width = self.head_dim is not None or self.width % self.num_heads == 0
        require(has_width, f"num_heads {self.num_heads} must divide the width {self.width}")
        grouped = self.num_heads % self.kv_heads == 0
        require(grouped, f"num_kv_heads {self.kv_heads} must divide num_heads {self.num_heads}")
        same = self.architecture == "llama" or self.kv_heads == self.num_heads
        require(same, "GPT-2 has one key head for each query head")
        is_even = self.architecture == "gpt2" or self.head_width % 2 == 0
        require(is_even, f"rotary positions need an even head_dim, got {self.head_width}")
        require(0 <= self.dropout_rate < 1, f"dropout_rate must lie in [0, 1): {self}")

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        return self.head_dim or self.width // self.num_heads

    @property
    def mlp_width(self) -> int:
        return self.ffn_width or 4 * self.width

    @property
    def qkv_widths(self) -> tuple[int, int, int]:
        """Columns of the queries, keys and values in `qkv`."""
        keys = self.kv_heads * self.head_width
        return self.num_heads * self.head_width, keys, keys


GPT2_SMALL = DecoderConfig(dropout_rate=0.1)
SMOLLM2_135M = DecoderConfig(
    architecture="llama",
    vocab_size=49152,
    context=8192,
    width=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    ffn_width=1536,
    rope_theta=100_000.0,
)


class Dropout(NamedTuple):
    """What is dropped in training: a key and a rate."""

    key: jax.Array
    rate: float

    def __call__(self, x: jax.Array, place: int) -> jax.Array:
        kept = jax.random.bernoulli(jax.random.fold_in(self.key, place), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens so far.

    Attributes: keys, values, tuples of L arrays [B, K, S, d]; is_filled bool [B, S], slots that
      hold a token that counts; length int32, the slot that the next token takes.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    is_filled: jax.Array
    length: jax.Array


def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Random parameters, N(0, 0.02), biases 0, norms 1; GPT-2's residual projections are scaled
    by 1 / sqrt(2 L). `blocks` come stacked."""
    keys = iter(jax.random.split(key, 8))

    def normal(*shape, std=0.02):
        return std * jax.random.normal(next(keys), shape, jnp.float32)

    depth, width, biased = config.num_layers, config.width, config.architecture == "gpt2"
    residual = 0.02 / math.sqrt(2 * depth) if biased else 0.02

    def dense(fan_in, fan_out, std=0.02):
        bias = {"bias": jnp.zeros((depth, fan_out))} if biased else {}
        return {"kernel": normal(depth, fan_in, fan_out, std=std), **bias}

    def norm(*shape):
        return {"scale": jnp.ones(shape)} | ({"bias": jnp.zeros(shape)} if biased else {})

    heads = config.num_heads * config.head_width
    first, second = ("fc1", "fc2") if biased else ("gate_up", "down")
    blocks = {
        "norm1": norm(depth, width),
        "qkv": dense(width, sum(config.qkv_widths)),
        "proj": dense(heads, width, residual),
        "norm2": norm(depth, width),
        first: dense(width, config.mlp_width * (1 if biased else 2)),
        second: dense(config.mlp_width, width, residual),
    }
    params = {"embed": normal(config.vocab_size, width), "blocks": blocks, "norm": norm(width)}
    if biased:
        params["positions"] = normal(config.context, width)
    if not config.is_tied:
        params["head"] = {"kernel": normal(width, config.vocab_size)}
    return params


def num_parameters(config: DecoderConfig) -> int:
    """How many numbers the parameters hold; nothing is computed."""
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def unstack(params: Params) -> Params:
    """The parameters with `blocks` as a tuple of one pytree a block."""
    blocks = params["blocks"]
    if not isinstance(blocks, Mapping):
        return params
    depth = len(jax.tree.leaves(blocks)[0])
    each = (jax.tree.map(operator.itemgetter(i), blocks) for i in range(depth))
    return params | {"blocks": tuple(each)}


def apply(config: DecoderConfig, params: Params, ids: jax.Array, **options: Any) -> jax.Array:
    """Logits float32 [B, T, V] of the next token at every place; options of `hidden_states`."""
    return logits_of(params, hidden_states(config, params, ids, **options))


@overload
def hidden_states(
    config: DecoderConfig,
    params: Params,
    ids: jax.Array,
    *,
    segments: jax.Array | None = None,
    positions: jax.Array | None = None,
    key: jax.Array | None = None,
    frozen_layers: int = 0,
    every_block: Literal[False] = False,
) -> jax.Array: ...


@overload
def hidden_states(
    config: DecoderConfig,
    params: Params,
    ids: jax.Array,
    *,
    segments: jax.Array | None = None,
    positions: jax.Array | None = None,
    key: jax.Array | None = None,
    frozen_layers: int = 0,
    every_block: Literal[True],
) -> list[jax.Array]: ...


def hidden_states(
    config: DecoderConfig,
    params: Params,
    ids: jax.Array,
    *,
    segments: jax.Array | None = None,
    positions: jax.Array | None = None,
    key: jax.Array | None = None,
    frozen_layers: int = 0,
    every_block: bool = False,
) -> jax.Array | list[jax.Array]:
    """The last hidden states, float32 [B, T, D], after the final norm.

    Args:
      ids: int32 [B, T].
      segments: int [B, T]; a token sees earlier tokens of its own segment. A padding mask is one
        (1 real, 0 padding, on either side), and so are the numbers of texts packed into a row.
      positions: int [B, T]; 0..T-1 by default.
      key: drops out where given, and the config has a rate.
      frozen_layers: no gradient reaches the embedding's input side and the first so many blocks.
      every_block: return [embeddings, output of block 1, ..., the last one after the final norm].
    """
    length = ids.shape[1]
    require(length <= config.context, f"{length} tokens do not fit a context of {config.context}")
    positions = jnp.arange(length)[None] if positions is None else positions
    visible = jnp.tril(jnp.ones((length, length), bool))[None]
    if segments is not None:
        visible &= segments[:, :, None] == segments[:, None, :]
    keys = None
    if key is not None and config.dropout_rate > 0:
        keys = jax.random.split(key, config.num_layers + 1)
    x = _embed(config, params, ids, positions)
    if keys is not None:
        x = Dropout(keys[-1], config.dropout_rate)(x, 0)
    states = [x]
    run = functools.partial(_run_blocks, config, positions=positions, visible=visible)
    blocks, keys = params["blocks"], None if keys is None else keys[:-1]
    if frozen_layers:
        cut = functools.partial(jax.tree.map, lambda y: y[:frozen_layers])
        x, outputs = run(cut(blocks), x, keys=cut(keys))
        x = jax.lax.stop_gradient(x)
        states += outputs
        blocks, keys = jax.tree.map(lambda y: y[frozen_layers:], (blocks, keys))
    x, outputs = run(blocks, x, keys=keys)
    x = _norm(config, params["norm"], x)
    return [*states, *outputs[:-1], x] if every_block else x


def logits_of(params: Params, hidden: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
    """Logits float32 [..., V] of hidden states float [..., D], or [..., n] of n `tokens` only."""
    if "head" in params:
        kernel = params["head"]["kernel"]
        kernel = kernel if tokens is None else kernel[:, tokens]
        return jnp.matmul(hidden.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
    table = params["embed"] if tokens is None else params["embed"][tokens]
    return jnp.einsum(
        "...d,vd->...v", hidden.astype(table.dtype), table, preferred_element_type=jnp.float32
    )


def positions_of(mask: jax.Array) -> jax.Array:
    """Places of the tokens that count, int32 [B, T], of a padding mask; 0 on the padding before."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)


def prefill(
    config: DecoderConfig, params: Params, ids: jax.Array, mask: jax.Array, num_slots: int
) -> tuple[jax.Array, Cache]:
    """Reads the prompts, padded on the left, in one call.

    Args: ids int32 [B, T]; mask bool [B, T]; num_slots S >= T of the cache.
    Returns: (hidden state of the last token [B, D], cache).
    """
    length = ids.shape[1]
    require(length <= num_slots, f"a prompt of {length} tokens, {num_slots} slots")
    params, positions, mask = unstack(params), positions_of(mask), mask.astype(bool)
    visible = jnp.tril(jnp.ones((length, length), bool))[None]
    visible &= mask[:, None, :] == mask[:, :, None]
    x, keys, values = _embed(config, params, ids, positions), [], []
    for block in params["blocks"]:

        def attend(q, k, v):
            keys.append(k)
            values.append(v)
            return _attend(q, k, v, visible[:, None, None])

        x = _block(config, block, x, positions, attend)
    hidden = _norm(config, params["norm"], x[:, -1])
    cache = Cache(tuple(keys), tuple(values), mask, jnp.int32(length))
    return hidden, grow(cache, num_slots)


def decode(
    config: DecoderConfig, params: Params, ids: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """One more token a row.

    Args: params with `blocks` unstacked; ids int32 [B]; cache with a free slot.
    Returns: (hidden state [B, D], cache with one token more).
    """
    positions = cache.is_filled.sum(axis=1, dtype=jnp.int32)[:, None]
    filled = cache.is_filled | (jnp.arange(cache.is_filled.shape[1]) == cache.length)
    x = _embed(config, params, ids[:, None], positions)
    keys, values = [], []
    stored = zip(params["blocks"], cache.keys, cache.values, strict=True)
    for block, old_keys, old_values in stored:

        def attend(q, k, v, old_keys=old_keys, old_values=old_values):
            keys.append(_put(old_keys, k, cache.length))
            values.append(_put(old_values, v, cache.length))
            return _attend(q, keys[-1], values[-1], filled[:, None, None, None])

        x = _block(config, block, x, positions, attend)
    hidden = _norm(config, params["norm"], x[:, 0])
    return hidden, Cache(tuple(keys), tuple(values), filled, cache.length + 1)


def grow(cache: Cache, num_slots: int) -> Cache:
    """The cache with empty slots behind, `num_slots` in all."""
    extra = num_slots - cache.is_filled.shape[1]
    if extra == 0:
        return cache

    def longer(x):
        return jnp.pad(x, ((0, 0), (0, 0), (0, extra), (0, 0)))

    filled = jnp.pad(cache.is_filled, ((0, 0), (0, extra)))
    keys, values = (tuple(map(longer, arrays)) for arrays in (cache.keys, cache.values))
    return Cache(keys, values, filled, cache.length)


def _put(stored: jax.Array, new: jax.Array, slot: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(stored, new.astype(stored.dtype), slot, axis=2)


def _run_blocks(config, blocks, x, *, positions, visible, keys):
    """Runs blocks, stacked or not; returns the output and a list of every block's output."""

    def run(x, layer):
        block, key = layer
        dropout = None if key is None else Dropout(key, config.dropout_rate)
        attend = functools.partial(_attend, visible=visible[:, None, None], dropout=dropout)
        x = _block(config, block, x, positions, attend, dropout)
        return x, x

    run = jax.checkpoint(run) if config.remat else run
    if isinstance(blocks, Mapping):
        x, outputs = jax.lax.scan(run, x, (blocks, keys))
        return x, list(outputs)
    outputs = []
    for i, block in enumerate(blocks):
        x, _ = run(x, (block, None if keys is None else keys[i]))
        outputs.append(x)
    return x, outputs


def _embed(config, params, ids, positions):
    x = params["embed"][ids].astype(jnp.float32)
    if config.architecture == "gpt2":
        x = x + params["positions"][positions].astype(jnp.float32)
    return x


def _block(config, block, x, positions, attend, dropout=None):
    """One block of float32 [B, T, D]; `attend` takes q [B, K, G, T, d] and k, v [B, K, T, d]."""
    dense = functools.partial(_dense, jnp.dtype(config.dtype))
    q, k, v = _heads(config, dense(block["qkv"], _norm(config, block["norm1"], x)))
    if config.architecture == "llama":
        q = rotate(q, positions[:, None, None], config.rope_theta)
        k = rotate(k, positions[:, None], config.rope_theta)
    q, k, v = (y.astype(config.dtype) for y in (q, k, v))
    mixed = dense(block["proj"], _merge(attend(q, k, v)))
    x = x + (mixed if dropout is None else dropout(mixed, 1))
    y = _norm(config, block["norm2"], x)
    if config.architecture == "gpt2":
        y = dense(block["fc2"], jax.nn.gelu(dense(block["fc1"], y), approximate=True))
    else:
        gate, up = jnp.split(dense(block["gate_up"], y), 2, axis=-1)
        y = dense(block["down"], jax.nn.silu(gate) * up)
    return x + (y if dropout is None else dropout(y, 2))


def _heads(config, qkv):
    """[B, T, (H + 2 K) d] -> queries [B, K, G, T, d], keys and values [B, K, T, d]."""
    batch, length, _ = qkv.shape
    queries, keys, _ = config.qkv_widths
    q, k, v = jnp.split(qkv, (queries, queries + keys), axis=-1)
    group = config.num_heads // config.kv_heads
    q = q.reshape(batch, length, config.kv_heads, group, config.head_width)
    k, v = (y.reshape(batch, length, config.kv_heads, config.head_width) for y in (k, v))
    return q.transpose(0, 2, 3, 1, 4), k.swapaxes(1, 2), v.swapaxes(1, 2)


def _merge(x):
    """[B, K, G, T, d] -> [B, T, H d]."""
    batch, keys, group, length, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, keys * group * width)


def _attend(q, k, v, visible, dropout=None):
    """softmax(q k^T / sqrt(d)) v with a mask bool, broadcastable to [B, K, G, T, S]."""
    scores = jnp.einsum("bkgtd,bksd->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5 + jnp.where(visible, 0.0, MASKED)
    # Divided by the sum behind the product: a fifth less time in training on a CPU than softmax.
    highest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1)[..., None]
    weights = weights if dropout is None else dropout(weights, 3)
    mixed = jnp.einsum(
        "bkgts,bksd->bkgtd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return mixed / total


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary positions in the half-split layout: channel j turns with channel j + d / 2.

    Args: x float [..., T, d]; positions int, broadcastable to [..., T].
    """
    half = x.shape[-1] // 2
    rates = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * rates
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _norm(config, params, x):
    x = x.astype(jnp.float32)
    scale = params["scale"].astype(jnp.float32)
    if config.architecture == "llama":
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.norm_epsilon) * scale
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.norm_epsilon)
    return x * scale + params["bias"].astype(jnp.float32)


def _dense(dtype, params, x):
    kernel = params["kernel"].astype(dtype)
    y = jnp.matmul(x.astype(dtype), kernel, preferred_element_type=jnp.float32)
    return y + params["bias"].astype(jnp.float32) if "bias" in params else y
