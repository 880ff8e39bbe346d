"""Self-attention of transformers: heads, and the attention that never keeps the whole map.

Dimension letters: B batch, T tokens, M heads, d width of a head.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from lab.errors import require

Implementation = Literal["xla", "cudnn"]


def check_heads(width: int, num_heads: int, name: str = "num_heads") -> None:
    """Raises InvalidInputError unless `num_heads` heads of equal width fit into `width`."""
    require(
        num_heads >= 1 and width % num_heads == 0,
        f"{name} must divide the width {width} into equal heads, got {num_heads}",
    )


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """Cuts the channels into heads: float [B, T, M * d] -> [B, M, T, d].

    Raises: InvalidInputError where the heads do not divide the width.
    """
    batch, tokens, width = x.shape
    check_heads(width, num_heads)
    return x.reshape(batch, tokens, num_heads, width // num_heads).swapaxes(1, 2)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_heads: int,
    *,
    bias: jax.Array | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Multi-head attention, softmax(q k^T / sqrt(d) + bias) v, with the softmax in float32.

    Args:
      q, k, v: float [B, T, M * d], heads being consecutive blocks of channels.
      bias: float, broadcastable to [B, M, T, T], added to the scaled logits.
      implementation: "cudnn" is flash attention on an NVIDIA GPU, for half precision; None leaves
        the choice to JAX, but on a CPU, where it takes the two products as they are written.
    Returns: float [B, T, M * d].
    """
    if implementation is None and jax.default_backend() == "cpu":
        return _attend_plainly(q, k, v, num_heads, bias)
    heads = [x.reshape(*x.shape[:2], num_heads, -1) for x in (q, k, v)]
    out = jax.nn.dot_product_attention(*heads, bias=bias, implementation=implementation)
    return out.reshape(q.shape)


def _attend_plainly(q, k, v, num_heads: int, bias: jax.Array | None) -> jax.Array:
    """Heads before tokens all the way: of JAX's own attention, which has them behind, XLA's CPU
    backend runs forward and backward pass at two thirds of the speed."""
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    logits = jnp.einsum("bmqd,bmkd->bmqk", q, k, preferred_element_type=jnp.float32)
    logits = logits * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits if bias is None else logits + bias, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bmqk,bmkd->bmqd", weights, v).swapaxes(1, 2)
    return mixed.reshape(*mixed.shape[:2], -1)
