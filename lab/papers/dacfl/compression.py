"""Smaller messages: the largest entries only, random entries only, or few bits a number.

The paper's users send whole models; compression is an option here. See `gossip.mix_compressed`
for how compressed messages mix without losing the users' mean.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from lab.errors import require
from lab.papers.dacfl.topology import require_known

KINDS = ("none", "top_k", "random_k", "quantise")


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
    """How messages are compressed, leaf by leaf and user by user.

    Attributes:
      kind: `none`; `top_k`, the entries of largest size; `random_k`, random ones; `quantise`,
        `bits` a number with stochastic rounding between levels that are even from -max to max.
      fraction: share of the entries that `top_k` and `random_k` send, in (0, 1].
      bits: of a quantised number, sign included; 2 to 16.
      step_size: how far users move towards their neighbours' public copies, in (0, 1]; smaller is
        safer for stronger compression.
    """

    kind: str = "none"
    fraction: float = 0.1
    bits: int = 8
    step_size: float = 1.0

    def __post_init__(self) -> None:
        require_known(self.kind, KINDS, "compression")
        require(0 < self.fraction <= 1, f"fraction must be in (0, 1], got {self.fraction}")
        require(2 <= self.bits <= 16, f"bits must be 2 to 16, got {self.bits}")
        require(0 < self.step_size <= 1, f"step_size must be in (0, 1], got {self.step_size}")


def compress(tree: Any, config: CompressionConfig, keys: jax.Array) -> Any:
    """What arrives of a pytree [n, ...], each user's leaf compressed by itself.

    Args: keys, typed keys [n], a user's own of this round.
    """
    leaves, structure = jax.tree.flatten(tree)

    def of_leaf(number: int, leaf: jax.Array) -> jax.Array:
        flat = leaf.reshape(leaf.shape[0], -1)
        leaf_keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        return jax.vmap(lambda v, k: _compress_vector(v, config, k))(flat, leaf_keys).reshape(
            leaf.shape
        )

    return jax.tree.unflatten(structure, [of_leaf(i, leaf) for i, leaf in enumerate(leaves)])


def _compress_vector(vector: jax.Array, config: CompressionConfig, key: jax.Array) -> jax.Array:
    match config.kind:
        case "none":
            return vector
        case "quantise":
            return quantise(vector, config.bits, key)
        case _:
            score = jnp.abs(vector)
            if config.kind == "random_k":
                score = jax.random.uniform(key, vector.shape)
            _, kept = jax.lax.top_k(score, num_kept(vector.size, config.fraction))
            return jnp.zeros_like(vector).at[kept].set(vector[kept])


def quantise(vector: jax.Array, bits: int, key: jax.Array) -> jax.Array:
    """Rounds to 2^(bits-1) - 1 levels on either side of 0, up or down at random: unbiased."""
    levels = 2 ** (bits - 1) - 1
    largest = jnp.max(jnp.abs(vector))
    scaled = vector / jnp.where(largest > 0, largest, 1) * levels
    rounded = jnp.floor(scaled + jax.random.uniform(key, vector.shape))
    return rounded * (largest / levels)


def num_kept(size: int, fraction: float) -> int:
    """How many entries of a leaf are sent: at least one."""
    return max(1, math.ceil(fraction * size - 1e-9))


def message_numbers(params: Any, config: CompressionConfig = CompressionConfig()) -> float:
    """Size of one model's message in float32 numbers (4 bytes).

    A sparse message holds value and position of each entry; a quantised one its bits and a scale
    a leaf.

    Args: params, one user's model (arrays or shapes).
    """
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
    match config.kind:
        case "none":
            return float(sum(sizes))
        case "quantise":
            return sum(size * config.bits / 32 + 1 for size in sizes)
        case _:
            return float(sum(2 * num_kept(size, config.fraction) for size in sizes))
