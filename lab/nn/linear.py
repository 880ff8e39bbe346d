"""Dense layers with PyTorch's default initialisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def symmetric_uniform(limit: float) -> jax.nn.initializers.Initializer:
    """Initialiser U(-limit, limit)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def torch_linear(features: int, fan_in: int, name: str | None = None) -> nn.Dense:
    """`nn.Dense` initialised as `torch.nn.Linear`: weight and bias from U(+-1/sqrt(fan_in))."""
    uniform = symmetric_uniform(fan_in**-0.5)
    return nn.Dense(features, kernel_init=uniform, bias_init=uniform, name=name)
