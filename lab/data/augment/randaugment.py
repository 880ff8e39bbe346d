"""RandAugment (Cubuk et al., 2020) with the 15 "increasing" operations of timm.

An operation is one of three kinds: a table of 256 grey levels, a blend with a dull image, or an
affine map. Every image goes through one of each kind, of which at most one changes it, so that a
batch of mixed operations costs three operations and not fifteen.
"""

import jax
import jax.numpy as jnp

from lab.data.augment.colour import BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS, enhance
from lab.data.augment.resample import affine
from lab.errors import require

OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
FILL = (124.0, 116.0, 104.0)
WITHOUT_ARGUMENT = frozenset(("AutoContrast", "Equalize", "Invert"))
_KINDS = {
    "BrightnessIncreasing": BRIGHTNESS,
    "ContrastIncreasing": CONTRAST,
    "ColorIncreasing": SATURATION,
    "SharpnessIncreasing": SHARPNESS,
}


def randaugment(
    keys: jax.Array,
    images: jax.Array,
    *,
    num_layers: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    rate: float = 0.5,
    fill: tuple[float, ...] = FILL,
) -> jax.Array:
    """Applies random operations to each image ("rand-m9-mstd0.5-inc1" by default).

    Args:
      images: [N, H, W, 3] grey levels.
      num_layers: operations drawn an image, with replacement.
      magnitude, magnitude_std: a normal draw an operation, clipped to 0..10.
      rate: probability that a drawn operation is applied.
    Returns: float32, grey levels.
    """
    require(0 <= magnitude <= 10, f"magnitude must lie in 0..10, got {magnitude}")

    def draw(key):
        op_key, chance_key, magnitude_key, sign_key = jax.random.split(key, 4)
        noise = magnitude_std * jax.random.normal(magnitude_key)
        return (
            jax.random.randint(op_key, (), 0, len(OPERATIONS)),
            jax.random.bernoulli(chance_key, rate),
            jnp.clip(magnitude + noise, 0.0, 10.0),
            jax.random.bernoulli(sign_key),
        )

    images = jnp.asarray(images, jnp.float32)
    for layer in range(num_layers):
        layer_keys = jax.vmap(lambda key, layer=layer: jax.random.fold_in(key, layer))(keys)
        operations, is_applied, magnitudes, is_negated = jax.vmap(draw)(layer_keys)
        arguments = _arguments(magnitudes, is_negated)
        arguments = jnp.take_along_axis(arguments, operations[:, None], axis=1)[:, 0]
        operations = jnp.where(is_applied, operations, -1)
        images = apply_operation(images, operations, arguments, fill)
    return images


def op_argument(name: str, magnitude: float, negate: bool = False) -> jax.Array | None:
    """The argument of an operation at a magnitude 0..10: degrees, bits, levels, factor or share.

    None for operations that have none; `negate` flips the sign where the operation has one.
    """
    require(name in OPERATIONS, f"name is {name!r}; accepted: {', '.join(OPERATIONS)}")
    if name in WITHOUT_ARGUMENT:
        return None
    arguments = _arguments(jnp.float32(magnitude)[None], jnp.array([negate]))
    return arguments[0, OPERATIONS.index(name)]


def apply_operation(
    images: jax.Array,
    operations: jax.Array,
    arguments: jax.Array,
    fill: tuple[float, ...] = FILL,
) -> jax.Array:
    """Applies to each image its operation.

    Args:
      images: [N, H, W, 3] grey levels.
      operations: int [N], places in OPERATIONS; -1 leaves an image as it is.
      arguments: float [N], as of `op_argument`.
      fill: what affine operations put where no pixel comes from.
    Returns: float32, grey levels.
    """
    images = jnp.asarray(images, jnp.float32)
    tables = jax.vmap(_table)(images, operations, arguments)
    images = jax.vmap(_look_up)(tables, images)
    is_of = {name: operations == OPERATIONS.index(name) for name in _KINDS}
    chosen = (jnp.where(is_of[name], kind, 0) for name, kind in _KINDS.items())
    kinds = sum(chosen, start=jnp.zeros_like(operations))
    is_blend = jnp.stack(list(is_of.values())).any(axis=0)
    images = enhance(images, kinds, jnp.where(is_blend, arguments, 1.0))
    matrices = jax.vmap(_matrix, (0, 0, None, None))(operations, arguments, *images.shape[1:3])
    return affine(images, matrices, fill)


