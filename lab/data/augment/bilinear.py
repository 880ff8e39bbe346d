"""Bilinear and nearest resizing between sizes that are known only when the program runs.

Pictures lie in the upper left corner of a canvas; sizes are (height, width). Centres are at half
pixels and taps are clamped to the picture, as OpenCV and torch (`align_corners=False`) do; no
antialiasing.
"""

import jax
import jax.numpy as jnp


def scaled_size(size: tuple[int, int], longest: int, shortest: int) -> tuple[int, int]:
    """The largest size of the same ratio that fits into longest x shortest, either way round."""
    scale = min(longest / max(size), shortest / min(size))
    height, width = (max(int(n * scale + 0.5), 1) for n in size)
    return height, width


def resize_within(
    image: jax.Array, size: jax.Array, new_size: jax.Array, canvas: tuple[int, int]
) -> jax.Array:
    """Resizes the picture in the upper left corner of one canvas into that of another.

    Args: image [H, W, C], the picture being its upper left `size` int [2]; new_size int [2].
    Returns: float32 [*canvas, C]; what lies beyond `new_size` means nothing.
    """
    rows, columns = (
        sources(jnp.arange(n), old, new) for n, old, new in zip(canvas, size, new_size, strict=True)
    )
    return sample_bilinear(image, rows, columns, size)


def sources(places: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Where in an axis of `old` pixels the pixels at `places` of `new` come from; float32."""
    return (places + 0.5) * (old / new) - 0.5


def sample_bilinear(
    image: jax.Array, rows: jax.Array, columns: jax.Array, size: jax.Array
) -> jax.Array:
    """Values at the grid of `rows` float [h] and `columns` float [w]: float32 [h, w, C]."""
    low, high, share = _taps(rows, size[0])
    image = image.astype(jnp.float32)
    image = image[low] * (1 - share)[:, None, None] + image[high] * share[:, None, None]
    low, high, share = _taps(columns, size[1])
    return image[:, low] * (1 - share)[:, None] + image[:, high] * share[:, None]


def sample_nearest(
    labels: jax.Array, places: tuple[jax.Array, jax.Array], old: jax.Array, new: jax.Array
) -> jax.Array:
    """Labels [H, W] at pixels (rows [h], columns [w]) of the picture resized from `old` to `new`.

    As OpenCV's INTER_NEAREST: floor(place * old / new), exactly.
    """
    rows, columns = (
        jnp.clip(place * old[i] // new[i], 0, old[i] - 1) for i, place in enumerate(places)
    )
    return labels[rows][:, columns]


def _taps(places: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    places = jnp.clip(places, 0, length - 1)
    low = jnp.floor(places).astype(jnp.int32)
    return low, jnp.minimum(low + 1, length - 1), places - low
