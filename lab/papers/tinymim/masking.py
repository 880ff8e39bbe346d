"""MAE's random masking: which patches an encoder sees, and how the others come back."""

import jax
import jax.numpy as jnp
from flax import struct

from lab.errors import require
from lab.nn.vit import take_patches


class Masking(struct.PyTreeNode):
    """Of N patches of each picture, the K kept ones and the way back.

    Attributes: kept int32 [B, K], in the order the encoder sees them; restore int32 [B, N], the
      place of each patch among kept followed by removed ones; removed float32 [B, N], 1 where a
      patch is hidden.
    """

    kept: jax.Array
    restore: jax.Array
    removed: jax.Array


def num_kept_patches(num_patches: int, mask_ratio: float) -> int:
    """int(N (1 - ratio)).

    Raises: InvalidInputError for a ratio outside (0, 1) or one that keeps nothing.
    """
    require(0 < mask_ratio < 1, f"mask_ratio must be in (0, 1), got {mask_ratio}")
    count = int(num_patches * (1 - mask_ratio))
    require(count >= 1, f"mask_ratio {mask_ratio} keeps none of {num_patches} patches")
    return count


def random_masking(noise: jax.Array, mask_ratio: float) -> Masking:
    """Keeps the patches of the smallest noise, in ascending order of noise.

    Args: noise, uniform float [B, N] (`masking_noise`).
    """
    count = num_kept_patches(noise.shape[1], mask_ratio)
    order = jnp.argsort(noise, axis=1, stable=True)
    restore = jnp.argsort(order, axis=1, stable=True)
    return Masking(order[:, :count], restore, (restore >= count).astype(jnp.float32))


def masking_noise(keys: jax.Array, num_patches: int) -> jax.Array:
    """Uniform float [B, N] from one typed key a picture [B]."""
    return jax.vmap(lambda key: jax.random.uniform(key, (num_patches,)))(keys)


def restore_patches(kept: jax.Array, mask_token: jax.Array, restore: jax.Array) -> jax.Array:
    """All patches in their places, the mask token where one was removed.

    Args: kept float [B, K, D]; mask_token float [1, 1, D]; restore int [B, N].
    Returns: float [B, N, D].
    """
    batch, count, width = kept.shape
    missing = jnp.broadcast_to(mask_token, (batch, restore.shape[1] - count, width))
    return take_patches(jnp.concatenate([kept, missing.astype(kept.dtype)], axis=1), restore)
