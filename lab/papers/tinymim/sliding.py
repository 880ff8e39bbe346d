"""Segmentation of pictures larger than the network: windows, averaged where they overlap.

    predict = make_predictor(functools.partial(window_logits, config), SlidingConfig(crop=512))
    labels = predict(variables, picture)               # uint8 [h, w, 3] -> int32 [h, w]

`slide_logits` is the same for one static shape, inside compiled code.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab.data.augment.bilinear import resize_within, scaled_size
from lab.data.augment.colour import normalise
from lab.errors import require
from lab.metrics.segmentation import add_areas, segmentation_areas, segmentation_scores


@dataclasses.dataclass(frozen=True)
class SlidingConfig:
    """How pictures are tested (ADE20K's settings by default).

    Attributes:
      crop, stride: of the windows, pixels; the crop is the network's image size.
      longest, shortest: a picture is resized to fit into these, keeping its ratio.
      windows_at_once: how many windows go through the network together.
      bucket: pictures are put on canvases of multiples of this, so that few shapes are compiled.
    """

    crop: int = 512
    stride: int = 341
    longest: int = 2048
    shortest: int = 512
    windows_at_once: int = 4
    bucket: int = 256

    def __post_init__(self) -> None:
        check_windows(self.crop, self.stride)
        require(
            1 <= self.shortest <= self.longest,
            f"shortest must lie in 1..longest ({self.longest}), got {self.shortest}",
        )
        require(self.windows_at_once >= 1, f"windows_at_once must be positive: {self}")
        require(self.bucket >= 1, f"bucket must be positive: {self}")


def check_windows(crop: int, stride: int) -> None:
    """Raises InvalidInputError for windows that would leave gaps."""
    require(
        crop >= 1 and 1 <= stride <= crop,
        f"windows need 1 <= stride <= crop, got crop {crop} and stride {stride}",
    )


def window_starts(size: tuple[int, int], crop: int, stride: int) -> np.ndarray:
    """Upper left corners of the windows, int32 [n, 2], row by row.

    Per axis max(ceil((size - crop) / stride), 0) + 1 windows, the last shifted back inside; an axis
    shorter than the crop has one window of its own length.
    """
    check_windows(crop, stride)
    axes = []
    for length in size:
        count = max(-(-(length - crop) // stride), 0) + 1
        axes.append([min(i * stride, max(length - crop, 0)) for i in range(count)])
    return np.array([(y, x) for y in axes[0] for x in axes[1]], np.int32)


def slide_logits(
    apply_fn: Callable[[jax.Array], jax.Array], images: jax.Array, crop: int, stride: int
) -> jax.Array:
    """Logits of whole pictures: those of all windows, averaged by how many cover a pixel.

    Args:
      apply_fn: windows float [N, h, w, C] -> logits [N, h, w, num_classes]; h and w are `crop`, or
        the picture's where that is smaller.
      images: float [B, H, W, C].
    Returns: float [B, H, W, num_classes].
    """
    batch, height, width, channels = images.shape
    starts = window_starts((height, width), crop, stride)
    shape = (batch, min(crop, height), min(crop, width), channels)
    windows = [jax.lax.dynamic_slice(images, (0, y, x, 0), shape) for y, x in starts.tolist()]
    logits = apply_fn(jnp.concatenate(windows))
    logits = logits.reshape(len(starts), *shape[:3], -1)
    return average_windows(logits, jnp.asarray(starts), (height, width))


def average_windows(
    logits: jax.Array,
    starts: jax.Array,
    size: tuple[int, int],
    weights: jax.Array | None = None,
) -> jax.Array:
    """Puts windows in their places and divides by how many cover a pixel (0 where none does).

    Args: logits [n, B, h, w, K]; starts int [n, 2]; weights float [n], 0 for a window that is only
      padding.
    Returns: float [B, *size, K].
    """
    num, batch, height, width, classes = logits.shape
    weights = jnp.ones(num) if weights is None else weights
    total = jnp.zeros((batch, *size, classes), logits.dtype)
    count = jnp.zeros((*size, 1), logits.dtype)

    def add(carry, window):
        total, count = carry
        values, start, weight = window
        place = (0, start[0], start[1], 0)
        old = jax.lax.dynamic_slice(total, place, values.shape)
        total = jax.lax.dynamic_update_slice(total, old + weight * values, place)
        old = jax.lax.dynamic_slice(count, place[1:], (height, width, 1))
        return (total, jax.lax.dynamic_update_slice(count, old + weight, place[1:])), None

    (total, count), _ = jax.lax.scan(add, (total, count), (logits, starts, weights))
    return total / jnp.maximum(count, 1)


def label_map(
    logits: jax.Array, size: jax.Array, original: jax.Array, out: tuple[int, int]
) -> jax.Array:
    """The classes at the original size: logits resized bilinearly, softmax, argmax.

    Args: logits float [h, w, K], of which the upper left `size` int [2] counts; original int [2].
    Returns: int32 [*out], of which the upper left `original` counts. (The softmax is left out: it
      moves no maximum.)
    """
    return resize_within(logits, size, original, out).argmax(axis=-1).astype(jnp.int32)


def make_predictor(
    apply_fn: Callable[[Any, jax.Array], jax.Array], sliding: SlidingConfig
) -> Callable[[Any, np.ndarray], np.ndarray]:
    """`predict(variables, picture) -> labels`; compiles the network once, whatever the pictures.

    A picture is uint8 [h, w, 3] of any size, labels are int32 [h, w].

    Args: apply_fn, (variables, windows normalised float [n, crop, crop, 3]) -> logits
      [n, crop, crop, num_classes] (`segmentation.window_logits`); where a picture is smaller than
      the crop, the window holds zeros beyond it.
    """
    crop, group, bucket = sliding.crop, sliding.windows_at_once, sliding.bucket
    network = jax.jit(apply_fn)
    prepare = jax.jit(_prepared, static_argnums=3)
    average = jax.jit(average_windows, static_argnums=2)
    finish = jax.jit(label_map, static_argnums=3)

    def rounded(size) -> tuple[int, int]:
        height, width = (bucket * -(-int(n) // bucket) for n in size)
        return height, width

    def sides(size) -> np.ndarray:
        return np.asarray(size, np.int32)

    def predict(variables: Any, picture: np.ndarray) -> np.ndarray:
        check_picture(picture)
        original = picture.shape[:2]
        size = scaled_size(original, sliding.longest, sliding.shortest)
        canvas = tuple(max(n, crop) for n in rounded(size))
        placed = np.zeros((*rounded(original), 3), np.uint8)
        placed[: original[0], : original[1]] = picture
        image = prepare(placed, sides(original), sides(size), canvas)
        starts = window_starts(size, crop, sliding.stride)
        windows, logits = np.resize(starts, (-(-len(starts) // group) * group, 2)), []
        for i in range(0, len(windows), group):
            part = _cut(image, windows[i : i + group], crop)
            logits.append(network(variables, part))
        weights = (np.arange(len(windows)) < len(starts)).astype(np.float32)
        total = average(jnp.concatenate(logits)[:, None], windows, canvas, weights)
        labels = finish(total[0], sides(size), sides(original), rounded(original))
        return np.asarray(labels)[: original[0], : original[1]]

    return predict


def check_picture(picture: np.ndarray) -> None:
    """Raises InvalidInputError unless a picture is uint8 [h, w, 3]."""
    require(
        picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8,
        f"a picture must be uint8 [height, width, 3], got {picture.dtype} {picture.shape}",
    )


def _prepared(placed, original, size, canvas) -> jax.Array:
    """The picture resized, normalised and put on its canvas, zeros beyond it."""
    image = resize_within(placed, original, size, canvas)
    inside = [jnp.arange(n) < s for n, s in zip(canvas, size, strict=True)]
    # levels are whole numbers after OpenCV's resizing
    levels = jnp.clip(jnp.round(image), 0, 255)
    return jnp.where((inside[0][:, None] & inside[1])[..., None], normalise(levels), 0.0)


@functools.partial(jax.jit, static_argnums=2)
def _cut(image: jax.Array, starts: jax.Array, crop: int) -> jax.Array:
    def one(start):
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (crop, crop, image.shape[-1]))

    return jax.vmap(one)(starts)


def evaluate_segmentation(
    predict: Callable[[np.ndarray], np.ndarray],
    examples: Iterable[tuple[np.ndarray, np.ndarray]],
    num_classes: int,
) -> dict[str, Any]:
    """The scores of a whole set (`lab.metrics.segmentation.segmentation_scores`).

    Args: predict, a picture uint8 [h, w, 3] -> classes int [h, w]; examples, pairs of a picture and
      its labels int [h, w], 255 ignored (`SegmentationFolder.whole`).
    Raises: InvalidInputError where there is no example.
    """
    areas = [segmentation_areas(predict(image), labels, num_classes) for image, labels in examples]
    require(len(areas) > 0, "there are no examples to evaluate")
    return segmentation_scores(add_areas(*areas))
