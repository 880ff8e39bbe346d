"""Augmentation of image batches, compiled with the step that uses them.

Images are [batch, height, width, channels]. Until `normalise` they are grey levels, float32 with
whole numbers 0..255 (uint8 is taken too), and results are rounded as Pillow rounds. Every random
function takes `keys`, one an example: `lab.train.devices.example_keys(key, batch_size)` makes
them so that the draw for an example does not depend on the number of devices.
"""

from lab.data.augment.colour import color_jitter, enhance, normalise
from lab.data.augment.crops import (
    crop_boxes,
    random_crop,
    random_flip,
    random_resized_crop,
    random_roll,
)
from lab.data.augment.erasing import random_erasing
from lab.data.augment.mixing import (
    MixConfig,
    cutmix,
    cutmix_box,
    mixed,
    mixup,
    smooth_one_hot,
)
from lab.data.augment.randaugment import OPERATIONS, apply_operation, op_argument, randaugment
from lab.data.augment.resample import affine, resize_and_centre_crop, resized_crop

__all__ = [
    "OPERATIONS",
    "MixConfig",
    "affine",
    "apply_operation",
    "color_jitter",
    "crop_boxes",
    "cutmix",
    "cutmix_box",
    "enhance",
    "mixed",
    "mixup",
    "normalise",
    "op_argument",
    "randaugment",
    "random_crop",
    "random_erasing",
    "random_flip",
    "random_resized_crop",
    "random_roll",
    "resize_and_centre_crop",
    "resized_crop",
    "smooth_one_hot",
]
