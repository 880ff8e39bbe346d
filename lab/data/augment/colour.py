"""Colour changes as Pillow's ImageEnhance makes them, and normalisation."""

import jax
import jax.numpy as jnp

from lab.data.augment.resample import to_grey_levels
from lab.errors import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS = range(4)


def normalise(
    images: jax.Array,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> jax.Array:
    """Grey levels 0..255 to float32 (x / 255 - mean) / std, by channel (the last axis)."""
    images = jnp.asarray(images, jnp.float32) / 255.0
    return (images - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def grey(images: jax.Array) -> jax.Array:
    """ITU-R 601 luma of RGB grey levels, rounded as Pillow's convert("L"); keeps the last axis."""
    # Whole numbers below 2^24, so float32 is exact here.
    luma = jnp.sum(images * jnp.array([19595.0, 38470.0, 7471.0]), axis=-1, keepdims=True)
    return jnp.floor((luma + 32768.0) / 65536.0)


def enhance(images: jax.Array, kinds: jax.Array, factors: jax.Array) -> jax.Array:
    """Moves each image away from (factor > 1) or towards (< 1) a dull version of itself.

    Args:
      images: [N, H, W, 3] grey levels.
      kinds: int [N]; 0 brightness (from black), 1 contrast (from the mean grey), 2 saturation
        (from the grey image), 3 sharpness (from a smoothed one).
      factors: [N]; 1 leaves an image as it is.
    Returns: float32, grey levels, truncated as Pillow's blend.
    """
    images = jnp.asarray(images, jnp.float32)
    greys = grey(images)
    means = jnp.floor(greys.mean(axis=(1, 2, 3), keepdims=True) + 0.5)
    bases = [jnp.zeros_like(images), means, greys, smooth(images)]
    kind = jnp.asarray(kinds)[:, None, None, None]
    base = jnp.select([kind == i for i in range(4)], bases)
    factor = jnp.asarray(factors, jnp.float32)[:, None, None, None]
    blended = base + factor * (images - base)
    return jnp.where(factor == 1, images, jnp.clip(jnp.floor(blended), 0.0, 255.0))


def smooth(images: jax.Array) -> jax.Array:
    """3 x 3 mean with weights 1 and 5 in the centre; the border stays as it is."""
    total = 4.0 * images[:, 1:-1, 1:-1]
    height, width = images.shape[1:3]
    for i in range(3):
        for j in range(3):
            total = total + images[:, i : height - 2 + i, j : width - 2 + j]
    return images.at[:, 1:-1, 1:-1].set(to_grey_levels(total / 13.0))


def color_jitter(
    keys: jax.Array, images: jax.Array, brightness: float, contrast: float, saturation: float
) -> jax.Array:
    """Changes brightness, contrast and saturation in random order, as torchvision's ColorJitter.

    Args: images [N, H, W, 3] grey levels; the others are strengths s, factors being drawn from
      U[max(0, 1 - s), 1 + s].
    Returns: float32, grey levels.
    """
    strengths = jnp.array([brightness, contrast, saturation], jnp.float32)
    require(
        min(brightness, contrast, saturation) >= 0,
        f"strengths must not be negative, got {(brightness, contrast, saturation)}",
    )

    def draw(key):
        order_key, factor_key = jax.random.split(key)
        low, high = jnp.maximum(0.0, 1.0 - strengths), 1.0 + strengths
        factors = jax.random.uniform(factor_key, (3,), minval=low, maxval=high)
        order = jax.random.permutation(order_key, 3)
        return order, factors[order]

    return jitter(images, *jax.vmap(draw)(keys))


def jitter(images: jax.Array, order: jax.Array, factors: jax.Array) -> jax.Array:
    """Applies three of the changes of `enhance` one after the other.

    Args: order int [N, 3], kinds; factors [N, 3], in the same order.
    """
    for i in range(order.shape[1]):
        images = enhance(images, order[:, i], factors[:, i])
    return images
