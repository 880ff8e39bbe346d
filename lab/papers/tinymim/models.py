"""Networks around the shared ViT: MAE, the distilled student, the classifier."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import core

from lab.errors import require, require_given
from lab.interop import merge
from lab.interop.mapping import flatten, unflatten
from lab.nn.linear import dot_rows
from lab.nn.position import sincos_table
from lab.nn.transformer import Transformer, TransformerConfig
from lab.nn.vit import ViT, ViTConfig
from lab.papers.tinymim.masking import Masking, restore_patches
from lab.train.state import check_key

DECODER = TransformerConfig(width=512, depth=8, num_heads=16)


@dataclasses.dataclass(frozen=True)
class MAEConfig:
    """A masked autoencoder. The paper states no decoder for T and S: the same 512 x 8 here."""

    encoder: ViTConfig
    decoder: TransformerConfig = DECODER

    def __post_init__(self) -> None:
        require(self.encoder.num_special == 1, "a masked autoencoder has the class token alone")


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The network that is trained by distillation.

    Attributes:
      encoder: what is kept afterwards; its last block has the teacher's head count (`align_heads`).
      projections: widths of the linear layers that bring the student's output to the teacher's
        width, discarded afterwards; empty for relations.
      decoder: MAE's, for integrated reconstruction.
    """

    encoder: ViTConfig
    projections: tuple[tuple[str, int], ...] = ()
    decoder: TransformerConfig | None = None


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A ViT with a classification head.

    Attributes:
      backbone: with a learned position table, usually (`stages.classifier_config`).
      pooling: "global" is the mean of the patch tokens, then `fc_norm` (the backbone has no final
        norm); "cls" is the backbone's normed class token.
      head_init: standard deviation of the head's truncated normal initialisation.
    """

    backbone: ViTConfig
    num_classes: int = 1000
    pooling: Literal["global", "cls"] = "global"
    head_init: float = 2e-5

    def __post_init__(self) -> None:
        require(self.num_classes >= 2, f"num_classes must be at least 2, got {self.num_classes}")
        require(
            self.pooling in ("global", "cls"),
            f"pooling is 'global' or 'cls', got {self.pooling!r}",
        )
        require(
            self.pooling == "global" or not self.backbone.distilled,
            "the starred models pool globally",
        )
        require(
            self.backbone.final_norm == (self.pooling == "cls"),
            f"pooling {self.pooling!r} needs backbone.final_norm={self.pooling == 'cls'}",
        )


class Decoder(nn.Module):
    """MAE's decoder: from the visible patches' latents to the pixels of all patches."""

    config: TransformerConfig
    encoder: ViTConfig

    @nn.compact
    def __call__(self, latent: jax.Array, restore: jax.Array) -> jax.Array:
        """Decodes latents.

        Args: latent float [B, 1 + K, D]; restore int [B, N], of `Masking`.
        Returns: float [B, N, p * p * C].
        """
        from_width = nn.Dense(
            self.config.width,
            dtype=self.config.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            dot_general=dot_rows,
            name="embed",
        )
        shape = (1, 1, self.config.width)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), shape)
        x = from_width(latent)
        patches = restore_patches(x[:, 1:], mask_token, restore)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        x = x + self._positions().astype(x.dtype)
        last = self.config.depth
        blocks = Transformer(self.config, name="blocks")
        x = blocks(x, {last: frozenset({"block"})})[f"block{last}/block"]
        norm = nn.LayerNorm(
            epsilon=self.config.norm_epsilon,
            dtype=self.config.dtype,
            use_fast_variance=False,
            name="norm",
        )
        to_pixels = nn.Dense(
            self.encoder.patch_size**2 * self.encoder.num_channels,
            dtype=self.config.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            dot_general=dot_rows,
            name="pred",
        )
        return to_pixels(norm(x))[:, 1:]

    def _positions(self):
        config = self.config

        def table():
            return jnp.asarray(sincos_table(config.width, self.encoder.grid))

        return self.variable("constants", "pos_embed", table).value


class MAE(nn.Module):
    """Masked autoencoder (He et al., 2022): the teacher, and the baseline of every size."""

    config: MAEConfig

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        masking: Masking,
        *,
        drop_path_noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes the kept patches and predicts the pixels of all.

        Args: images normalised float [B, H, W, C].
        Returns: "latent" float [B, 1 + K, D], "pixels" float [B, N, p * p * C].
        """
        encoder = ViT(self.config.encoder, name="encoder")
        latent = encoder(
            images, ("norm",), kept_patches=masking.kept, drop_path_noise=drop_path_noise
        )["norm"]
        decoder = Decoder(self.config.decoder, self.config.encoder, name="decoder")
        return {"latent": latent, "pixels": decoder(latent, masking.restore)}


