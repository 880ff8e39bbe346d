"""Semantic segmentation with a TinyMIM backbone: UPerNet on four blocks of a ViT (ADE20K).

    backbone = segmentation_backbone(vit_config("B"))
    config = SegmenterConfig(backbone)
    variables = start_segmenter(encoder_variables, config, jax.random.key(0))
    step = make_segmentation_step(config, segmentation_adamw(rate, backbone), axis_name="batch")

A batch is {"images" float [B, S, S, C], "labels" int [B, S, S]} and may have "mask" float [B].
Labels outside 0..num_classes - 1 are ignored inside compiled code; `check_maps` refuses them on
the host. `model_state` holds the running statistics ("batch_stats").
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.errors import require
from lab.metrics.segmentation import IGNORED
from lab.nn.upernet import (
    FCNHead,
    FCNHeadConfig,
    UpConvolution,
    UPerHead,
    UPerHeadConfig,
    map_norm,
    resize_bilinear,
)
from lab.nn.vit import ViT, ViTConfig
from lab.papers.tinymim.models import ClassifierConfig, completed
from lab.papers.tinymim.optimizers import is_decayed, layer_scales
from lab.papers.tinymim.stages import finetuning_backbone, start_classifier
from lab.papers.tinymim.steps import branch_noise, example_keys, split
from lab.train.optimizers import adamw
from lab.train.state import Aux
from lab.train.steps import LossFn, Step, make_train_step, mean_over


@dataclasses.dataclass(frozen=True)
class SegmenterConfig:
    """A ViT, a pyramid of four maps, UPerNet's head and, for training, an FCN head.

    Attributes:
      backbone: see `segmentation_backbone`; a starred one has wider maps.
      feature_blocks: blocks, 1-based, whose patch tokens become the four maps.
      auxiliary_level: the map, 0-based, that the auxiliary head sees.
    """

    backbone: ViTConfig
    num_classes: int = 150
    width: int = 768
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary_width: int = 256
    auxiliary_level: int = 2
    dropout_rate: float = 0.1
    feature_blocks: tuple[int, ...] = (4, 6, 8, 12)

    def __post_init__(self) -> None:
        blocks, depth = self.feature_blocks, self.backbone.depth
        rising = all(a < b for a, b in itertools.pairwise(blocks))
        require(
            len(blocks) == 4 and rising and blocks[0] >= 1 and blocks[-1] <= depth,
            f"feature_blocks must be four rising numbers in 1..{depth}, got {blocks}",
        )
        require(
            self.backbone.expanded_width is None or blocks[-1] == depth,
            f"the starred models' last map is that of block {depth}, got {blocks}",
        )
        require(self.backbone.grid >= 2, f"the patch grid must be 2 x 2 or more: {self.backbone}")
        require(
            self.auxiliary_level in range(4),
            f"auxiliary_level must be in 0..3, got {self.auxiliary_level}",
        )
        require(
            self.num_classes <= IGNORED,
            f"num_classes must be at most {IGNORED}, the label of ignored pixels, got "
            f"{self.num_classes}",
        )
        _ = self.decode_head, self.auxiliary_head  # their configs check the sizes

    @property
    def decode_head(self) -> UPerHeadConfig:
        return UPerHeadConfig(self.num_classes, self.width, self.pool_scales, self.dropout_rate)

    @property
    def auxiliary_head(self) -> FCNHeadConfig:
        return FCNHeadConfig(self.num_classes, self.auxiliary_width, self.dropout_rate)


def segmentation_backbone(
    encoder: ViTConfig, *, image_size: int = 512, drop_path_rate: float = 0.1, **overrides: Any
) -> ViTConfig:
    """The backbone for segmentation: a trained table, relative positions, layer scale, no norm.

    Args: encoder, as it was pre-trained (`vit_config("T*")` for the starred model).
    """
    return finetuning_backbone(
        encoder,
        **{
            "image_size": image_size,
            "drop_path_rate": drop_path_rate,
            "relative_position_bias": True,
            "layer_scale": 1.0,
            **overrides,
        },
    )


class SegmentationBackbone(nn.Module):
    """A ViT whose blocks' patch tokens become maps of 4, 2, 1 and 1/2 times the patch grid."""

    config: SegmenterConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        mask: jax.Array | None = None,
        drop_path_noise: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """Returns four maps float [B, h, w, D], the finest first; of starred models 4 D wide."""
        config, vit = self.config, self.config.backbone
        names = [f"block{i}/block" for i in config.feature_blocks]
        if vit.expanded_width is not None:
            names[-1] = "expanded"
        out = ViT(vit, name="vit")(images, tuple(names), drop_path_noise=drop_path_noise)
        maps = [token_map(out[name], vit) for name in names]
        starred = vit.expanded_width is not None
        inner, width = (2 * vit.width, 4 * vit.width) if starred else (vit.width, vit.width)
        x = UpConvolution(inner, vit.dtype, name="fpn1_first")(maps[0])
        x = map_norm(x, self.axis_name, train=train, mask=mask, name="fpn1_norm")
        x = jax.nn.gelu(x, approximate=False)
        finest = UpConvolution(width, vit.dtype, name="fpn1_second")(x)
        fine = UpConvolution(width, vit.dtype, name="fpn2")(maps[1])
        if not starred:
            return finest, fine, maps[2], nn.max_pool(maps[3], (2, 2), (2, 2))
        options: dict[str, Any] = {"dtype": jnp.dtype(vit.dtype)}
        middle = nn.Dense(width, name="fpn3", **options)(maps[2])
        coarse = nn.Conv(width, (3, 3), strides=2, padding=1, name="fpn4", **options)(maps[3])
        return finest, fine, middle, coarse


