"""Stochastic depth: a residual branch is left out for some examples (Huang et al., 2016)."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require

Schedule = Literal["linear", "all_but_last"]


def drop_path_rates(rate: float, depth: int, schedule: Schedule = "linear") -> np.ndarray:
    """The rate of each block, float64 [depth].

    Args:
      schedule: "linear" goes from 0 in the first block to `rate` in the last (fine-tuning);
        "all_but_last" is `rate` everywhere and 0 in the last block (distillation).
    Raises: InvalidInputError for a rate outside [0, 1) or an unknown schedule.
    """
    require(0 <= rate < 1, f"drop path rate must be in [0, 1), got {rate}")
    if schedule == "linear":
        return np.linspace(0, rate, depth)
    require(schedule == "all_but_last", f"schedule is 'linear' or 'all_but_last', got {schedule!r}")
    rates = np.full(depth, rate)
    rates[-1] = 0
    return rates


def drop_path_noise(keys: jax.Array, depth: int) -> jax.Array:
    """The uniform numbers that decide, [depth, 2, batch]: attention and MLP branch of each block.

    Args: keys, one typed key an example [batch] (`lab.train.devices.example_keys`), so that the
      decisions do not depend on how the batch is spread over devices.
    """
    noise = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys)
    return jnp.moveaxis(noise, 0, -1)


def kept(noise: jax.Array, rate: jax.Array | float) -> jax.Array:
    """floor(1 - rate + noise): 1 where the branch is kept, 0 where it is dropped."""
    return jnp.floor(1 - rate + noise)


def drop_path(branch: jax.Array, noise: jax.Array | None, rate: jax.Array | float) -> jax.Array:
    """Drops whole examples of a residual branch and rescales the others to keep the mean.

    Args:
      branch: float [batch, ...]; noise: uniform float [batch], or None for none dropped.
    """
    if noise is None:
        return branch
    keep = (kept(noise, rate) / (1 - rate)).astype(branch.dtype)
    return branch * keep.reshape(-1, *(1,) * (branch.ndim - 1))
