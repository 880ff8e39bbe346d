"""Batch normalisation that counts only real rows and agrees over devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, exactly as PyTorch computes it.

    The normalising variance is the biased one, in two passes; the running variance takes the
    unbiased one (n / (n - 1)); new running value = (1 - momentum) * old + momentum * batch value.
    flax's own layer differs in the running variance, hence this one.

    Rows outside `mask` neither count in the statistics nor need to hold finite numbers that matter.
    With `axis_name`, sums run over that mapped axis, so that the statistics are those of the global
    batch. Collections: `params` (scale, bias; none without `affine`), `batch_stats` (mean, var).
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    affine: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Normalises `x` float [..., features]; `mask` bool [...] marks the rows that count."""
        shape = (x.shape[-1],)
        scale, bias = 1.0, 0.0
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, shape)
            bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var, count = self._statistics(x, mask)
            if not self.is_initializing():
                # One row has no unbiased variance: PyTorch refuses it, here 0 is kept.
                unbiased = var * (count / jnp.maximum(count - 1, 1))
                keep = 1 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * unbiased
        return (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias

    def _statistics(self, x, mask):
        axes = tuple(range(x.ndim - 1))
        weights = jnp.ones(x.shape[:-1], x.dtype) if mask is None else mask.astype(x.dtype)
        weights = weights[..., None]
        count = jnp.maximum(self._total(weights.sum()), 1)
        mean = self._total((x * weights).sum(axes)) / count
        var = self._total((jnp.square(x - mean) * weights).sum(axes)) / count
        return mean, var, count

    def _total(self, values):
        if self.axis_name is None or self.is_initializing():
            return values
        return jax.lax.psum(values, self.axis_name)