def _arguments(magnitudes: jax.Array, is_negated: jax.Array) -> jax.Array:
    """float32 [N, 15], the argument of every operation."""
    m, sign = magnitudes, jnp.where(is_negated, -1.0, 1.0)
    factor = 1.0 + 0.09 * m * sign
    by_name = {
        "Rotate": 3.0 * m * sign,
        "PosterizeIncreasing": 4.0 - jnp.floor(0.4 * m),
        "SolarizeIncreasing": 256.0 - jnp.floor(25.6 * m),
        "SolarizeAdd": jnp.floor(11.0 * m),
        "ShearX": 0.03 * m * sign,
        "ShearY": 0.03 * m * sign,
        "TranslateXRel": 0.045 * m * sign,
        "TranslateYRel": 0.045 * m * sign,
    } | dict.fromkeys(_KINDS, factor)
    return jnp.stack([by_name.get(name, jnp.zeros_like(m)) for name in OPERATIONS], axis=1)


def _is(operation: jax.Array, name: str) -> jax.Array:
    return operation == OPERATIONS.index(name)


def _table(image: jax.Array, operation: jax.Array, argument: jax.Array) -> jax.Array:
    """float32 [3, 256]: what becomes of each grey level of each channel."""
    levels = jnp.arange(256.0)
    histogram = jax.vmap(lambda channel: jnp.bincount(channel, length=256))(
        jnp.moveaxis(image, -1, 0).reshape(3, -1).astype(jnp.int32)
    )
    step = 2.0 ** (8.0 - argument)
    by_name = {
        "AutoContrast": jax.vmap(_stretched)(histogram),
        "Equalize": jax.vmap(_equalised)(histogram),
        "Invert": 255.0 - levels,
        "PosterizeIncreasing": jnp.floor(levels / step) * step,
        "SolarizeIncreasing": jnp.where(levels < argument, levels, 255.0 - levels),
        "SolarizeAdd": jnp.where(levels < 128, jnp.minimum(levels + argument, 255.0), levels),
    }
    table = jnp.broadcast_to(levels, (3, 256))
    for name, changed in by_name.items():
        table = jnp.where(_is(operation, name), changed, table)
    return table


def _look_up(table: jax.Array, image: jax.Array) -> jax.Array:
    index = image.astype(jnp.int32)
    return jnp.stack([table[c][index[..., c]] for c in range(3)], axis=-1)


def _stretched(histogram: jax.Array) -> jax.Array:
    """The table that maps the darkest level present to 0 and the brightest to 255."""
    levels = jnp.arange(256)
    darkest = jnp.min(jnp.where(histogram > 0, levels, 255))
    brightest = jnp.max(jnp.where(histogram > 0, levels, 0))
    span = jnp.maximum(brightest - darkest, 1)
    # Whole numbers: a float quotient would lose a level where it should be whole.
    table = jnp.clip(255 * (levels - darkest) // span, 0, 255)
    return jnp.where(brightest <= darkest, levels, table).astype(jnp.float32)


def _equalised(histogram: jax.Array) -> jax.Array:
    """The table that spreads the levels evenly (Pillow's ImageOps.equalize)."""
    levels = jnp.arange(256)
    brightest = jnp.max(jnp.where(histogram > 0, levels, 0))
    step = (histogram.sum() - histogram[brightest]) // 255
    darker = jnp.cumsum(histogram) - histogram
    table = jnp.clip((step // 2 + darker) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step == 0, levels, table).astype(jnp.float32)


def _matrix(operation: jax.Array, argument: jax.Array, height: int, width: int) -> jax.Array:
    """The affine map of an operation, output to input pixel; the identity for the others."""
    # Positive degrees turn counter-clockwise; the map goes from the output back.
    angle = jnp.deg2rad(jnp.where(_is(operation, "Rotate"), -argument, 0.0))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2.0, height / 2.0

    def only(name, value):
        return jnp.where(_is(operation, name), value, 0.0)

    return jnp.stack(
        [
            cos,
            sin + only("ShearX", argument),
            x - cos * x - sin * y + only("TranslateXRel", argument * width),
            -sin + only("ShearY", argument),
            cos,
            y + sin * x - cos * y + only("TranslateYRel", argument * height),
        ]
    )
