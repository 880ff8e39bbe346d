"""Dense layers: PyTorch's default initialisation, products over rows."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def symmetric_uniform(limit: float) -> Callable[..., jax.Array]:
    """Initialiser U(-limit, limit)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def torch_linear(features: int, fan_in: int, name: str | None = None) -> nn.Dense:
    """`nn.Dense` initialised as `torch.nn.Linear`: weight and bias from U(+-1/sqrt(fan_in))."""
    uniform = symmetric_uniform(fan_in**-0.5)
    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)


def dot_rows(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """The `dot_general` of a dense layer, over the flat rows of x: float [..., D] -> [..., K].

    The gradient of the kernel is then a product of two matrices as they are. With more axes XLA
    transposes one first and repeats on the way whatever made it: a distillation step of small
    networks takes a tenth longer on a CPU, the two passes of an MLP alone five times as long.
    """
    rows = jax.lax.dot_general(
        x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options
    )
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])
