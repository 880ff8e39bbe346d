"""Graph convolutions; each takes links and source rows, the targets being the first sources.

Where a layer can use it, `aggregate` is what it would gather from the neighbours, computed once by
its `gather`: a first layer whose input never changes need not gather again at every step. Without
it a layer that narrows its input multiplies first and gathers after, which gives the same numbers
at less cost.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lab.nn.graph.links import (
    AnyLinks,
    Links,
    mean_of_neighbours,
    propagate,
    softmax_attention,
)
from lab.nn.linear import symmetric_uniform, torch_linear

glorot = nn.initializers.glorot_uniform()


class GCNConv(nn.Module):
    """h_t = sum_j w_jt x_j W (+ b), the weights being those of the links (Kipf & Welling, 2017).

    The bias is a parameter even where `use_bias` leaves it out of the sum, as official checkpoints
    have it.
    """

    features: int
    use_bias: bool = True

    @staticmethod
    def gather(links: AnyLinks, sources: jax.Array) -> jax.Array:
        return propagate(links, sources)

    @nn.compact
    def __call__(
        self, links: AnyLinks, sources: jax.Array, aggregate: jax.Array | None = None
    ) -> jax.Array:
        """float [num_sources, d] -> [num_targets, features]."""
        in_features = sources.shape[-1]
        kernel = self.param("kernel", glorot, (in_features, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if aggregate is not None:
            out = aggregate @ kernel
        elif in_features > self.features:
            out = propagate(links, sources @ kernel)
        else:
            out = propagate(links, sources) @ kernel
        return out + bias if self.use_bias else out


class SAGEConv(nn.Module):
    """h_t = W_l mean_j x_j + b_l + W_r x_t (Hamilton et al., 2017, mean aggregator)."""

    features: int

    @staticmethod
    def gather(links: Links, sources: jax.Array) -> jax.Array:
        return mean_of_neighbours(links, sources)

    @nn.compact
    def __call__(
        self, links: Links, sources: jax.Array, aggregate: jax.Array | None = None
    ) -> jax.Array:
        """float [num_sources, d] -> [num_targets, features]."""
        in_features = sources.shape[-1]
        uniform = symmetric_uniform(in_features**-0.5)
        kernel = self.param("neighbour_kernel", uniform, (in_features, self.features))
        bias = self.param("neighbour_bias", uniform, (self.features,))
        root = nn.Dense(self.features, use_bias=False, kernel_init=uniform, name="root")
        if aggregate is not None:
            out = aggregate @ kernel
        elif in_features > self.features:
            out = mean_of_neighbours(links, sources @ kernel)
        else:
            out = mean_of_neighbours(links, sources) @ kernel
        return out + bias + root(sources[: links.num_targets])


class GINConv(nn.Module):
    """h_t = MLP((1 + eps) x_t + sum_j x_j) with MLP = Linear-ReLU-Linear (Xu et al., 2019)."""

    features: int
    eps: float = 0.0

    @staticmethod
    def gather(links: AnyLinks, sources: jax.Array, eps: float = 0.0) -> jax.Array:
        return (1 + eps) * sources[: links.num_targets] + propagate(links, sources)

    @nn.compact
    def __call__(
        self, links: AnyLinks, sources: jax.Array, aggregate: jax.Array | None = None
    ) -> jax.Array:
        """float [num_sources, d] -> [num_targets, features]."""
        in_features = sources.shape[-1]
        uniform = symmetric_uniform(in_features**-0.5)
        kernel = self.param("kernel", uniform, (in_features, self.features))
        bias = self.param("bias", uniform, (self.features,))
        if aggregate is not None:
            hidden = aggregate @ kernel
        elif in_features > self.features:
            hidden = self.gather(links, sources @ kernel, self.eps)
        else:
            hidden = self.gather(links, sources, self.eps) @ kernel
        return torch_linear(self.features, self.features, name="out")(nn.relu(hidden + bias))


class GATConv(nn.Module):
    """Multi-head attention over neighbours (Velickovic et al., 2018), one weight for both ends.

    Attributes:
      heads, head_dim: number of heads and width of each.
      concat: put the heads side by side (True) or average them.
      self_loops: give every target exactly one link to itself.
      attention_dropout_rate: of the coefficients, in train mode (rng "dropout").
    """

    heads: int
    head_dim: int
    concat: bool = True
    self_loops: bool = True
    negative_slope: float = 0.2
    attention_dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, links: Links, sources: jax.Array, *, train: bool) -> jax.Array:
        """float [num_sources, d] -> [num_targets, heads * head_dim] or [num_targets, head_dim]."""
        shape = (self.heads, self.head_dim)
        # PyTorch Geometric's Glorot for attention vectors counts heads and channels as the fans.
        attention_init = symmetric_uniform(math.sqrt(6 / sum(shape)))
        kernel = self.param("kernel", glorot, (sources.shape[-1], self.heads * self.head_dim))
        source_vector = self.param("source_attention", attention_init, shape)
        target_vector = self.param("target_attention", attention_init, shape)
        width = self.heads * self.head_dim if self.concat else self.head_dim
        bias = self.param("bias", nn.initializers.zeros, (width,))

        values = (sources @ kernel).reshape(-1, *shape)
        dropout = nn.Dropout(self.attention_dropout_rate, deterministic=not train)
        out = softmax_attention(
            links,
            jnp.sum(values * source_vector, axis=-1),
            jnp.sum(values[: links.num_targets] * target_vector, axis=-1),
            values,
            self_loops=self.self_loops,
            negative_slope=self.negative_slope,
            drop=dropout,
        )
        out = out.reshape(-1, width) if self.concat else out.mean(axis=1)
        return out + bias
