"""Learning rates as functions of the step, for optax."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lab.errors import require


def warmup_cosine(peak: float, warmup: float, total: float, floor: float = 0.0) -> optax.Schedule:
    """Linear warm-up from 0, then half a cosine down to `floor`.

    Args:
      peak: the highest rate.
      warmup, total: where the peak and the end lie, in the unit in which the schedule is called:
        steps for an optimizer (epochs * steps_per_epoch), or fractional epochs.
    Returns: position -> rate; the very first step (position 0) has rate 0 if there is a warm-up.
    """
    require(0 <= warmup < total, f"warmup must lie in 0..{total} (total), got {warmup}")

    def rate(position: ArrayLike) -> jax.Array:
        position = jnp.asarray(position, jnp.float32)
        share = jnp.clip((position - warmup) / (total - warmup), 0.0, 1.0)
        # cos(x / 2)^2 = (1 + cos x) / 2, without its cancellation near the end.
        falling = floor + (peak - floor) * jnp.cos(0.5 * jnp.pi * share) ** 2
        return jnp.where(position < warmup, peak * position / max(warmup, 1e-9), falling)

    return rate


def warmup_polynomial(
    peak: float,
    warmup: int,
    total: int,
    *,
    power: float = 1.0,
    floor: float = 0.0,
    warmup_ratio: float = 1e-6,
) -> optax.Schedule:
    """Polynomial decay, scaled up linearly from `warmup_ratio` while warming up (mmcv's "poly").

    Args: warmup, total in steps.
    """
    require(0 <= warmup < total, f"warmup must lie in 0..{total} (total), got {warmup}")

    def rate(step: ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        falling = floor + (peak - floor) * jnp.maximum(1.0 - step / total, 0.0) ** power
        warm = warmup_ratio + (1.0 - warmup_ratio) * step / max(warmup, 1)
        return falling * jnp.where(step < warmup, warm, 1.0)

    return rate


def scaled_rate(base: float, batch_size: int, per: int = 256) -> float:
    """The linear scaling rule: base * batch_size / per (Goyal et al., 2017)."""
    return base * batch_size / per
