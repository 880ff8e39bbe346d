"""Drawing the next token from logits: temperature, top-k, top-p, min-p, repetition penalty.

All settings are arrays of one value a row, so changing them compiles nothing anew.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lab.errors import require


class Sampling(struct.PyTreeNode):
    """How rows of a batch are drawn; every field is an array [B]. Made by `sampling`.

    Attributes:
      temperature: 0 takes the most likely token, of equals the first.
      top_k: keep values at least as large as the k-th; 0 keeps all.
      top_p: keep the smallest set of most likely tokens of at least this mass; 1 keeps all.
      min_p: keep tokens at least so likely, relative to the most likely one; 0 keeps all.
      repetition: divides the positive and multiplies the negative logits of tokens already seen.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition: jax.Array


def sampling(
    num_rows: int,
    *,
    temperature: Any = 0.9,
    top_k: Any = None,
    top_p: Any = None,
    min_p: Any = None,
    repetition: Any = None,
) -> Sampling:
    """Settings of a batch; each a number, an array [num_rows], or None for off.

    Raises: InvalidInputError for a value out of range.
    """
    given = {
        "temperature": (temperature, 0.0, jnp.float32, lambda x: x >= 0, "0 or more"),
        "top_k": (top_k, 0, jnp.int32, lambda x: x >= 0, "0 (off) or more"),
        "top_p": (top_p, 1.0, jnp.float32, lambda x: (x > 0) & (x <= 1), "above 0, at most 1"),
        "min_p": (min_p, 0.0, jnp.float32, lambda x: (x >= 0) & (x <= 1), "0 to 1"),
        "repetition": (repetition, 1.0, jnp.float32, lambda x: x > 0, "above 0"),
    }
    fields = {}
    for name, (value, off, dtype, accepted, words) in given.items():
        array = jnp.asarray(off if value is None else value, dtype)
        require(bool(jnp.all(accepted(array))), f"{name} is {value}; accepted: {words}")
        fields[name] = jnp.broadcast_to(array, (num_rows,))
    return Sampling(**fields)


def filtered(logits: jax.Array, settings: Sampling, seen: jax.Array | None = None) -> jax.Array:
    """Logits after the filters, in this order: repetition, temperature, top-k, top-p, min-p.

    Args:
      logits: float32 [B, V]; -inf marks tokens that must not come.
      seen: bool [B, V], tokens that have come before.
    Returns: float32 [B, V], dropped tokens at -inf. Rows of temperature 0 are not scaled.
    """
    if seen is not None:
        penalty = settings.repetition[:, None]
        scaled = jnp.where(logits > 0, logits / penalty, logits * penalty)
        logits = jnp.where(seen, scaled, logits)
    temperature = settings.temperature[:, None]
    logits = logits / jnp.where(temperature > 0, temperature, 1)
    for drop, is_used in (
        (_drop_below_kth, settings.top_k > 0),
        (_drop_tail, settings.top_p < 1),
        (_drop_unlikely, settings.min_p > 0),
    ):
        # A sort of the vocabulary is dear: skipped while no row asks for it.
        logits = jax.lax.cond(
            is_used.any(),
            lambda x, drop=drop, used=is_used: jnp.where(used[:, None], drop(x, settings), x),
            lambda x: x,
            logits,
        )
    return logits


def draw(keys: jax.Array, logits: jax.Array, settings: Sampling, seen: Any = None) -> jax.Array:
    """One token a row, int32 [B]. A row depends on its own key and logits alone.

    Args: keys, typed keys [B]; the others as in `filtered`.
    """
    kept = filtered(logits, settings, seen)
    likely = jnp.argmax(kept, axis=-1)
    # One uniform number a row: a Gumbel for each of 50,000 tokens would cost more than the model.
    sums = jnp.cumsum(jax.nn.softmax(kept, axis=-1), axis=-1)
    threshold = jax.vmap(jax.random.uniform)(keys)[:, None] * sums[:, -1:]
    above = sums > threshold
    drawn = jnp.where(above.any(axis=-1), jnp.argmax(above, axis=-1), likely)
    return jnp.where(settings.temperature > 0, drawn, likely).astype(jnp.int32)


def _drop_below_kth(logits: jax.Array, settings: Sampling) -> jax.Array:
    size = logits.shape[-1]
    ascending = jnp.sort(logits, axis=-1)
    place = size - jnp.clip(settings.top_k, 1, size)
    kth = jnp.take_along_axis(ascending, place[:, None], axis=-1)
    return jnp.where(logits >= kth, logits, -jnp.inf)


def _drop_tail(logits: jax.Array, settings: Sampling) -> jax.Array:
    # A stable ascending sort: of equals at the boundary the one of smaller index goes first.
    order = jnp.argsort(logits, axis=-1, stable=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    mass = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
    is_tail = mass <= 1 - settings.top_p[:, None]
    is_tail = is_tail.at[:, -1].set(False)
    ranked = jnp.where(is_tail, -jnp.inf, ranked)
    return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)


def _drop_unlikely(logits: jax.Array, settings: Sampling) -> jax.Array:
    most = logits.max(axis=-1, keepdims=True)
    return jnp.where(logits >= most + jnp.log(settings.min_p)[:, None], logits, -jnp.inf)