def token_map(tokens: jax.Array, vit: ViTConfig) -> jax.Array:
    """Patch tokens float [B, T, D] as a map [B, G, G, D]."""
    patches = tokens[:, vit.num_special :]
    return patches.reshape(len(tokens), vit.grid, vit.grid, -1)


class Segmenter(nn.Module):
    """Backbone, decode head and auxiliary head."""

    config: SegmenterConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        mask: jax.Array | None = None,
        drop_path_noise: jax.Array | None = None,
        dropout_noise: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, Any]:
        """Segments pictures.

        Args:
          images: normalised float [B, S, S, C], S the backbone's image size.
          mask: bool [B], the examples that count in the batch statistics.
          drop_path_noise: uniform float [depth, 2, B]; dropout_noise, "decode" [B, width] and
            "auxiliary" [B, auxiliary_width]; None drops nothing.
        Returns: "logits" float32 [B, 4 G, 4 G, num_classes], "auxiliary_logits" at the size of
          the map that they come from, "features", the four maps.
        """
        config, noise = self.config, dropout_noise or {}
        backbone = SegmentationBackbone(config, self.axis_name, name="backbone")
        maps = backbone(images, train=train, mask=mask, drop_path_noise=drop_path_noise)
        options = {"dtype": config.backbone.dtype, "axis_name": self.axis_name}
        head = UPerHead(config.decode_head, name="decode_head", **options)
        auxiliary = FCNHead(config.auxiliary_head, name="auxiliary_head", **options)
        return {
            "features": maps,
            "logits": head(maps, train=train, mask=mask, dropout_noise=noise.get("decode")),
            "auxiliary_logits": auxiliary(
                maps[config.auxiliary_level],
                train=train,
                mask=mask,
                dropout_noise=noise.get("auxiliary"),
            ),
        }


def init_segmenter(
    config: SegmenterConfig, key: jax.Array, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fresh variables, {"params", "batch_stats"}, or `given` ones completed.

    Args: key, a typed key; the network itself is not run.
    Raises: InvalidInputError for given variables that the model lacks or has in another shape.
    """
    return completed(functools.partial(_init, config), key, given)


def segmenter_shapes(config: SegmenterConfig) -> dict[str, Any]:
    """Shapes and dtypes of the variables, at any size without memory."""
    return jax.eval_shape(lambda key: _init(config, key), jax.random.key(0))


def _init(config: SegmenterConfig, key: jax.Array) -> dict[str, Any]:
    vit = config.backbone
    images = jnp.zeros((1, vit.image_size, vit.image_size, vit.num_channels))
    return dict(Segmenter(config).init(key, images, train=False))


def start_segmenter(
    encoder_variables: Mapping[str, Any], config: SegmenterConfig, key: jax.Array
) -> dict[str, Any]:
    """A segmenter that starts from a pre-trained encoder (`stages.encoder_of`).

    The position table is resized to the new grid and trained; what the encoder lacks (relative
    positions 0, layer scale 1, pyramid, heads) is fresh.
    """
    started = start_classifier(encoder_variables, ClassifierConfig(config.backbone), key)
    given = {"params": {"backbone": {"vit": started["params"]["backbone"]}}}
    return init_segmenter(config, key, given)


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of every pixel after the logits are resized to the labels' size.

    Args: logits float [B, h, w, C]; labels int [B, H, W].
    Returns: (float32 [B, H, W], 0 where the label is ignored; bool [B, H, W], labels that count).
    """
    labels = labels.astype(jnp.int32)
    counts = (labels >= 0) & (labels < logits.shape[-1]) & (labels != IGNORED)
    resized = resize_bilinear(logits.astype(jnp.float32), labels.shape[1:])
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        resized, jnp.where(counts, labels, 0)
    )
    return jnp.where(counts, losses, 0.0), counts


