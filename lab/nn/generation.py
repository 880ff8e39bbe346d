"""Continuing a batch of prompts in one compiled loop, freely or along an automaton."""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from lab.errors import require
from lab.nn import decoder
from lab.nn.decoder import DecoderConfig, Params
from lab.nn.sampling import Sampling, draw

NEVER = -1


class Automaton(struct.PyTreeNode):
    """Which tokens may follow in which state.

    Attributes:
      tokens: int32 [n], the ids that may come at all.
      next_state: int32 [num_states, n], the state after each of them; NEVER where it must not come.
      is_final: bool [num_states], where a row ends.
    """

    tokens: jax.Array
    next_state: jax.Array
    is_final: jax.Array


class Generated(struct.PyTreeNode):
    """What `generate` returns.

    Attributes: tokens int32 [B, N], the padding id after a row's end; lengths int32 [B], tokens
      before that, an end token included; is_finished bool [B], whether the row came to its end;
      logits float32 [B, N, V] where asked for, else None.
    """

    tokens: jax.Array
    lengths: jax.Array
    is_finished: jax.Array
    logits: jax.Array | None = None


@functools.partial(
    jax.jit,
    static_argnames=("config", "max_new_tokens", "cache_step", "keep_logits", "track_seen"),
)
def generate(
    config: DecoderConfig,
    params: Params,
    ids: jax.Array,
    mask: jax.Array,
    keys: jax.Array,
    settings: Sampling,
    *,
    max_new_tokens: int,
    end_id: int = NEVER,
    pad_id: int = 0,
    automaton: Automaton | None = None,
    states: jax.Array | None = None,
    cache_step: int | None = None,
    keep_logits: bool = False,
    track_seen: bool = False,
) -> Generated:
    """Continues prompts until each has come to its end; compiled once a shape.

    Args:
      params: of `lab.nn.decoder`; bfloat16 ones (with a config of that dtype) are read twice as
        fast where memory is the limit.
      ids, mask: int32 and bool [B, T], the prompts, padded on the left.
      keys: typed keys [B]; a row's tokens depend on its own key and prompt alone.
      settings: how to draw.
      end_id: the token at which a row ends; NEVER: none.
      automaton, states: allow only what may follow from state int32 [B]; only the logits of the
        automaton's tokens are then computed.
      cache_step: the cache grows by so many slots at a time, so that short texts do not pay for
        long ones; None: one size. Each size is compiled within the one program.
      track_seen: needed for a repetition penalty.
    """
    length = ids.shape[1]
    total = length + max_new_tokens
    require(
        total <= config.context,
        f"{length} prompt tokens and {max_new_tokens} new ones do not fit a context of "
        f"{config.context}; ask for fewer, or shorten the prompt",
    )
    params = decoder.unstack(params)
    sizes = _cache_sizes(length, total, cache_step)
    hidden, cache = decoder.prefill(config, params, ids, mask, sizes[0])
    output = _Output(params, automaton, settings, keys, end_id, pad_id, keep_logits)
    carry = output.begin(hidden, ids, mask, states, max_new_tokens, track_seen)

    def goes_on(limit, carry_and_cache):
        carry, _ = carry_and_cache
        return (carry.step < limit) & ~carry.is_finished.all()

    def body(carry_and_cache):
        carry, cache = carry_and_cache
        hidden, cache = decoder.decode(config, params, carry.token, cache)
        return output.take(carry, hidden), cache

    for size in sizes:
        cache = decoder.grow(cache, size)
        # The last token drawn needs no slot: its successor is never asked for.
        limit = max_new_tokens if size == sizes[-1] else size - length + 1
        carry, cache = jax.lax.while_loop(functools.partial(goes_on, limit), body, (carry, cache))
    return Generated(carry.tokens, carry.lengths, carry.is_finished, carry.logits)


def _cache_sizes(length: int, total: int, step: int | None) -> list[int]:
    if step is None:
        return [total]
    require(step >= 1, f"cache_step must be positive, got {step}")
    return [*range(length + step, total, step), total]


class _Carry(struct.PyTreeNode):
    step: jax.Array
    token: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    is_finished: jax.Array
    state: jax.Array | None
    seen: jax.Array | None
    logits: jax.Array | None


class _Output:
    """From hidden states to tokens."""

    def __init__(self, params, automaton, settings, keys, end_id, pad_id, keep_logits):
        self.settings, self.keys, self.automaton = settings, keys, automaton
        self.end_id, self.pad_id, self.keep_logits = end_id, pad_id, keep_logits
        if automaton is None:
            self.head = params
        else:  # gathered once, before the loop
            name = "head" if "head" in params else "embed"
            table = params["head"]["kernel"].T if name == "head" else params["embed"]
            self.head = {"embed": table[automaton.tokens]}

    def begin(self, hidden, ids, mask, states, num_tokens, track_seen) -> _Carry:
        batch = ids.shape[0]
        seen = None
        if track_seen:
            size = logits_width(self.head)
            rows = jnp.arange(batch)[:, None]
            if self.automaton is None:
                columns = jnp.where(mask, ids, size)
            else:
                matches = ids[..., None] == self.automaton.tokens
                columns = jnp.where(matches.any(-1) & mask, jnp.argmax(matches, -1), size)
            seen = jnp.zeros((batch, size), bool).at[rows, columns].set(True, mode="drop")
        shape = (batch, num_tokens)
        kept = (batch, num_tokens, logits_width(self.head))
        carry = _Carry(
            step=jnp.int32(0),
            token=jnp.zeros(batch, jnp.int32),
            tokens=jnp.full(shape, self.pad_id, jnp.int32),
            lengths=jnp.zeros(batch, jnp.int32),
            is_finished=jnp.zeros(batch, bool),
            state=states,
            seen=seen,
            logits=jnp.zeros(kept, jnp.float32) if self.keep_logits else None,
        )
        return self.take(carry, hidden)

    def take(self, carry: _Carry, hidden) -> _Carry:
        """Draws a token a row from the hidden states."""
        raw = logits = decoder.logits_of(self.head, hidden)
        automaton, following = self.automaton, None
        if automaton is not None:
            following = automaton.next_state[carry.state]
            logits = jnp.where(following == NEVER, -jnp.inf, logits)
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, carry.step)
        chosen = draw(keys, logits, self.settings, carry.seen)
        state, ended, token = carry.state, False, chosen
        rows = jnp.arange(len(chosen))
        if automaton is not None and state is not None and following is not None:
            token = automaton.tokens[chosen]
            state = jnp.where(carry.is_finished, state, following[rows, chosen])
            ended = automaton.is_final[state]
        token = jnp.where(carry.is_finished, self.pad_id, token)
        finished = carry.is_finished | ended | (token == self.end_id)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=carry.step, axis=1)
        return carry.replace(
            step=carry.step + 1,
            token=token,
            tokens=put(carry.tokens, token),
            lengths=carry.lengths + ~carry.is_finished,
            is_finished=finished,
            state=state,
            seen=None if carry.seen is None else carry.seen.at[rows, chosen].set(True),
            logits=None if carry.logits is None else put(carry.logits, raw),
        )


def logits_width(head: Params) -> int:
    """How many tokens the logits of `head` are about."""
    return head["head"]["kernel"].shape[1] if "head" in head else head["embed"].shape[0]
