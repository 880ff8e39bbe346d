"""The vision transformer that every paper here uses (Dosovitskiy et al., 2021; MAE's layout).

`ViT` returns its intermediates by name, so that distillation, probes and segmentation need no
hooks, and runs no further than the names need:

    model = ViT(vit_config("B"))
    variables = model.init(jax.random.key(0), images)
    out = model.apply(variables, images, ("block9/q", "block9/k"))   # blocks 10-12 are not run

Names: "embed" (tokens that enter block 1), "block<i>/<kind>" (`lab.nn.transformer`), "norm" (final
norm of the last block's output) and "expanded" (the starred models' 1x1 convolution after it).
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lab.errors import require
from lab.nn.linear import dot_rows, symmetric_uniform
from lab.nn.position import relative_position_index, relative_position_rows, sincos_table
from lab.nn.transformer import Transformer, TransformerConfig, parse_names

SIZES = {
    "T": {"width": 192, "depth": 12, "num_heads": 3},
    "S": {"width": 384, "depth": 12, "num_heads": 6},
    "B": {"width": 768, "depth": 12, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "num_heads": 16},
    # TinyMIM's starred ViT-T: more heads, a distillation token, wide features.
    "T*": {"width": 192, "depth": 12, "num_heads": 12, "distilled": True, "expanded_width": 1280},
}


@dataclasses.dataclass(frozen=True)
class ViTConfig(TransformerConfig):
    """A ViT: how pictures become tokens, and what stands after the blocks.

    Attributes:
      image_size, patch_size: in pixels; pictures are square.
      distilled: a distillation token stands second, after the class token.
      position: "fixed" is the sine-cosine table, in the collection `constants`, never trained;
        "learned" is a parameter.
      relative_position_bias: a learned bias a block on the attention logits (segmentation).
      pre_norm: a norm on the embedded tokens (CLIP). patch_bias: CLIP has none.
      final_norm: a norm after the last block; classifiers with global pooling have none.
      expanded_width: width of LayerNorm (eps 1e-5) -> linear -> GELU after the last block.
    """

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    distilled: bool = False
    position: Literal["fixed", "learned"] = "fixed"
    relative_position_bias: bool = False
    pre_norm: bool = False
    patch_bias: bool = True
    final_norm: bool = True
    expanded_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.patch_size >= 1 and self.image_size % self.patch_size == 0,
            f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}",
        )
        require(
            self.position in ("fixed", "learned"),
            f"position is 'fixed' or 'learned', got {self.position!r}",
        )
        require(
            self.position == "learned" or self.width % 4 == 0,
            f"fixed sine-cosine positions need a width divisible by 4, got {self.width}",
        )
        even = len(set(self.heads)) == 1 or not (self.scan and self.relative_position_bias)
        require(even, f"stacked relative tables need equal heads in all blocks, got {self.heads}")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid**2

    @property
    def num_special(self) -> int:
        """Tokens before the patches: class, and distillation where there is one."""
        return 2 if self.distilled else 1

    @property
    def num_tokens(self) -> int:
        return self.num_special + self.num_patches

    @property
    def relative_rows(self) -> int:
        if not self.relative_position_bias:
            return 0
        return (2 * self.grid - 1) ** 2 + relative_position_rows(self.num_special)


def vit_config(size: str, **overrides: Any) -> ViTConfig:
    """The config of a named size: "T", "S", "B", "L", or the starred "T*".

    Raises: InvalidInputError for an unknown size.
    """
    require(size in SIZES, f"size is one of {', '.join(SIZES)}, got {size!r}")
    return ViTConfig(**{**SIZES[size], **overrides})


class ViT(nn.Module):
    """Vision transformer; returns named intermediates (see the top of the file)."""

    config: ViTConfig

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        names: tuple[str, ...] | None = None,
        *,
        kept_patches: jax.Array | None = None,
        drop_path_noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes pictures.

        Args:
          images: normalised float [B, image_size, image_size, num_channels].
          names: what to return; by default the network's last output.
          kept_patches: int [B, num_kept]; the encoder sees these patches only, in this order
            (MAE). Not with a relative position bias.
          drop_path_noise: uniform float [depth, 2, B] (`lab.nn.drop_path.drop_path_noise`); None
            is evaluation.
        Returns: name -> float [B, T, width], special tokens first.
        Raises: InvalidInputError for pictures of another size or type, or an unknown name.
        """
        config = self.config
        check_images(images, config)
        masked_bias = kept_patches is not None and config.relative_position_bias
        require(not masked_bias, "kept_patches does not go with relative_position_bias")
        names = (last_output(config),) if names is None else tuple(names)
        inside = [name for name in names if name.startswith("block")]
        ends = [name for name in names if name in ("norm", "expanded")]
        last = f"block{config.depth}/block"
        # All parameters are made, whatever the names.
        asked = (*inside, last) if ends or self.is_initializing() else inside
        wanted = parse_names(tuple(asked), config.depth)
        unknown = [n for n in names if n not in (*inside, *ends, "embed")]
        require(not unknown, f"unknown names {unknown}: see lab.nn.vit")

        found = {"embed": self._embed(images, kept_patches)}
        index = None
        if config.relative_position_bias:
            index = jnp.asarray(relative_position_index(config.grid, config.num_special))
        if wanted:
            blocks = Transformer(config, name="blocks")
            found |= blocks(found["embed"], wanted, drop_path_noise, index)
        if last in found:
            found |= self._ends(found[last])
        absent = [name for name in ends if name not in found]
        require(not absent, f"this network has no {absent}: {config}")
        return {name: found[name] for name in names}

    def _embed(self, images, kept_patches):
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        width, special = config.width, config.num_special
        patches = patchify(images, config.patch_size)
        positions = self._positions().astype(dtype)
        placed = jnp.broadcast_to(positions[:, special:], (len(images), config.num_patches, width))
        if kept_patches is not None:
            # Before the projection: it then costs a quarter.
            patches, placed = (take_patches(x, kept_patches) for x in (patches, placed))
        project = nn.Dense(
            width,
            use_bias=config.patch_bias,
            dtype=dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=symmetric_uniform(patches.shape[-1] ** -0.5),
            dot_general=dot_rows,
            name="patch_embed",
        )
        patches = project(patches) + placed
        names = ("cls_token", "dist_token")[:special]
        tokens = [self.param(name, nn.initializers.normal(0.02), (1, 1, width)) for name in names]
        start = jnp.concatenate(tokens, axis=1).astype(dtype) + positions[:, :special]
        x = jnp.concatenate([jnp.broadcast_to(start, (len(images), special, width)), patches], 1)
        return self._norm("pre_norm")(x) if config.pre_norm else x

    def _positions(self):
        config = self.config
        shape = (1, config.num_tokens, config.width)
        if config.position == "learned":
            return self.param("pos_embed", nn.initializers.truncated_normal(0.02), shape)

        def table():
            return jnp.asarray(sincos_table(config.width, config.grid, config.num_special))

        return self.variable("constants", "pos_embed", table).value

    def _ends(self, x):
        config, found = self.config, {}
        if config.final_norm:
            found["norm"] = self._norm("norm")(x)
        if config.expanded_width is not None:
            dense = nn.Dense(
                config.expanded_width,
                dtype=jnp.dtype(config.dtype),
                kernel_init=nn.initializers.xavier_uniform(),
                name="expand",
            )
            normed = self._norm("expand_norm", 1e-5)(x)
            found["expanded"] = jax.nn.gelu(dense(normed), approximate=False)
        return found

    def _norm(self, name, epsilon=None):
        return nn.LayerNorm(
            epsilon=epsilon or self.config.norm_epsilon,
            dtype=jnp.dtype(self.config.dtype),
            use_fast_variance=False,
            name=name,
        )


