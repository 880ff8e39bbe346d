"""Resampling as Pillow does it: antialiased bicubic resizing and bicubic affine maps.

Letters of the einsums: n example, y/x input row/column, o output row or column, c channel.
"""

import jax
import jax.numpy as jnp

from lab.errors import require

EXACT = jax.lax.Precision.HIGHEST


def resized_crop(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Cuts a box out of each image and resizes it to [size, size], bicubic with antialias.

    As Pillow's `crop` and `resize(BICUBIC)`: two passes, rounded to grey levels in between.

    Args: images [N, H, W, C] grey levels; boxes int [N, 4]: top, left, height, width.
    Returns: float32 [N, size, size, C] grey levels.
    """
    top, left, height, width = jnp.moveaxis(jnp.asarray(boxes, jnp.float32), -1, 0)
    outputs, side = jnp.arange(size), max(images.shape[1:3])
    weights = jax.vmap(_weights, (None, 0, 0, 0, None))
    across = weights(outputs, left, width, width / size, side)
    down = weights(outputs, top, height, height / size, side)
    return _two_passes(images, across, down, _rows_first(height, width, size, size))


def resize_and_centre_crop(
    images: jax.Array, shorter: int, size: int, sizes: jax.Array | None = None
) -> jax.Array:
    """Resizes so that the shorter side is `shorter`, and cuts the central [size, size].

    The evaluation transform; the longer side becomes int(shorter * longer / shorter side).

    Args:
      images: [N, H, W, C] grey levels.
      sizes: int [N, 2], height and width of each picture in the upper left corner of its
        canvas (`lab.data.folders`); None: pictures fill the canvas.
    Returns: float32 [N, size, size, C] grey levels.
    """
    require(1 <= size <= shorter, f"size must lie in 1..{shorter}, the shorter side, got {size}")
    sizes = sizes_of(images) if sizes is None else jnp.asarray(sizes, jnp.int32)
    smallest = sizes.min(axis=1, keepdims=True)
    resized = shorter * sizes // smallest
    # jnp.round takes halves to the even neighbour, as Python's round does.
    starts = jnp.round((resized - size) / 2)
    outputs = starts[:, :, None] + jnp.arange(size)
    weights = jax.vmap(_weights, (0, None, 0, 0, None))
    scales, side = sizes / resized, max(images.shape[1:3])
    across = weights(outputs[:, 1], 0.0, sizes[:, 1], scales[:, 1], side)
    down = weights(outputs[:, 0], 0.0, sizes[:, 0], scales[:, 0], side)
    return _two_passes(images, across, down, _rows_first(*sizes.T, *resized.T))


def affine(images: jax.Array, matrices: jax.Array, fill: tuple[float, ...]) -> jax.Array:
    """Moves pixels by an affine map with bicubic interpolation (a = -1), as Pillow's `transform`.

    Args:
      images: [N, H, W, C] grey levels.
      matrices: [N, 6], (a, b, c, d, e, f): the output pixel with centre (x, y) shows the input
        at (a x + b y + c, d x + e y + f); the taps are clamped to the edges.
      fill: a value a channel where that point lies outside the image.
    Returns: float32 [N, H, W, C] grey levels.
    """
    return jax.vmap(lambda image, matrix: _affine_one(image, matrix, fill))(
        jnp.asarray(images, jnp.float32), matrices
    )


def to_grey_levels(values: jax.Array) -> jax.Array:
    """Rounds half up and clips to 0..255."""
    return jnp.clip(jnp.floor(values + 0.5), 0.0, 255.0)


def sizes_of(images: jax.Array) -> jax.Array:
    """int32 [N, 2]: the same height and width for every image of a batch."""
    return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2))


def _rows_first(height, width, new_height, new_width) -> jax.Array:
    """Whether Pillow takes the pass over rows first (observed on version 13)."""
    return (height > new_height) & (height - new_height > 2 * (width - new_width))


def _two_passes(
    images: jax.Array, across: jax.Array, down: jax.Array, rows_first: jax.Array
) -> jax.Array:
    """Applies the weights of columns and rows, those of rows first where `rows_first` [N] says.

    The order matters, because the first pass is clipped too: overshoots are cut off there. Where
    it is the other one, the image is turned over its diagonal on the way in and out.
    """
    images = jnp.asarray(images, jnp.float32)
    side = across.shape[-1]
    square = [(0, 0), (0, side - images.shape[1]), (0, side - images.shape[2]), (0, 0)]
    images = jnp.pad(images, square)
    is_turned = rows_first[:, None, None]
    first, second = jnp.where(is_turned, down, across), jnp.where(is_turned, across, down)
    images = _turned(images, rows_first)
    images = to_grey_levels(jnp.einsum("nox,nyxc->nyoc", first, images, precision=EXACT))
    images = to_grey_levels(jnp.einsum("noy,nyxc->noxc", second, images, precision=EXACT))
    return _turned(images, rows_first)


def _turned(images: jax.Array, is_turned: jax.Array) -> jax.Array:
    return jnp.where(is_turned[:, None, None, None], images.swapaxes(1, 2), images)


def _weights(outputs, start, extent, scale, length: int) -> jax.Array:
    """float32 [outputs, length]: how much each input pixel gives to each output pixel.

    The input is `extent` pixels from `start`; `scale` is input pixels an output pixel.
    """
    centre = (outputs[:, None] + 0.5) * scale
    stretch = jnp.maximum(scale, 1.0)
    first = jnp.floor(jnp.maximum(centre - 2.0 * stretch + 0.5, 0.0))
    last = jnp.floor(jnp.minimum(centre + 2.0 * stretch + 0.5, extent))
    inputs = jnp.arange(length) - start
    is_inside = (inputs >= first) & (inputs < last)
    weights = jnp.where(is_inside, _bicubic((inputs + 0.5 - centre) / stretch, a=-0.5), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _bicubic(x: jax.Array, a: float) -> jax.Array:
    x = jnp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _affine_one(image: jax.Array, matrix: jax.Array, fill: tuple[float, ...]) -> jax.Array:
    height, width, channels = image.shape
    a, b, c, d, e, f = matrix
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    is_inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    left, above = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
    dx, dy = source_x - 0.5 - left, source_y - 0.5 - above
    pixels = image.reshape(-1, channels)
    total = jnp.zeros_like(image)
    for i in range(-1, 3):
        row = jnp.clip(above + i, 0, height - 1).astype(jnp.int32) * width
        line = jnp.zeros_like(image)
        for j in range(-1, 3):
            column = jnp.clip(left + j, 0, width - 1).astype(jnp.int32)
            line += _bicubic(dx - j, a=-1.0)[..., None] * pixels[row + column]
        total += _bicubic(dy - i, a=-1.0)[..., None] * line
    # Pillow truncates here; the nudge keeps rounding noise from losing a grey level.
    moved = jnp.clip(jnp.floor(total + 1e-3), 0.0, 255.0)
    return jnp.where(is_inside[..., None], moved, jnp.array(fill, jnp.float32))
