"""Golden kinds of what goes into training: schedules, mixup, cutmix, image operations."""

import jax
import jax.numpy as jnp
import numpy as np

from lab.data import augment
from lab.data.augment.colour import BRIGHTNESS, CONTRAST, SATURATION, jitter
from lab.train import schedules


def lr_schedule_cosine(entry):
    config = entry.config
    schedule = schedules.warmup_cosine(
        config["lr"], config["warmup_epochs"], config["epochs"], config["min_lr"]
    )
    return {"lr": schedule(entry.arrays["epoch"])}


def lr_schedule_poly(entry):
    config = entry.config
    schedule = schedules.warmup_polynomial(
        config["lr"],
        config["warmup_iters"],
        config["max_iters"],
        power=config["power"],
        floor=config["min_lr"],
        warmup_ratio=config["warmup_ratio"],
    )
    return {"lr": schedule(entry.arrays["iter"])}


def images_and_targets(entry):
    config = entry.config
    images = jnp.moveaxis(jnp.array(entry.arrays["input/image"]), 1, -1)
    labels = entry.arrays["input/label"]
    targets = augment.smooth_one_hot(labels, config["num_classes"], config["label_smoothing"])
    return images, targets


def channels_first(images):
    return np.moveaxis(np.asarray(images), -1, -3)


def mixup(entry):
    lam = jnp.array(entry.config["lam"], jnp.float32)
    if entry.config["mode"] == "pair":
        lam = jnp.concatenate([lam, lam[::-1]])
    images, targets = augment.mixup(*images_and_targets(entry), lam)
    return compared(entry, {"image": channels_first(images), "target": targets})


def cutmix(entry):
    config = entry.config
    images, targets = images_and_targets(entry)
    lam = jnp.float32(config["lam_drawn"])
    box = augment.cutmix_box(lam, jnp.array(config["center_yx"]), *images.shape[1:3])
    images, targets, lam = augment.cutmix(images, targets, box)
    values = {"bbox_y1y2x1x2": box, "lam_corrected": lam, "target": targets}
    return compared(entry, values | {"image": channels_first(images)})


def compared(entry, values):
    """All values, or, where the entry says which it compares, those."""
    return {k: v for k, v in values.items() if k in entry.expected} if entry.expected else values


operate = jax.jit(augment.apply_operation, static_argnums=3)


def randaugment_op(entry):
    config = entry.config
    argument = augment.op_argument(config["op"], config["magnitude"], config["negate"])
    image = operate(
        jnp.array(entry.arrays["input/image"])[None],
        jnp.array([augment.OPERATIONS.index(config["op"])]),
        jnp.zeros(1) if argument is None else argument[None],
        tuple(config["fill"]),
    )
    given = np.zeros(0, np.float32) if argument is None else np.asarray(argument)[None]
    return {"image": grey_levels(image[0]), "arg": given}


def grey_levels(image):
    image = np.asarray(image)
    np.testing.assert_array_equal(image, image.astype(np.uint8))
    return image.astype(np.uint8)


def color_jitter(entry):
    config = entry.config
    kinds = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}
    order = jnp.array([[kinds[name] for name in config["order"]]])
    factors = jnp.array([[config[name] for name in config["order"]]])
    image = jax.jit(jitter)(jnp.array(entry.arrays["input/image"])[None], order, factors)
    (key,) = entry.expected
    return {key: grey_levels(image[0])}


def resized_crop(entry):
    config = entry.config
    boxes = jnp.array([config["box_top_left_h_w"]])
    images = jnp.array(entry.arrays["input/image"])[None]
    image = augment.resized_crop(images, boxes, config["size"])[0]
    shown = image[:, ::-1] if config["flip_before_normalise"] else image
    values = augment.normalise(shown, tuple(config["mean"]), tuple(config["std"]))
    return {"image": grey_levels(image), "flipped_normalized_chw": channels_first(values)}


def eval_transform(entry):
    config = entry.config
    images = jnp.array(entry.arrays["input/image"])[None]
    image = augment.resize_and_centre_crop(images, config["resize_shorter"], config["crop"])[0]
    values = augment.normalise(image, tuple(config["mean"]), tuple(config["std"]))
    return {"image": grey_levels(image), "normalized_chw": channels_first(values)}


KINDS = {
    "lr_schedule_cosine": lr_schedule_cosine,
    "lr_schedule_poly": lr_schedule_poly,
    "mixup": mixup,
    "cutmix": cutmix,
    "randaugment_op": randaugment_op,
    "color_jitter": color_jitter,
    "resized_crop": resized_crop,
    "eval_transform": eval_transform,
}
