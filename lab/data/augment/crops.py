"""Flips and crops, each example by its own key."""

import jax
import jax.numpy as jnp

from lab.data.augment.resample import resized_crop, sizes_of
from lab.errors import require

ATTEMPTS = 10


def random_flip(keys: jax.Array, images: jax.Array, rate: float = 0.5) -> jax.Array:
    """Mirrors each image left to right with probability `rate`."""
    is_flipped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(is_flipped[:, None, None, None], images[:, :, ::-1], images)


def random_crop(
    keys: jax.Array, images: jax.Array, padding: int, mode: str = "constant"
) -> jax.Array:
    """Pads each image on all sides and cuts its size out again anywhere.

    Args: padding in pixels; mode as of `jnp.pad` ("constant" pads zeros, "reflect").
    """
    require(padding >= 0, f"padding must not be negative, got {padding}")
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, around, mode=mode)

    def cut(key, image):
        start = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(cut)(keys, padded)


def random_roll(keys: jax.Array, images: jax.Array, reach: int) -> jax.Array:
    """Shifts each image by up to `reach` pixels either way in both directions, around the edges."""

    def roll(key, image):
        shift = jax.random.randint(key, (2,), -reach, reach + 1)
        return jnp.roll(image, shift, axis=(0, 1))

    return jax.vmap(roll)(keys, images)


def random_resized_crop(
    keys: jax.Array,
    images: jax.Array,
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    sizes: jax.Array | None = None,
) -> jax.Array:
    """Cuts a random box out of each image and resizes it to [size, size] (see `resized_crop`).

    Args:
      images: [N, H, W, C] grey levels.
      scale: bounds of the box's share of the picture's area.
      ratio: bounds of its width / height.
      sizes: int [N, 2], height and width of each picture in the upper left corner of its
        canvas; None: pictures fill the canvas.
    Returns: float32 [N, size, size, C] grey levels.
    """
    sizes = sizes_of(images) if sizes is None else sizes
    return resized_crop(images, crop_boxes(keys, sizes, scale, ratio), size)


def crop_boxes(
    keys: jax.Array, sizes: jax.Array, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Draws boxes of random area and shape, as torchvision's RandomResizedCrop.

    The first of ten draws that fits into the picture; where none does, the largest central box
    whose shape lies within `ratio`.

    Args: sizes int [N, 2], heights and widths of the pictures.
    Returns: int32 [N, 4]: top, left, height, width.
    """
    require(0 < scale[0] <= scale[1], f"scale must be two rising positive numbers, got {scale}")
    require(0 < ratio[0] <= ratio[1], f"ratio must be two rising positive numbers, got {ratio}")
    return jax.vmap(lambda key, size: _box(key, size[0], size[1], scale, ratio))(keys, sizes)


def _box(key, height, width, scale, ratio) -> jax.Array:
    area_key, shape_key, top_key, left_key = jax.random.split(key, 4)
    area = (
        height * width * jax.random.uniform(area_key, (ATTEMPTS,), minval=scale[0], maxval=scale[1])
    )
    low, high = jnp.log(jnp.array(ratio))
    shape = jnp.exp(jax.random.uniform(shape_key, (ATTEMPTS,), minval=low, maxval=high))
    widths = jnp.round(jnp.sqrt(area * shape)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(area / shape)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, jnp.maximum(height - h, 0) + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(width - w, 0) + 1)
    drawn = jnp.stack([top, left, h, w])
    return jnp.where(fits.any(), drawn, _central_box(height, width, ratio)).astype(jnp.int32)


def _central_box(height, width, ratio) -> jax.Array:
    shape = width / height
    h = jnp.where(shape < ratio[0], jnp.round(width / ratio[0]), height)
    w = jnp.where(shape > ratio[1], jnp.round(height * ratio[1]), width)
    return jnp.stack([(height - h) // 2, (width - w) // 2, h, w]).astype(jnp.int32)
