"""UPerNet's decoder and the FCN head for semantic segmentation (Xiao et al., 2018), as in mmseg.

Maps are [B, height, width, channels]. The heads do not draw: noise for their dropout of whole
channels comes from the caller, an example at a time, so that it does not depend on the devices.
Letters of the einsums: b example, y/x row/column, p/q pooled row/column, i/j place in a window, c/o
channel in/out.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require
from lab.nn.linear import symmetric_uniform
from lab.nn.norm import BatchNorm

BEFORE_RELU = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class UPerHeadConfig:
    """Pyramid pooling on the coarsest map, a feature pyramid over all of them.

    Attributes: width, channels inside; pool_scales, sides of the pooled grids; dropout_rate, of
      channels before the classifier.
    """

    num_classes: int = 150
    width: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        check_head(self.num_classes, self.width, self.dropout_rate)
        require(
            len(self.pool_scales) > 0 and min(self.pool_scales) >= 1,
            f"pool_scales must be positive sides of grids, got {self.pool_scales}",
        )


@dataclasses.dataclass(frozen=True)
class FCNHeadConfig:
    """A 3 x 3 convolution and a classifier on one map."""

    num_classes: int = 150
    width: int = 256
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        check_head(self.num_classes, self.width, self.dropout_rate)


def check_head(num_classes: int, width: int, dropout_rate: float) -> None:
    """Raises InvalidInputError for sizes that no head can have."""
    require(num_classes >= 2, f"num_classes must be at least 2, got {num_classes}")
    require(width >= 1, f"width must be positive, got {width}")
    require(0 <= dropout_rate < 1, f"dropout_rate must be in [0, 1), got {dropout_rate}")


class ConvNorm(nn.Module):
    """A convolution without bias (padded to keep the size), batch normalisation, ReLU."""

    features: int
    kernel_size: int
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Args: mask bool [B], the examples that count in the statistics."""
        options = {
            "use_bias": False,
            "dtype": jnp.dtype(self.dtype),
            "kernel_init": BEFORE_RELU,
            "name": "conv",
        }
        if self.kernel_size == 1:
            x = nn.Dense(self.features, **options)(x)
        else:
            side = self.kernel_size // 2
            window = (self.kernel_size, self.kernel_size)
            x = nn.Conv(self.features, window, padding=side, **options)(x)
        return nn.relu(map_norm(x, self.axis_name, train=train, mask=mask))


class UpConvolution(nn.Module):
    """A transposed 2 x 2 convolution of stride 2: doubles both sides."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        uniform = symmetric_uniform((4 * self.features) ** -0.5)  # torch's own default
        kernel = self.param("kernel", uniform, (2, 2, channels, self.features))
        bias = self.param("bias", uniform, (self.features,))
        x, kernel, bias = (a.astype(jnp.dtype(self.dtype)) for a in (x, kernel, bias))
        x = jnp.einsum("byxc,ijco->byixjo", x, kernel)
        return x.reshape(batch, 2 * height, 2 * width, self.features) + bias


class UPerHead(nn.Module):
    """UPerNet's decoder: maps from fine to coarse -> logits at the size of the finest."""

    config: UPerHeadConfig
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        maps: tuple[jax.Array, ...],
        *,
        train: bool,
        mask: jax.Array | None = None,
        dropout_noise: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes maps.

        Args:
          mask: bool [B], the examples that count in the batch statistics.
          dropout_noise: uniform float [B, width]; None drops nothing.
        Returns: float32 logits [B, height, width, num_classes].
        """
        config = self.config

        def conv(x, kernel_size, name):
            layer = ConvNorm(config.width, kernel_size, self.dtype, self.axis_name, name=name)
            return layer(x, train=train, mask=mask)

        *fine, coarse = maps
        size = coarse.shape[1:3]
        pooled = [
            resize_bilinear(conv(adaptive_average_pool(coarse, scale), 1, f"pool{i}"), size)
            for i, scale in enumerate(config.pool_scales)
        ]
        laterals = [conv(x, 1, f"lateral{i}") for i, x in enumerate(fine)]
        laterals.append(conv(jnp.concatenate([coarse, *pooled], axis=-1), 3, "bottleneck"))
        for i in reversed(range(len(fine))):
            laterals[i] += resize_bilinear(laterals[i + 1], laterals[i].shape[1:3])
        levels = [conv(x, 3, f"fpn{i}") for i, x in enumerate(laterals[:-1])]
        levels.append(laterals[-1])
        levels = [resize_bilinear(x, levels[0].shape[1:3]) for x in levels]
        x = conv(jnp.concatenate(levels, axis=-1), 3, "fpn_bottleneck")
        return classify_pixels(x, config, dropout_noise)


class FCNHead(nn.Module):
    """A small head on one map; mmseg's auxiliary head."""

    config: FCNHeadConfig
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        mask: jax.Array | None = None,
        dropout_noise: jax.Array | None = None,
    ) -> jax.Array:
        """As `UPerHead`, from one map float [B, h, w, C]."""
        layer = ConvNorm(self.config.width, 3, self.dtype, self.axis_name, name="conv")
        x = layer(x, train=train, mask=mask)
        return classify_pixels(x, self.config, dropout_noise)


def map_norm(
    x: jax.Array, axis_name: str | None, *, train: bool, mask: jax.Array | None, name: str = "norm"
) -> jax.Array:
    """Batch normalisation of maps inside a compact module, in float32; keeps the dtype.

    Args: mask bool [B], the examples that count.
    """
    rows = None if mask is None else jnp.broadcast_to(mask[:, None, None], x.shape[:-1])
    norm = BatchNorm(axis_name=axis_name, name=name)
    return norm(x.astype(jnp.float32), train=train, mask=rows).astype(x.dtype)


def classify_pixels(
    x: jax.Array, config: UPerHeadConfig | FCNHeadConfig, dropout_noise: jax.Array | None
) -> jax.Array:
    """Dropout of whole channels and the linear classifier `conv_seg`, in a compact module."""
    x = drop_channels(x, dropout_noise, config.dropout_rate).astype(jnp.float32)
    init = nn.initializers.normal(0.01)
    return nn.Dense(config.num_classes, kernel_init=init, name="conv_seg")(x)


def drop_channels(x: jax.Array, noise: jax.Array | None, rate: float) -> jax.Array:
    """Zeroes whole channels of examples and rescales the others: x float [B, h, w, C].

    Args: noise uniform float [B, C], channels below `rate` are dropped; None drops nothing.
    """
    if noise is None or rate == 0:
        return x
    return x * ((noise >= rate) / (1 - rate)).astype(x.dtype)[:, None, None]


def resize_bilinear(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes maps float [B, h, w, C] to `size`: half-pixel centres, no antialiasing."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), "bilinear", antialias=False)


def adaptive_average_pool(x: jax.Array, side: int) -> jax.Array:
    """Averages maps float [B, h, w, C] over a grid of side x side bins, which may overlap."""
    down, across = (jnp.asarray(pooling_matrix(side, n), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("py,qx,byxc->bpqc", down, across, x, precision="highest")


def pooling_matrix(num_bins: int, length: int) -> np.ndarray:
    """Bin i averages cells floor(i n / m) .. ceil((i + 1) n / m) - 1; float32 [m, n].

    There may be more bins than cells.
    """
    bins, cells = np.arange(num_bins)[:, None], np.arange(length)[None]
    first = bins * length // num_bins
    past = -(-(bins + 1) * length // num_bins)
    inside = (cells >= first) & (cells < past)
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
