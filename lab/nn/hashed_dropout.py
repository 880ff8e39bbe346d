"""Dropout whose masks are a hash of (key, position): cheap enough to be made again when needed.

A threefry draw costs more than everything else that a small graph network does to an element. The
mask here is a 32-bit integer hash (Wellons, 2018, "lowbias32") of the position in a sequence that
the key chooses, computed where it is used and again in the gradient, so it costs no memory. It is
for dropout, not for sampling that must be free of correlations beyond what a network could notice.
"""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeros a share `rate` of the entries and scales the rest by 1 / (1 - rate).

    Args: x float, any shape; rate in [0, 1); key, a typed key, or None for evaluation.
    """
    if rate == 0 or key is None:
        return x
    return jnp.where(keep_mask(key, x.shape, rate), x / (1 - rate), 0)


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Which entries are kept: bool of the given shape, each with probability 1 - rate."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        steps = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        position = position + steps * jnp.uint32(stride)
        stride = (stride * shape[axis]) % 2**32
    # An odd stride and an offset from the key: two keys do not walk the same numbers.
    return _mix(position * (words[1] | 1) + words[0]) >= _threshold(rate)


def keep_pairs(words: jax.Array, first: jax.Array, second: jax.Array, rate: float) -> jax.Array:
    """Which ordered pairs (first, second) are kept.

    Args: words uint32 [2], drawn from a key; first, second int [n].
    Returns: bool [n], each True with probability 1 - rate.
    """
    hashed = _mix(first.astype(jnp.uint32) ^ words[0]) + second.astype(jnp.uint32)
    return _mix(hashed ^ words[1]) >= _threshold(rate)


def _threshold(rate: float) -> jax.Array:
    return jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
