"""Augmentation of pictures with label maps: scale, crop, flip and colour, as mmseg trains.

    images, labels = augmented_scenes(keys, images, labels, sizes, SceneCrop(size=512))

Images are [N, H, W, 3] grey levels and labels [N, H, W], the picture in the upper left corner of
its canvas; see the package for `keys`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lab.data.augment.bilinear import sample_bilinear, sample_nearest, sources
from lab.data.augment.colour import normalise
from lab.errors import require
from lab.metrics.segmentation import IGNORED

ATTEMPTS = 10
# hues are whole numbers of 2 degrees in OpenCV
HUES = 180.0

Axes = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class SceneCrop:
    """Random scale, crop and flip (ADE20K's settings by default).

    Attributes:
      size: side of the crop, pixels; a smaller picture is padded.
      longest, shortest, scale: the picture is resized to fit into (longest r, shortest r), keeping
        its ratio, with r from U(*scale).
      largest_share: crops in which one class has more of the labelled pixels are drawn again, up to
        ten times; 1 takes the first.
      num_classes: labels 0..num_classes - 1 count for that.
    """

    size: int = 512
    longest: int = 2048
    shortest: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.75
    flip_rate: float = 0.5
    num_classes: int = 150

    def __post_init__(self) -> None:
        require(self.size >= 1, f"size must be positive, got {self.size}")
        require(
            1 <= self.shortest <= self.longest,
            f"shortest must lie in 1..longest ({self.longest}), got {self.shortest}",
        )
        require(
            0 < self.scale[0] <= self.scale[1],
            f"scale must be two rising positive numbers, got {self.scale}",
        )
        require(
            0 < self.largest_share <= 1,
            f"largest_share must be in (0, 1], got {self.largest_share}",
        )
        require(0 <= self.flip_rate <= 1, f"flip_rate must be in [0, 1], got {self.flip_rate}")


def augmented_scenes(
    keys: jax.Array, images: jax.Array, labels: jax.Array, sizes: jax.Array, config: SceneCrop
) -> tuple[jax.Array, jax.Array]:
    """A training batch: scaled, cropped, flipped, distorted, normalised, then padded.

    Args: as of `random_scene_crop`.
    Returns: (normalised float32 [N, size, size, 3], 0 where there is no picture; int32 labels
      [N, size, size], there 255).
    """
    crop_keys, colour_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
    images, labels, valid = random_scene_crop(crop_keys, images, labels, sizes, config)
    images = normalise(photometric_distortion(colour_keys, images))
    return jnp.where(valid[..., None], images, 0.0), labels


def random_scene_crop(
    keys: jax.Array, images: jax.Array, labels: jax.Array, sizes: jax.Array, config: SceneCrop
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scales, crops and flips pictures with their labels.

    Args: sizes int [N, 2], heights and widths of the pictures on their canvases.
    Returns: (float32 [N, size, size, 3] grey levels, whole numbers; int32 labels [N, size, size],
      255 where there is no picture; bool [N, size, size], where there is one).
    """
    return jax.vmap(functools.partial(_scene_crop, config=config))(keys, images, labels, sizes)


def _scene_crop(key, image, labels, old, config: SceneCrop):
    scale_key, crop_key, flip_key = jax.random.split(key, 3)
    ratio = jax.random.uniform(scale_key, minval=config.scale[0], maxval=config.scale[1])
    new = scaled_by(old, ratio, config)
    starts = _crop_starts(crop_key, new, config.size)
    places, inside = _places(starts[-1], new, config.size)
    if config.largest_share < 1:
        start = _varied_crop(labels, old, new, starts, config)
        places, inside = _places(start, new, config.size)
    is_flipped = jax.random.bernoulli(flip_key, config.flip_rate)
    shown = inside[0].sum(), inside[1].sum()
    # the picture stays in the upper left corner: padding comes after the flip
    mirrored = places[1][0] + shown[1] - 1 - jnp.arange(config.size)
    columns = jnp.where(is_flipped, mirrored, places[1])
    valid = inside[0][:, None] & inside[1]
    rows = sources(places[0], old[0], new[0])
    sampled = sample_bilinear(image, rows, sources(columns, old[1], new[1]), old)
    levels = jnp.clip(jnp.floor(sampled + 0.5), 0.0, 255.0)
    found = sample_nearest(labels, (places[0], columns), old, new).astype(jnp.int32)
    return jnp.where(valid[..., None], levels, 0.0), jnp.where(valid, found, IGNORED), valid


def scaled_by(size: jax.Array, ratio: jax.Array, config: SceneCrop) -> jax.Array:
    """The size int32 [2] of a picture after scaling by `ratio` of the configured frame."""
    longest = jnp.floor(config.longest * ratio)
    shortest = jnp.floor(config.shortest * ratio)
    factor = jnp.minimum(longest / size.max(), shortest / size.min())
    return jnp.maximum(jnp.floor(size * factor + 0.5), 1).astype(jnp.int32)


def _crop_starts(key, size, crop: int) -> jax.Array:
    """Upper left corners to try, int32 [ATTEMPTS + 1, 2]."""
    shape = (ATTEMPTS + 1, 2)
    return jax.random.randint(key, shape, 0, jnp.maximum(size - crop, 0) + 1)


def _places(start, size, crop: int) -> tuple[Axes, Axes]:
    """The pixels of a crop per axis, and which of them lie in the picture."""
    rows, columns = (start[i] + jnp.arange(crop) for i in range(2))
    return (rows, columns), (rows < size[0], columns < size[1])


def _varied_crop(labels, old, new, starts, config: SceneCrop) -> jax.Array:
    """The first crop that no class fills too much; the last, untried one where all do."""

    def is_varied(start):
        places, inside = _places(start, new, config.size)
        found = sample_nearest(labels, places, old, new).astype(jnp.int32)
        counts = inside[0][:, None] & inside[1] & (found < config.num_classes)
        found = jnp.where(counts, found, config.num_classes)
        shares = jnp.bincount(found.ravel(), length=config.num_classes + 1)[:-1]
        total = shares.sum()
        return (total > 0) & (shares.max() <= config.largest_share * total)

    def unsettled(tried):
        return (tried < ATTEMPTS) & ~is_varied(starts[jnp.minimum(tried, ATTEMPTS)])

    return starts[jax.lax.while_loop(unsettled, lambda tried: tried + 1, 0)]


def photometric_distortion(
    keys: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 32.0,
    contrast: tuple[float, float] = (0.5, 1.5),
    saturation: tuple[float, float] = (0.5, 1.5),
    hue: int = 18,
    rate: float = 0.5,
) -> jax.Array:
    """Random brightness, contrast, saturation and hue, each with probability `rate`.

    Contrast comes second or last, with equal chance.

    Args:
      images: [N, H, W, 3] grey levels.
      brightness: grey levels added, from U(-b, b); contrast, saturation: bounds of factors; hue: in
        OpenCV's units of 2 degrees, a whole number from -hue..hue.
    Returns: float32 grey levels, whole numbers.
    """
    bounds = (*contrast, *saturation)
    require(min(bounds) >= 0 and brightness >= 0 and hue >= 0, "strengths must not be negative")

    def one(key, image):
        draws = jax.random.split(key, 6)
        asked = jax.random.bernoulli(draws[0], rate, (4,))
        is_early = jax.random.bernoulli(draws[1])
        add = jax.random.uniform(draws[2], minval=-brightness, maxval=brightness)
        contrast_by = jax.random.uniform(draws[3], minval=contrast[0], maxval=contrast[1])
        saturate = jax.random.uniform(draws[4], minval=saturation[0], maxval=saturation[1])
        turn = jax.random.randint(draws[5], (), -hue, hue + 1)
        contrasts = jnp.where(asked[1], contrast_by, 1.0)
        return distort(
            image,
            jnp.where(asked[0], add, 0.0),
            jnp.where(is_early, contrasts, 1.0),
            jnp.where(asked[2], saturate, 1.0),
            jnp.where(asked[3], turn, 0),
            jnp.where(is_early, 1.0, contrasts),
        )

    return jax.vmap(one)(keys, jnp.asarray(images, jnp.float32))


def distort(
    image: jax.Array,
    brightness: jax.Array,
    early_contrast: jax.Array,
    saturation: jax.Array,
    hue: jax.Array,
    late_contrast: jax.Array,
) -> jax.Array:
    """The changes of `photometric_distortion` with given strengths, rounded after each.

    Args: image float [H, W, 3] grey levels; the others scalars (0 or 1 changes nothing).
    """
    image = _truncated(image + brightness)
    image = _truncated(image * early_contrast)
    angle, chroma, value = to_hsv(image)
    chroma = jnp.clip(jnp.floor(chroma * saturation), 0.0, 255.0)
    turned = from_hsv((angle + hue) % HUES, chroma, value)
    # there and back loses a level here and there: only where something changes
    image = jnp.where((saturation == 1) & (hue == 0), image, turned)
    return _truncated(image * late_contrast)


def to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """RGB grey levels [..., 3] to hue in 0..179, saturation and value in 0..255, whole numbers.

    As OpenCV's COLOR_RGB2HSV of bytes.
    """
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, spread = image.max(axis=-1), image.max(axis=-1) - image.min(axis=-1)
    safe = jnp.where(spread > 0, spread, 1.0)
    sixth = HUES / 6
    angle = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    angle = jnp.round(angle * sixth)
    angle = jnp.where(angle < 0, angle + HUES, angle)
    saturation = jnp.round(jnp.where(value > 0, 255 * spread / jnp.maximum(value, 1), 0.0))
    return jnp.where(spread > 0, angle, 0.0), saturation, value


def from_hsv(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """The inverse of `to_hsv`: grey levels [..., 3], whole numbers."""
    sector = hue * 6 / HUES

    def channel(offset):
        place = (offset + sector) % 6
        fall = jnp.clip(jnp.minimum(place, 4 - place), 0.0, 1.0)
        return value * (1 - saturation / 255 * fall)

    return jnp.clip(jnp.round(jnp.stack([channel(n) for n in (5.0, 3.0, 1.0)], -1)), 0.0, 255.0)


def _truncated(values: jax.Array) -> jax.Array:
    return jnp.floor(jnp.clip(values, 0.0, 255.0))