def last_output(config: ViTConfig) -> str:
    """The name of the network's last output."""
    if config.expanded_width is not None:
        return "expanded"
    return "norm" if config.final_norm else f"block{config.depth}/block"


def check_images(images: jax.Array, config: ViTConfig) -> None:
    """Raises InvalidInputError unless pictures fit the network and are normalised floats."""
    size = config.image_size
    expected = (size, size, config.num_channels)
    require(
        images.ndim == 4 and images.shape[1:] == expected,
        f"images must be [batch, {size}, {size}, {config.num_channels}] (the position table is for "
        f"{config.grid} x {config.grid} patches of {config.patch_size} px), got {images.shape}",
    )
    require(
        jnp.issubdtype(images.dtype, jnp.floating),
        f"images must be normalised floats, got {images.dtype}: divide by 255 and standardise",
    )


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts pictures into patches: [B, H, W, C] -> [B, N, p * p * C].

    Patches come row by row; in a patch, pixels row by row with the channel fastest.

    Raises: InvalidInputError for pictures that are not square or no multiple of the patch.
    """
    batch, height, width, channels = images.shape
    fits = height == width and height % patch_size == 0
    require(fits, f"images must be square, a multiple of {patch_size} px, got {height} x {width}")
    grid = height // patch_size
    x = images.reshape(batch, grid, patch_size, grid, patch_size, channels)
    return x.swapaxes(2, 3).reshape(batch, grid * grid, patch_size**2 * channels)


def unpatchify(patches: jax.Array, patch_size: int) -> jax.Array:
    """The inverse of `patchify`: [B, N, p * p * C] -> [B, H, W, C].

    Raises: InvalidInputError where the patches do not make a square picture.
    """
    batch, count, length = patches.shape
    grid, channels = round(count**0.5), length // patch_size**2
    require(
        grid * grid == count and channels * patch_size**2 == length,
        f"patches [batch, {count}, {length}] are no square picture of {patch_size} px patches",
    )
    x = patches.reshape(batch, grid, grid, patch_size, patch_size, channels)
    return x.swapaxes(2, 3).reshape(batch, grid * patch_size, grid * patch_size, channels)


def take_patches(x: jax.Array, index: jax.Array) -> jax.Array:
    """Tokens at the given places of each example: float [B, N, D], int [B, K] -> [B, K, D]."""
    return jnp.take_along_axis(x, index[..., None], axis=1)


def multiply_adds(config: ViTConfig) -> int:
    """Multiply-adds of one picture through the network, norms and softmaxes not counted."""
    tokens, width = config.num_tokens, config.width
    embed = config.num_patches * config.patch_size**2 * config.num_channels * width
    linear = tokens * width * width * (4 + 2 * config.mlp_ratio)
    attention = 2 * tokens**2 * width
    expand = tokens * width * (config.expanded_width or 0)
    return round(embed + config.depth * (linear + attention) + expand)
