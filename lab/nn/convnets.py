"""Small image classifiers: dense networks, and convolutions with max pooling.

Inputs NHWC, kernels HWIO, flattened in (H, W, C) order, ReLU, no normalisation, biases everywhere.
Parameters are `conv0/kernel`, `conv0/bias`, ..., `dense0/kernel`, `dense0/bias`, ...
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from lab.errors import require

BEFORE_RELU = nn.initializers.he_normal()
LAST = nn.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """Dense layers with ReLU between; no hidden layer is logistic regression.

    Attributes: hidden, widths of the hidden layers; num_classes.
    """

    hidden: tuple[int, ...] = (64,)
    num_classes: int = 10


@dataclasses.dataclass(frozen=True)
class ConvNetConfig:
    """Convolutions (stride 1), each with ReLU and a max pooling, then dense layers.

    Attributes:
      features: channels of each convolution.
      kernel: its side length.
      padding: "SAME" or "VALID".
      pool_window, pool_stride, pool_padding: of the max pooling.
      hidden: widths of the dense layers before the last.
      num_classes: width of the last.
      via_patches: computes a convolution as a matrix product over shifted copies of its input;
        the same numbers. Faster on CPU where a batch of kernels is convolved (`vmap` over models).
    """

    features: tuple[int, ...] = (8, 16)
    kernel: int = 5
    padding: str = "VALID"
    pool_window: int = 2
    pool_stride: int = 2
    pool_padding: str = "VALID"
    hidden: tuple[int, ...] = ()
    num_classes: int = 10
    via_patches: bool = False


class MLP(nn.Module):
    """Flattens float [B, ...] and returns logits [B, num_classes]."""

    config: MLPConfig = MLPConfig()

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        hidden = inputs.reshape(inputs.shape[0], -1)
        return dense_layers(hidden, self.config.hidden, self.config.num_classes)


class ConvNet(nn.Module):
    """Takes images float [B, H, W, C] and returns logits [B, num_classes]."""

    config: ConvNetConfig = ConvNetConfig()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        config, hidden = self.config, images
        window, stride = (config.pool_window,) * 2, (config.pool_stride,) * 2
        for number, features in enumerate(config.features):
            conv = Convolution(
                features, config.kernel, config.padding, config.via_patches, name=f"conv{number}"
            )
            hidden = nn.max_pool(nn.relu(conv(hidden)), window, stride, config.pool_padding)
        return dense_layers(hidden.reshape(hidden.shape[0], -1), config.hidden, config.num_classes)


class Convolution(nn.Module):
    """A convolution of stride 1 with a bias; see `ConvNetConfig.via_patches`."""

    features: int
    kernel_size: int
    padding: str
    via_patches: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        size = self.kernel_size
        shape = (size, size, images.shape[-1], self.features)
        kernel = self.param("kernel", BEFORE_RELU, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.via_patches:
            return patches(images, size, self.padding) @ kernel.reshape(-1, self.features) + bias
        dimensions = ("NHWC", "HWIO", "NHWC")
        convolved = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), self.padding, dimension_numbers=dimensions
        )
        return convolved + bias


def patches(images: jax.Array, size: int, padding: str) -> jax.Array:
    """The size x size neighbourhood of every pixel, flattened in (row, column, channel) order.

    Args: images float [B, H, W, C]. Returns: float [B, H', W', size * size * C].
    """
    require(padding in ("SAME", "VALID"), f"padding must be SAME or VALID, got {padding!r}")
    if padding == "SAME":
        before = (size - 1) // 2
        sides = (before, size - 1 - before)
        images = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
    rows, columns = images.shape[1] - size + 1, images.shape[2] - size + 1
    shifted = [images[:, i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1)


def dense_layers(hidden: jax.Array, widths: tuple[int, ...], num_classes: int) -> jax.Array:
    """Dense layers `dense0`, ... inside a compact module: ReLU after all but the last."""
    for number, width in enumerate(widths):
        hidden = nn.relu(nn.Dense(width, kernel_init=BEFORE_RELU, name=f"dense{number}")(hidden))
    return nn.Dense(num_classes, kernel_init=LAST, name=f"dense{len(widths)}")(hidden)
