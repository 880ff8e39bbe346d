"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) on the global batch.

Example i of the global batch is mixed with example size - 1 - i, on whichever device that lies.
"""

import dataclasses

import jax
import jax.numpy as jnp

from lab.errors import require

MODES = ("batch", "pair", "elem")


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """How often and how strongly `mixed` mixes."""

    mixup_alpha: float = 0.8
    """lam ~ Beta(alpha, alpha) of mixup; 0 turns it off."""
    cutmix_alpha: float = 1.0
    """The same of cutmix."""
    rate: float = 1.0
    """Probability of mixing at all."""
    switch_rate: float = 0.5
    """Probability of cutmix where both are on."""
    mode: str = "batch"
    """One lam a batch, a "pair" of examples, or an element ("elem"; both for mixup alone)."""

    def __post_init__(self) -> None:
        require(self.mode in MODES, f"mode is {self.mode!r}; accepted: {', '.join(MODES)}")
        require(
            self.mode == "batch" or self.cutmix_alpha == 0,
            f"mode {self.mode!r} is for mixup alone; set cutmix_alpha to 0",
        )
        for name in ("rate", "switch_rate"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must lie in 0..1, got {value}")
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {value}")


def mixed(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    config: MixConfig,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mixes a batch by mixup or cutmix, as the config and the key say.

    Args:
      key: of the whole batch, the same on every device (`lab.train.step_key`).
      images: [batch, H, W, C], this device's part.
      targets: [batch, classes], rows that sum to one (`smooth_one_hot`).
      mask: [batch], 0 for padding; an example whose partner is padding stays as it is.
      axis_name: the device axis.
    Returns: (images, targets) of the same shapes.
    Raises: InvalidInputError for an odd batch.
    """
    size = global_size(images, axis_name)
    require(size % 2 == 0, f"mixing takes pairs: the batch must be even, got {size}")
    chance, switch, lam_key, box_key = jax.random.split(key, 4)
    is_cutmix = jax.random.bernoulli(switch, config.switch_rate)
    if config.mixup_alpha == 0 or config.cutmix_alpha == 0:
        is_cutmix = jnp.bool_(config.cutmix_alpha > 0)
    is_mixed = jax.random.bernoulli(chance, config.rate)
    is_mixed &= config.mixup_alpha + config.cutmix_alpha > 0
    lam = _draw_lam(lam_key, config.mixup_alpha, config.mode, images, axis_name)
    mixup_images, mixup_targets = mixup(images, targets, lam, axis_name=axis_name)
    height, width = images.shape[1:3]
    cut_alpha = config.cutmix_alpha or 1.0
    cut_lam = jax.random.beta(lam_key, cut_alpha, cut_alpha)
    centre = jax.random.randint(box_key, (2,), 0, jnp.array([height, width]))
    box = cutmix_box(cut_lam, centre, height, width)
    cut_images, cut_targets, _ = cutmix(images, targets, box, axis_name=axis_name)
    is_real = jnp.ones(images.shape[0]) if mask is None else mask
    is_changed = is_mixed & (is_real * partners(is_real, axis_name) > 0)

    def choose(by_cutmix, by_mixup, plain):
        rows = is_changed.reshape(-1, *[1] * (plain.ndim - 1))
        return jnp.where(rows, jnp.where(is_cutmix, by_cutmix, by_mixup), plain)

    return choose(cut_images, mixup_images, images), choose(cut_targets, mixup_targets, targets)


def mixup(
    images: jax.Array, targets: jax.Array, lam: jax.Array, *, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """lam x + (1 - lam) x of the partner, for images and targets.

    Args: lam, a scalar or [batch].
    """
    lam = jnp.asarray(lam, jnp.float32)

    def mix(x):
        share = lam.reshape(-1, *[1] * (x.ndim - 1)) if lam.ndim else lam
        return share * x + (1.0 - share) * partners(x, axis_name)

    return mix(images), mix(targets)


def cutmix(
    images: jax.Array, targets: jax.Array, box: jax.Array, *, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Puts the partner's pixels into the box, and mixes the targets by area.

    Args: box int [4]: y1, y2, x1, x2, the ends excluded.
    Returns: (images, targets, lam), lam = 1 - box area / image area.
    """
    y1, y2, x1, x2 = box
    height, width = images.shape[1:3]
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    is_inside = ((y >= y1) & (y < y2) & (x >= x1) & (x < x2))[..., None]
    lam = 1.0 - (y2 - y1) * (x2 - x1) / (height * width)
    images = jnp.where(is_inside, partners(images, axis_name), images)
    return images, lam * targets + (1.0 - lam) * partners(targets, axis_name), lam


def cutmix_box(lam: jax.Array, centre_yx: jax.Array, height: int, width: int) -> jax.Array:
    """The box of side ratio sqrt(1 - lam) around a centre, clipped; int32 [4]: y1, y2, x1, x2."""
    side = jnp.sqrt(1.0 - lam)
    y, x = jnp.asarray(centre_yx)
    half_height = (height * side).astype(jnp.int32) // 2
    half_width = (width * side).astype(jnp.int32) // 2
    ys = jnp.clip(jnp.stack([y - half_height, y + half_height]), 0, height)
    xs = jnp.clip(jnp.stack([x - half_width, x + half_width]), 0, width)
    return jnp.concatenate([ys, xs]).astype(jnp.int32)


def smooth_one_hot(labels: jax.Array, num_classes: int, smoothing: float = 0.0) -> jax.Array:
    """float32 [batch, num_classes]: 1 - s + s / C for the label, s / C elsewhere."""
    require(0 <= smoothing < 1, f"label smoothing must lie in [0, 1), got {smoothing}")
    return jax.nn.one_hot(labels, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def partners(x: jax.Array, axis_name: str | None = None) -> jax.Array:
    """The batch in reverse order, over all devices."""
    x = x[::-1]
    if axis_name is None:
        return x
    count = jax.lax.axis_size(axis_name)
    return jax.lax.ppermute(x, axis_name, [(i, count - 1 - i) for i in range(count)])


def global_size(x: jax.Array, axis_name: str | None = None) -> int:
    """The batch size of all devices together."""
    return x.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def _draw_lam(key, alpha: float, mode: str, images: jax.Array, axis_name: str | None):
    alpha = alpha or 1.0
    if mode == "batch":
        return jax.random.beta(key, alpha, alpha)
    local = images.shape[0]
    index = jnp.arange(local)
    if axis_name is not None:
        index += jax.lax.axis_index(axis_name) * local
    if mode == "pair":
        index = jnp.minimum(index, global_size(images, axis_name) - 1 - index)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)