def segmentation_terms(
    out: Mapping[str, jax.Array],
    labels: jax.Array,
    *,
    valid_only: bool = False,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """The losses of both heads and the share of pixels that are right, over the global batch.

    Args:
      out: of `Segmenter`.
      valid_only: mean over labelled pixels; by default, as released, over all pixels, ignored ones
        counting as 0. Either is 0 where all pixels are ignored.
      mask: float [B], 0 for a row that does not count.
    Returns: "decode", "auxiliary" (unweighted), "accuracy" in percent of all pixels.
    """
    rows = jnp.ones(len(labels)) if mask is None else mask
    terms = {}
    for name, key in (("decode", "logits"), ("auxiliary", "auxiliary_logits")):
        losses, counts = pixel_cross_entropy(out[key], labels)
        weights = rows[:, None, None] * (counts if valid_only else jnp.ones_like(losses))
        terms[name] = mean_over(losses, weights, axis_name)
    predicted = resize_bilinear(out["logits"], labels.shape[1:]).argmax(axis=-1)
    right = (predicted == labels).astype(jnp.float32)
    terms["accuracy"] = 100 * mean_over(right, rows[:, None, None], axis_name)
    return terms


def segmentation_loss_fn(
    config: SegmenterConfig,
    *,
    auxiliary_weight: float = 0.4,
    valid_only: bool = False,
    axis_name: str | None = None,
) -> LossFn:
    """The loss of segmentation: decode head + auxiliary_weight x auxiliary head."""
    model = Segmenter(config, axis_name)

    def loss_fn(params, model_state, batch, key):
        images, mask = batch["images"], batch.get("mask")
        keys = example_keys(key, len(images), axis_name)
        out, new_state = model.apply(
            {"params": params, **model_state},
            images,
            train=True,
            mask=None if mask is None else mask > 0,
            drop_path_noise=branch_noise(split(keys, 0), config.backbone),
            dropout_noise=head_noise(split(keys, 1), config),
            mutable=["batch_stats"],
        )
        terms = segmentation_terms(
            out, batch["labels"], valid_only=valid_only, mask=mask, axis_name=axis_name
        )
        loss = terms["decode"] + auxiliary_weight * terms["auxiliary"]
        return loss, Aux(metrics=terms, model_state=dict(new_state))

    return loss_fn


def head_noise(keys: jax.Array, config: SegmenterConfig) -> dict[str, jax.Array] | None:
    """Noise of the heads' dropout, one key an example; None where nothing is dropped."""
    if config.dropout_rate == 0:
        return None
    widths = {"decode": config.width, "auxiliary": config.auxiliary_width}
    return {
        name: jax.vmap(lambda key, width=width: jax.random.uniform(key, (width,)))(split(keys, i))
        for i, (name, width) in enumerate(widths.items())
    }


def make_segmentation_step(
    config: SegmenterConfig,
    tx: optax.GradientTransformation,
    *,
    auxiliary_weight: float = 0.4,
    valid_only: bool = False,
    axis_name: str | None = None,
) -> Step:
    """`step(state, batch) -> (state, metrics)`; batch statistics are those of the global batch."""
    loss_fn = segmentation_loss_fn(
        config, auxiliary_weight=auxiliary_weight, valid_only=valid_only, axis_name=axis_name
    )
    return make_train_step(loss_fn, tx, axis_name=axis_name)


def segmentation_adamw(
    learning_rate: optax.ScalarOrSchedule,
    backbone: ViTConfig,
    *,
    layer_decay_rate: float = 0.75,
    weight_decay: float = 0.05,
    **options: Any,
) -> optax.GradientTransformation:
    """AdamW of segmentation; as released, position table and class token decay too.

    Args: learning_rate, 1e-4 as `lab.train.schedules.warmup_polynomial(1e-4, 1500, 160_000)`;
      layer_decay_rate, .8 for the starred model; options as of `lab.train.optimizers.adamw`.
    """
    return adamw(
        learning_rate,
        weight_decay=weight_decay,
        is_decayed=is_decayed,
        scale_of=layer_scales(backbone.depth, layer_decay_rate),
        **options,
    )


def window_logits(config: SegmenterConfig, variables: Any, windows: jax.Array) -> jax.Array:
    """Logits of windows at their own size; a window smaller than the crop is padded inside.

    The released backbone fails on those, its position table being of one size.

    Args: windows normalised float [B, h, w, C], h and w at most the backbone's image size.
    Returns: float32 [B, h, w, num_classes].
    Raises: InvalidInputError for larger windows.
    """
    size = config.backbone.image_size
    height, width = windows.shape[1:3]
    require(
        height <= size and width <= size,
        f"windows must be at most {size} x {size}, the size of the network, got {height} x {width}",
    )
    padded = jnp.pad(windows, ((0, 0), (0, size - height), (0, size - width), (0, 0)))
    out: Any = Segmenter(config).apply(variables, padded, train=False)
    return resize_bilinear(out["logits"], (size, size))[:, :height, :width]


def check_maps(labels: np.ndarray, num_classes: int) -> None:
    """Raises InvalidInputError for label maps with a value that is no class and not 255."""
    labels = np.asarray(labels)
    require(np.issubdtype(labels.dtype, np.integer), f"labels must be integers, got {labels.dtype}")
    wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != IGNORED)]
    require(
        wrong.size == 0,
        f"label maps must hold 0..{num_classes - 1}, or {IGNORED} for ignored pixels, got "
        f"{np.unique(wrong)[:8].tolist()}",
    )
