"""The learning rate over rounds."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lab.errors import require


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """lr_t = lr0 * decay ^ floor(t / decay_every) at round t.

    Attributes: lr0 > 0; decay in (0, 1], 1 for a constant rate; decay_every, in rounds.
    """

    lr0: float = 0.05
    decay: float = 0.995
    decay_every: int = 10

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.lr0) and self.lr0 > 0,
            f"the learning rate must be positive and finite, got {self.lr0}",
        )
        require(0 < self.decay <= 1, f"decay must be in (0, 1], got {self.decay}")
        require(self.decay_every >= 1, f"decay_every must be at least 1, got {self.decay_every}")


def learning_rate_at(rate: LearningRate, t: jax.Array) -> jax.Array:
    """The learning rate of round t; float32 of t's shape."""
    return rate.lr0 * jnp.power(jnp.float32(rate.decay), jnp.asarray(t) // rate.decay_every)
