"""Where a patch stands: sine-cosine tables, their resizing, relative positions.

Tables are [1, num_special + G * G, width]: special tokens (class, distillation) first, then the
G x G patches row by row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lab.arrays import Array
from lab.errors import require


def sincos_table(width: int, grid: int, num_special: int = 1) -> np.ndarray:
    """The fixed table of MAE (He et al., 2022): float32 [1, num_special + grid**2, width].

    The first half of the channels holds sines then cosines of the column, the second half those of
    the row; special tokens have zeros.

    Raises: InvalidInputError unless the width divides by 4.
    """
    require(width % 4 == 0, f"a sine-cosine table needs a width divisible by 4, got {width}")
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    angles = [np.outer(position, frequencies) for position in (columns, rows)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    return np.concatenate([np.zeros((num_special, width)), table])[None].astype(np.float32)


def bicubic_matrix(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """The weights of cubic resampling as torch's `interpolate(mode="bicubic")`; float32 [new, old].

    Half-pixel centres, taps clamped to the edge, no antialiasing; JAX's own resizing has another
    kernel (a = -0.5) and renormalises at the edges.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        distance = np.abs(centres - (first + tap))
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weights)
    return matrix.astype(np.float32)


def interpolate_positions(table: Array, new_grid: int, num_special: int = 1) -> jax.Array:
    """Resizes the patch part of a position table to another grid, bicubically (a = -0.75).

    Args: table, float [1, num_special + G * G, width].
    Returns: float [1, num_special + new_grid**2, width]; special tokens' rows stay as they are.
    Raises: InvalidInputError where the patch part is not square.
    """
    special, patches = table[:, :num_special], table[:, num_special:]
    grid = grid_of(patches.shape[1])
    if grid == new_grid:
        return jnp.asarray(table)
    matrix = bicubic_matrix(grid, new_grid)
    square = patches.reshape(grid, grid, -1)
    resized = jnp.einsum("yr,xc,rcd->yxd", matrix, matrix, square, precision="highest")
    return jnp.concatenate([special, resized.reshape(1, new_grid**2, -1)], axis=1)


def grid_of(num_patches: int) -> int:
    """The side of a square grid of patches.

    Raises: InvalidInputError if the number is not a square.
    """
    grid = round(num_patches**0.5)
    require(grid * grid == num_patches, f"{num_patches} patches do not make a square grid")
    return grid


def relative_position_rows(num_special: int) -> int:
    """Rows of a relative position table beside the (2G - 1)^2 of patch pairs: 3 or 6."""
    require(num_special in (1, 2), f"relative positions know 1 or 2 special tokens: {num_special}")
    return 3 * num_special


def relative_position_index(grid: int, num_special: int = 1) -> np.ndarray:
    """The row of the bias table for each (query, key) pair; int32 [T, T], T = num_special + G * G.

    Patch pairs: (y_q - y_k + G - 1)(2G - 1) + x_q - x_k + G - 1 (BEiT). With n = (2G - 1)^2, one
    special token: n class -> patch, n + 1 patch -> class, n + 2 class -> class. Two: n dist ->
    patch, n + 1 patch -> dist, n + 2 dist -> dist, n + 3 class -> any other, n + 4 any other ->
    class, n + 5 class -> class.
    """
    relative_position_rows(num_special)
    y, x = np.divmod(np.arange(grid * grid), grid)
    vertical, horizontal = y[:, None] - y[None], x[:, None] - x[None]
    pairs = (vertical + grid - 1) * (2 * grid - 1) + horizontal + grid - 1
    tokens, n = num_special + grid * grid, (2 * grid - 1) ** 2
    index = np.zeros((tokens, tokens), np.int32)
    index[num_special:, num_special:] = pairs
    # The class token comes first but is written last: it has its own row against the distillation
    # token too.
    for order, token in enumerate(reversed(range(num_special))):
        index[token, token + 1 :] = n + 3 * order
        index[token + 1 :, token] = n + 3 * order + 1
        index[token, token] = n + 3 * order + 2
    return index
