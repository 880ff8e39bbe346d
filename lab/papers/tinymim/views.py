"""What each stage sees of a batch of pictures, on the device: crops, flips, colours, mixtures.

A raw batch is what `lab.data.folders` reads: "image" uint8 [B, canvas, canvas, 3], "size" int
[B, 2] (optional: pictures then fill the canvas), "label" int [B] and "mask" [B] where there are.
A view makes of it the batch of `lab.papers.tinymim.steps`; `with_views` puts the two together:

    step = with_views(step, functools.partial(distillation_views, size=224), axis_name="batch")

Every draw belongs to an example of the global batch, whatever the number of devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from lab.data.augment import (
    MixConfig,
    color_jitter,
    mixed,
    normalise,
    randaugment,
    random_erasing,
    random_flip,
    random_resized_crop,
    resize_and_centre_crop,
    smooth_one_hot,
)
from lab.data.augment.scenes import SceneCrop, augmented_scenes
from lab.papers.tinymim.steps import example_keys, split
from lab.train.state import step_key
from lab.train.steps import Step

Batch = dict[str, jax.Array]
View = Callable[..., Batch]
JITTER = 0.4
PRETRAINING_SCALE = (0.2, 1.0)
# A step's own draws begin with its key; those of its views with a key aside.
_VIEWS = 1 << 16


def with_views(step: Step, view: View, *, axis_name: str | None = None) -> Step:
    """A step on raw batches: `view(key, raw, axis_name=...)` makes what `step` takes."""

    def viewing(state: Any, raw: Batch):
        key = jax.random.fold_in(step_key(state), _VIEWS)
        return step(state, view(key, raw, axis_name=axis_name))

    return viewing


def pretraining_views(
    key: jax.Array, raw: Batch, *, size: int, axis_name: str | None = None
) -> Batch:
    """MAE's: a random crop (a fifth of the area or more), flipped half of the time, normalised.

    Args: size, side of the result in pixels.
    """
    return _kept(raw) | {"images": normalise(_cropped(key, raw, size, axis_name))}


def distillation_views(
    key: jax.Array, raw: Batch, *, size: int, axis_name: str | None = None
) -> Batch:
    """One crop for both networks; the student's copy has its colours jittered."""
    cropped = _cropped(key, raw, size, axis_name)
    keys = split(example_keys(key, len(cropped), axis_name), 2)
    jittered = color_jitter(keys, cropped, JITTER, JITTER, JITTER)
    return _kept(raw) | {"teacher_images": normalise(cropped), "images": normalise(jittered)}


@dataclasses.dataclass(frozen=True)
class FinetuningViews:
    """Augmentation of fine-tuning (the released recipe by default).

    Attributes:
      crop_scale: smallest share of the area that a crop takes.
      randaugment: whether two operations of magnitude 9 are applied.
      erasing: how often a box is replaced by noise.
      mixing: mixup and cutmix; None for neither.
      label_smoothing: share of the target that goes to all classes alike.
    """

    crop_scale: float = 0.08
    randaugment: bool = True
    erasing: float = 0.25
    mixing: MixConfig | None = dataclasses.field(default_factory=MixConfig)
    label_smoothing: float = 0.1


def finetuning_views(
    key: jax.Array,
    raw: Batch,
    *,
    size: int,
    num_classes: int,
    config: FinetuningViews | None = None,
    axis_name: str | None = None,
) -> Batch:
    """Crop, flip, RandAugment, erasing, mixup or cutmix; "targets" float [B, num_classes].

    Raises: InvalidInputError for an odd batch where examples are mixed.
    """
    config = config or FinetuningViews()
    images = _cropped(key, raw, size, axis_name, (config.crop_scale, 1.0))
    keys = example_keys(key, len(images), axis_name)
    if config.randaugment:
        images = randaugment(split(keys, 2), images)
    images = normalise(images)
    if config.erasing:
        images = random_erasing(split(keys, 3), images, config.erasing)
    targets = smooth_one_hot(raw["label"], num_classes, config.label_smoothing)
    kept = _kept(raw)
    if config.mixing is not None:
        images, targets = mixed(
            key, images, targets, config.mixing, mask=kept.get("mask"), axis_name=axis_name
        )
    return kept | {"images": images, "targets": targets}


def evaluation_views(raw: Batch, *, size: int) -> Batch:
    """The central `size` pixels of a picture whose shorter side is size / .875; with "labels"."""
    images = resize_and_centre_crop(raw["image"], int(size / 0.875), size, raw.get("size"))
    labels = {"labels": raw["label"]} if "label" in raw else {}
    return _kept(raw) | labels | {"images": normalise(images)}


def segmentation_views(
    key: jax.Array, raw: Batch, *, crop: SceneCrop, axis_name: str | None = None
) -> Batch:
    """Scaled, cropped, flipped and distorted pictures with their "labels" int [B, S, S].

    Args: raw, of `lab.data.segmentation`: with "labels" beside "image" and "size".
    """
    keys = example_keys(key, len(raw["image"]), axis_name)
    images, labels = augmented_scenes(keys, raw["image"], raw["labels"], raw["size"], crop)
    return _kept(raw) | {"images": images, "labels": labels}


def _cropped(
    key: jax.Array,
    raw: Batch,
    size: int,
    axis_name: str | None,
    scale: tuple[float, float] = PRETRAINING_SCALE,
) -> jax.Array:
    """A random crop, flipped half of the time; grey levels float32 [B, size, size, 3]."""
    keys = example_keys(key, len(raw["image"]), axis_name)
    cropped = random_resized_crop(
        split(keys, 0), raw["image"], size, scale=scale, sizes=raw.get("size")
    )
    return random_flip(split(keys, 1), cropped)


def _kept(raw: Batch) -> Batch:
    return {"mask": raw["mask"]} if "mask" in raw else {}
