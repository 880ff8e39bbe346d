"""Pictures of this paper: generated shapes, CIFAR-10, an ImageNet sample, and anyone's arrays.

ImageNet itself, or a folder of one's own, is streamed: `lab.data.folders.image_folder` and the
views of `lab.papers.tinymim.views`.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lab.data
from lab.data.augment import normalise
from lab.data.images import load_images
from lab.errors import require
from lab.papers.tinymim.checks import check_labels, check_pixels

SETS = ("shapes12", "cifar10")
SHAPES = ("disc", "square", "triangle", "ring", "plus", "bar")
TEXTURES = ("plain", "stripes")
NOISE = 0.06
SHAPES_MEAN, SHAPES_STD = (0.5,) * 3, (0.25,) * 3
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclasses.dataclass(frozen=True)
class ShapePictures:
    """Pictures of `shapes12`.

    Attributes: images normalised float32 [N, S, S, 3]; labels int32 [N], shape + 6 * texture;
      masks bool [N, S, S], where the shape is.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    @property
    def pixel_labels(self) -> np.ndarray:
        """Labels for segmentation, uint8 [N, S, S]: 0 background, class + 1 on the shape."""
        return np.where(self.masks, self.labels[:, None, None] + 1, 0).astype(np.uint8)


def shapes12(seed: int, num_pictures: int, size: int = 24) -> ShapePictures:
    """Draws coloured shapes, six of them plain or striped, on a sloping background.

    Coordinates run from -1 to 1: centre U(-.35, .35)^2, radius U(.4, .7), rotation U(0, 2 pi). The
    background is a colour with a slope in x and y; the shape's colour is at least 0.6 (L1) from
    it; stripes switch it to its complement where sin(7 u) < 0; Gaussian noise of 0.06 everywhere.
    """
    require(num_pictures >= 1, f"num_pictures must be at least 1, got {num_pictures}")
    require(size >= 8, f"size must be at least 8 pixels, got {size}")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(SHAPES) * len(TEXTURES), num_pictures)
    kind, is_striped = labels % len(SHAPES), labels // len(SHAPES) == 1
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    y, x = axis[:, None], axis[None]

    def uniform(low, high, *shape):
        return rng.uniform(low, high, (num_pictures, *shape)).astype(np.float32)

    centre, radius, angle = uniform(-0.35, 0.35, 2), uniform(0.4, 0.7), uniform(0, 2 * np.pi)
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    scale = radius[:, None, None]
    u, v = (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale
    masks = inside_shape(kind, u, v)

    ground = uniform(0, 1, 1, 1, 3)
    slopes = uniform(-0.3, 0.3, 2, 1, 1, 3)
    images = ground + slopes[:, 0] * x[..., None] + slopes[:, 1] * y[..., None]
    colour = distant_colours(rng, ground[:, 0, 0])[:, None, None]
    is_dark = is_striped[:, None, None] & (np.sin(7 * u) < 0)
    shape = np.where(is_dark[..., None], 1 - colour, colour)
    images = np.where(masks[..., None], shape, images)
    images = images + NOISE * rng.standard_normal(images.shape, np.float32)
    images = (images - np.asarray(SHAPES_MEAN, np.float32)) / np.asarray(SHAPES_STD, np.float32)
    return ShapePictures(images, labels.astype(np.int32), masks)


def inside_shape(kind: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points lie inside a shape of radius 1 around the origin.

    Args: kind int [N], an index of SHAPES; u, v float [N, S, S], the shape's own coordinates.
    Returns: bool [N, S, S].
    """
    distance, (a, b) = np.hypot(u, v), (np.abs(u), np.abs(v))
    triangle = (v > -0.5) & (np.sqrt(3) * a + v < 1)  # its corners lie on the circle
    plus = np.minimum(a, b) < 0.3
    inside = [
        distance < 1,
        np.maximum(a, b) < 0.8,
        triangle,
        (distance > 0.55) & (distance < 1),
        plus & (np.maximum(a, b) < 0.95),
        (a < 0.95) & (b < 0.3),
    ]
    return np.choose(kind[:, None, None], inside)


def distant_colours(
    rng: np.random.Generator, from_colours: np.ndarray, least: float = 0.6
) -> np.ndarray:
    """Uniform colours, each at an L1 distance of at least `least` from its partner; float [N, 3].

    Args: from_colours float [N, 3] in 0..1.
    """
    colours = np.full_like(from_colours, np.nan)
    left = np.arange(len(colours))
    while len(left):
        colours[left] = rng.uniform(size=(len(left), 3))
        left = left[np.abs(colours[left] - from_colours[left]).sum(axis=1) < least]
    return colours


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What one study needs: pictures without labels, few with labels, and a test set.

    Pictures are normalised floats, or uint8 that `normalised` brings to them on the device.

    Attributes:
      unlabeled, train_images, test_images: [N, S, S, 3], of equal size.
      train_labels, test_labels: int [N].
      mean, std: by channel, of pixels in 0..1.
    """

    name: str
    unlabeled: np.ndarray
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...] = SHAPES_MEAN
    std: tuple[float, ...] = SHAPES_STD

    def __post_init__(self) -> None:
        sizes = {x.shape[1:] for x in (self.unlabeled, self.train_images, self.test_images)}
        side = self.unlabeled.shape[1:3]
        require(len(sizes) == 1 and side[0] == side[1], f"pictures differ in size: {sizes}")
        for images in (self.unlabeled, self.train_images, self.test_images):
            if images.dtype != np.uint8:
                check_pixels(images)
        for labels in (self.train_labels, self.test_labels):
            check_labels(labels, self.num_classes)

    @property
    def image_size(self) -> int:
        """The side of the pictures, pixels."""
        return self.unlabeled.shape[1]

    def normalised(self, images: jax.Array) -> jax.Array:
        """Grey levels to normalised floats; floats are taken as normalised."""
        if images.dtype != jnp.uint8:
            return images
        return normalise(images, self.mean, self.std)

    def displayed(self, images: np.ndarray) -> np.ndarray:
        """Normalised pictures as colours in 0..1, to be looked at."""
        return np.clip(np.asarray(images) * self.std + self.mean, 0, 1)


def load_pictures(
    name: str,
    num_unlabeled: int,
    num_labeled: int,
    num_test: int,
    *,
    seed: int = 0,
    size: int = 24,
    data_dir: str | Path | None = None,
) -> Pictures:
    """The pictures of a study.

    Args:
      name: "shapes12", which is generated, or "cifar10".
      num_unlabeled, num_labeled, num_test: how many; those with labels are other pictures than
        those without.
      size: of the generated pictures, in pixels.
    Raises: InvalidInputError; DatasetNotFoundError where CIFAR-10 is not on this machine.
    """
    require(name in SETS, f"name is one of {', '.join(SETS)}, got {name!r}")
    counts = (num_unlabeled, num_labeled, num_test)
    require(min(counts) >= 1, f"every part needs at least one picture, got {counts}")
    if name == "shapes12":
        parts = [shapes12(3 * seed + i, count, size) for i, count in enumerate(counts)]
        plain, train, test = parts
        return Pictures(
            name, plain.images, train.images, train.labels, test.images, test.labels, 12
        )
    images, labels = load_images("cifar10", "train", data_dir)
    test_images, test_labels = load_images("cifar10", "test", data_dir)
    available = len(images), len(test_images)
    require(
        num_unlabeled + num_labeled <= available[0] and num_test <= available[1],
        f"CIFAR-10 has {available[0]} pictures to train and {available[1]} to test, asked for "
        f"{num_unlabeled} + {num_labeled} and {num_test}",
    )
    order = np.random.default_rng(seed).permutation(len(images))
    plain, train = np.split(order[: num_unlabeled + num_labeled], [num_unlabeled])
    return Pictures(
        name,
        images[plain],
        images[train],
        labels[train],
        test_images[:num_test],
        test_labels[:num_test],
        10,
        CIFAR_MEAN,
        CIFAR_STD,
    )


def imagenet_sample(data_dir: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """1,000 ImageNet pictures, one a class: (uint8 [1000, 160, 160, 3], labels int32 [1000]).

    For pre-training and for looking at, not for measuring accuracy.
    Raises: DatasetNotFoundError.
    """
    return lab.data.load("imagenet_sample", data_dir)