class Student(nn.Module):
    """The distilled encoder with what training alone needs: projections, MAE's decoder."""

    config: StudentConfig

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        names: tuple[str, ...],
        masking: Masking | None = None,
        *,
        project: str | None = None,
        drop_path_noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Encodes pictures.

        Args:
          names: of the encoder's intermediates, to return.
          masking: the encoder sees the kept patches alone. With a decoder, "pixels" float
            [B, N, p * p * C] are returned too.
          project: the intermediate that the projections take; "projected/<name>" are returned.
        """
        config = self.config
        extra = ("norm",) if config.decoder else ()
        out = ViT(config.encoder, name="encoder")(
            images,
            tuple(dict.fromkeys((*names, *extra))),
            kept_patches=None if masking is None else masking.kept,
            drop_path_noise=drop_path_noise,
        )
        for name, width in config.projections:
            dense = nn.Dense(
                width, kernel_init=nn.initializers.xavier_uniform(), name=f"project_{name}"
            )
            taken = require_given(project, "project is None; this model projects an intermediate")
            out[f"projected/{name}"] = dense(out[taken])
        if config.decoder is not None:
            masking = require_given(masking, "masking is None; a model with a decoder needs one")
            decoder = Decoder(config.decoder, config.encoder, name="decoder")
            out["pixels"] = decoder(out["norm"], masking.restore)
        return out


class Classifier(nn.Module):
    """A ViT with a linear head; the starred models have a second one on the distillation token."""

    config: ClassifierConfig

    @nn.compact
    def __call__(
        self, images: jax.Array, *, drop_path_noise: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Classifies pictures, normalised float [B, H, W, C].

        Returns: "features" float [B, D], "logits" float32 [B, C], and of a starred model
          "logits_dist". `class_logits` makes one decision of both.
        """
        config, backbone = self.config, self.config.backbone
        (tokens,) = ViT(backbone, name="backbone")(images, drop_path_noise=drop_path_noise).values()
        tokens = tokens.astype(jnp.float32)
        if config.pooling == "cls":
            features = tokens[:, 0]
        else:
            pooled = tokens[:, backbone.num_special :]
            if backbone.distilled:  # the mean of patch tokens and class token
                pooled = jnp.concatenate([tokens[:, :1], pooled], axis=1)
            norm = nn.LayerNorm(
                epsilon=backbone.norm_epsilon, use_fast_variance=False, name="fc_norm"
            )
            features = norm(pooled.mean(axis=1))
        head = nn.initializers.truncated_normal(config.head_init)
        out = {"features": features}
        out["logits"] = nn.Dense(config.num_classes, kernel_init=head, name="head")(features)
        if backbone.distilled:
            dense = nn.Dense(config.num_classes, kernel_init=head, name="head_dist")
            out["logits_dist"] = dense(tokens[:, 1])
        return out


def class_logits(out: dict[str, jax.Array]) -> jax.Array:
    """The logits to decide by: those of both heads averaged, where there are two."""
    if "logits_dist" not in out:
        return out["logits"]
    return (out["logits"] + out["logits_dist"]) / 2


ModelConfig = ViTConfig | MAEConfig | StudentConfig | ClassifierConfig


def build(config: ModelConfig) -> nn.Module:
    """The module of a config of this paper."""
    modules = {
        ViTConfig: ViT,
        MAEConfig: MAE,
        StudentConfig: Student,
        ClassifierConfig: Classifier,
    }
    require(type(config) in modules, f"no network is described by a {type(config).__name__}")
    return modules[type(config)](config)


def encoder_config(config: ModelConfig) -> ViTConfig:
    """The ViT in a config."""
    if isinstance(config, ViTConfig):
        return config
    return config.backbone if isinstance(config, ClassifierConfig) else config.encoder


def init_variables(
    config: ModelConfig, key: jax.Array, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fresh variables, {"params": ..., "constants": ...}, or `given` ones completed.

    Args:
      key: typed.
      given: variables that are there already, such as loaded weights; only the others are made.
    Raises: InvalidInputError for given variables that the model lacks or has in another shape.
    """
    return completed(functools.partial(_initial, config), key, given)


def completed(
    initial: Callable[[jax.Array], Mapping[str, Any]],
    key: jax.Array,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`initial(key)` with `given` in its place; only what `given` lacks is computed.

    Raises: InvalidInputError for given variables that are unknown or of another shape.
    """
    found = flatten(given or {})

    def missing(key):
        return {k: x for k, x in flatten(initial(key)).items() if k not in found}

    check_key(key)
    if not isinstance(key, core.Tracer):
        # It runs once, so that compiling it is what costs: unoptimised, a fifth of the time.
        missing = jax.jit(missing, compiler_options={"xla_backend_optimization_level": 0})
    fresh = missing(key)
    return merge(jax.eval_shape(initial, key), unflatten(found | fresh))


def variable_shapes(config: ModelConfig) -> dict[str, Any]:
    """Shapes and dtypes of the variables, at any size without memory."""
    return jax.eval_shape(lambda key: _initial(config, key), jax.random.key(0))


def _initial(config: ModelConfig, key: jax.Array) -> dict[str, Any]:
    vit = encoder_config(config)
    images = jnp.zeros((1, vit.image_size, vit.image_size, vit.num_channels))
    places = jnp.arange(vit.num_patches)[None]
    masking = Masking(places[:, :1], places, jnp.ones(places.shape))
    if isinstance(config, MAEConfig):
        return dict(build(config).init(key, images, masking))
    if isinstance(config, StudentConfig):
        last = f"block{vit.depth}/block"
        with_mask = masking if config.decoder else None
        return dict(build(config).init(key, images, (last,), with_mask, project=last))
    return dict(build(config).init(key, images))
