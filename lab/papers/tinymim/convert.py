"""Weights of others, both ways: official TinyMIM and MAE checkpoints, timm's ViTs, DINOv2.

    checkpoint = load_checkpoint("mae_pretrain_vit_large.pth")            # lab.interop
    variables, report = from_official(checkpoint, vit_config("L"))
    save_safetensors("student.safetensors", to_official(variables, config, naming="timm"))

A model's config says which names are expected: a `ViTConfig` takes the encoder out of any of these
files, an `MAEConfig` the decoder too, a `ClassifierConfig` a fine-tuned model.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from lab.errors import CheckpointError, InvalidInputError, require
from lab.interop import (
    Report,
    Rule,
    Transform,
    layer_norm,
    linear,
    match_variables,
    to_state_dict,
)
from lab.nn.position import interpolate_positions, sincos_table
from lab.nn.transformer import TransformerConfig, stack_blocks, unstack_blocks
from lab.nn.vit import SIZES, ViTConfig
from lab.papers.tinymim.models import (
    ClassifierConfig,
    MAEConfig,
    ModelConfig,
    StudentConfig,
    encoder_config,
    variable_shapes,
)

Naming = Literal["official", "timm"]

# Buffers of the segmentation code, and what other stages leave in a file.
_BUFFERS = ("*.relative_position_index", "*.num_batches_tracked")
_DECODER = ("mask_token", "decoder_*")
_HEADS = ("head.*", "head_dist.*", "fc_norm.*")
_EMBEDDED = ("cls_token", "dist_token")
_HEADS_OF_WIDTH = {size["width"]: size["num_heads"] for name, size in SIZES.items() if name != "T*"}
_HEADS_OF_WIDTH |= {1280: 16}  # ViT-H
_STARRED_HEADS = {SIZES["T*"]["width"]: SIZES["T*"]["num_heads"]}


def block_rules(source: str, target: str, naming: Naming, *, stack: bool) -> tuple[Rule, ...]:
    """The rules of one kind of block: `source` and `target` hold {i}, stacked targets do not."""
    options: dict[str, Any] = {"stack": "i" if stack else None}
    gammas = ("gamma_1", "gamma_2") if naming == "official" else ("ls1.gamma", "ls2.gamma")
    table = "relative_position_bias_table"
    return (
        *layer_norm(f"{source}.norm1", f"{target}/norm1", **options),
        *linear(f"{source}.attn.qkv", f"{target}/qkv", **options),
        *linear(f"{source}.attn.proj", f"{target}/proj", **options),
        *layer_norm(f"{source}.norm2", f"{target}/norm2", **options),
        *linear(f"{source}.mlp.fc1", f"{target}/fc1", **options),
        *linear(f"{source}.mlp.fc2", f"{target}/fc2", **options),
        Rule(f"{source}.{gammas[0]}", f"{target}/gamma_1", **options),
        Rule(f"{source}.{gammas[1]}", f"{target}/gamma_2", **options),
        Rule(f"{source}.attn.{table}", f"{target}/{table}", **options),
    )


def encoder_rules(
    config: ViTConfig, *, at: str = "", source: str = "", naming: Naming = "official"
) -> tuple[Rule, ...]:
    """The rules of a ViT.

    Args: at, where it lies in the variables ("encoder/"); source, in front of the official names
      ("backbone.").
    """
    side, channels = config.patch_size, config.num_channels
    kernel = Transform(
        lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
        lambda k: k.reshape(side, side, channels, -1).transpose(3, 2, 0, 1),
    )
    fixed = "constants" if config.position == "fixed" else "params"
    return (
        Rule(f"{source}cls_token", f"{at}cls_token"),
        Rule(f"{source}dist_token", f"{at}dist_token"),
        Rule(f"{source}pos_embed", f"{at}pos_embed", collection=fixed),
        Rule(f"{source}patch_embed.proj.weight", f"{at}patch_embed/kernel", kernel),
        Rule(f"{source}patch_embed.proj.bias", f"{at}patch_embed/bias"),
        *layer_norm(f"{source}norm_pre", f"{at}pre_norm"),
        *block_rules(f"{source}blocks.{{i}}", _blocks(config, at), naming, stack=config.scan),
        *layer_norm(f"{source}norm", f"{at}norm"),
        *layer_norm(f"{source}conv1x1.0", f"{at}expand_norm"),
        *linear(f"{source}conv1x1.1", f"{at}expand"),
    )


def decoder_rules(config: TransformerConfig) -> tuple[Rule, ...]:
    """The rules of MAE's decoder, at "decoder/"."""
    blocks = _blocks(config, "decoder/")
    return (
        Rule("mask_token", "decoder/mask_token"),
        Rule("decoder_pos_embed", "decoder/pos_embed", collection="constants"),
        *linear("decoder_embed", "decoder/embed"),
        *block_rules("decoder_blocks.{i}", blocks, "official", stack=config.scan),
        *layer_norm("decoder_norm", "decoder/norm"),
        *linear("decoder_pred", "decoder/pred"),
    )


def rules_of(config: ModelConfig, naming: Naming = "official") -> tuple[Rule, ...]:
    """All rules of a model."""
    if isinstance(config, ViTConfig):
        return encoder_rules(config, naming=naming)
    if isinstance(config, MAEConfig | StudentConfig):
        encoder = encoder_rules(config.encoder, at="encoder/", naming=naming)
        return encoder if config.decoder is None else (*encoder, *decoder_rules(config.decoder))
    if isinstance(config, ClassifierConfig):
        return (
            *encoder_rules(config.backbone, at="backbone/", naming=naming),
            *layer_norm("fc_norm", "fc_norm"),
            *linear("head", "head"),
            *linear("head_dist", "head_dist"),
        )
    raise InvalidInputError(f"no checkpoint layout for a {type(config).__name__}")


def from_official(
    state_dict: Mapping[str, Any],
    config: ModelConfig,
    *,
    naming: Naming | None = None,
    strict: bool = True,
) -> tuple[dict[str, Any], Report]:
    """Variables from a checkpoint's names and layouts.

    Parts that the model has no place for are left out (a decoder, a head, in an encoder); a
    position table of another grid is resized; a head of another number of classes is dropped.

    Args:
      state_dict: arrays by official name, as `lab.interop.load_checkpoint` gives, or the nested
        payload ("model", "state_dict") with or without "module." in front of names.
      naming: by default told from the names.
      strict: everything that the model has must be there. Otherwise what is missing is left out of
        the variables (`init_variables(config, key, variables)` makes it), with a warning.
    Returns: ({"params": ..., "constants": ...} of numpy arrays, what matched and what did not).
    Raises: CheckpointError, naming the keys, for what is missing or of another shape.
    """
    arrays = payload(state_dict)
    vit = encoder_config(config)
    check_special_tokens(arrays, vit)
    if naming is None:
        naming = "timm" if any(".ls1.gamma" in name for name in arrays) else "official"
    arrays = resized_positions(arrays, config)
    ignore = [*_BUFFERS, *unused_parts(config)]
    ignore += other_heads(arrays, config)
    variables, report = match_variables(
        arrays, rules_of(config, naming), ignore=ignore, template=variable_shapes(config)
    )
    if not report.is_clean:
        few = 2 * len(report.matched) < report.num_wanted
        require(
            not strict or not (report.missing or report.misshaped),
            report.summary(),
            CheckpointError,
        )
        advice = "; a network with so few of its weights will not learn much more than a fresh one"
        warnings.warn(report.summary() + (advice if few else ""), stacklevel=2)
    return variables, report


def to_official(
    variables: Mapping[str, Any], config: ModelConfig, *, naming: Naming = "official"
) -> dict[str, np.ndarray]:
    """The official names and layouts of variables, for `lab.interop.save_safetensors`.

    Args: naming, "timm" writes what timm's `VisionTransformer` loads.
    Raises: InvalidInputError for variables that the layout has no name for.
    """
    return to_state_dict(jax.tree.map(np.asarray, dict(variables)), rules_of(config, naming))


def payload(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a state dict, out of "model" or "state_dict" and without "module."."""
    for key in ("model", "state_dict"):
        if isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
    prefixed = len(state_dict) > 0 and all(name.startswith("module.") for name in state_dict)
    names = {name: name.removeprefix("module.") if prefixed else name for name in state_dict}
    return {names[name]: np.asarray(state_dict[name]) for name in state_dict}


def check_special_tokens(arrays: Mapping[str, np.ndarray], config: ViTConfig) -> None:
    """Raises CheckpointError for a starred checkpoint in a plain network and the other way.

    A starred table has 198 rows at 224 px; loaded into a plain network it gave 38.9 instead of 45.0
    mIoU to people who did not notice.
    """
    registers = [name for name in ("reg_token", "register_tokens") if name in arrays]
    require(
        not registers,
        f"the checkpoint has register tokens ({', '.join(registers)}), which this ViT lacks: take "
        "the model without registers",
        CheckpointError,
    )
    table = arrays.get("pos_embed")
    rows = 0 if table is None else table.shape[1]
    starred = "dist_token" in arrays or _is_square(rows - 2)
    if table is None or starred == config.distilled:
        return
    wanted = "a starred model (distilled=True)" if starred else "a plain model (distilled=False)"
    raise CheckpointError(
        f"the checkpoint is of {wanted}: its pos_embed has {rows} rows"
        f"{', class and distillation token and patches' if starred else ''}; the network expects "
        f"{config.num_special} special token(s)"
    )


def resized_positions(
    arrays: Mapping[str, np.ndarray], config: ModelConfig
) -> dict[str, np.ndarray]:
    """The arrays with position tables brought to the model's grid (bicubic, a = -0.75)."""
    vit, resized = encoder_config(config), dict(arrays)
    specials = {"pos_embed": vit.num_special, "decoder_pos_embed": 1}
    for name, special in specials.items():
        table = arrays.get(name)
        if table is not None and table.shape[1] != special + vit.num_patches:
            resized[name] = np.asarray(interpolate_positions(table, vit.grid, special))
    return resized


def unused_parts(config: ModelConfig) -> tuple[str, ...]:
    """Patterns of names that such a model may leave in the file."""
    vit = encoder_config(config)
    expanding = () if vit.expanded_width else ("conv1x1.*",)
    final = () if vit.final_norm else ("norm.*",)
    if isinstance(config, ClassifierConfig):
        return (*_DECODER, *final, *(("fc_norm.*",) if config.pooling == "cls" else ()))
    decoder = () if isinstance(config, MAEConfig) else _DECODER
    return (*decoder, *_HEADS, *expanding, *final)


def other_heads(arrays: Mapping[str, np.ndarray], config: ModelConfig) -> list[str]:
    """Names of heads for another number of classes than the model's."""
    if not isinstance(config, ClassifierConfig):
        return []
    heads = [name for name in arrays if name.startswith(("head.", "head_dist."))]
    return [name for name in heads if len(arrays[name]) != config.num_classes]


def relayout(variables: Mapping[str, Any], *, scan: bool) -> dict[str, Any]:
    """The same variables with blocks stacked (`scan=True`) or one by one, wherever they lie."""

    def change(tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        tree = {name: change(child) for name, child in tree.items()}
        blocks = tree.get("blocks")
        if blocks is not None and ("stacked" in blocks) != scan:
            tree["blocks"] = stack_blocks(blocks) if scan else unstack_blocks(blocks)
        return tree

    return change(variables)


def _blocks(config: TransformerConfig, at: str) -> str:
    return f"{at}blocks/stacked" if config.scan else f"{at}blocks/{{i}}"


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count


def vit_config_of(
    state_dict: Mapping[str, Any],
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
    **overrides: Any,
) -> ViTConfig:
    """The config of the encoder in an official MAE, TinyMIM, timm or DINOv2 checkpoint.

    Args:
      state_dict: arrays by official name (`lab.interop.load_checkpoint`).
      image_size: in pixels, by default that of the position table.
      num_heads: which no array tells; by default that of the usual ViT of this width.
      overrides: of `ViTConfig` (scan, dtype, block_heads, ...).
    Raises: CheckpointError where this is no such ViT, or its heads cannot be told.
    """
    arrays = payload(state_dict)
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        require(
            name in arrays,
            f"the weights have no {name}: not a ViT in the layout of MAE or timm "
            f"(they begin with {sorted(arrays)[:4]})",
            CheckpointError,
        )
    kernel, table = np.asarray(arrays["patch_embed.proj.weight"]), np.asarray(arrays["pos_embed"])
    width, channels, patch_size = kernel.shape[:3]
    special = 1 + ("dist_token" in arrays)
    side = round((table.shape[1] - special) ** 0.5)
    blocks = {name.split(".")[1] for name in arrays if name.startswith("blocks.")}
    is_starred = "conv1x1.1.weight" in arrays
    heads = num_heads or (_STARRED_HEADS if is_starred else _HEADS_OF_WIDTH).get(width)
    if heads is None:
        raise CheckpointError(
            f"how many heads a ViT of width {width} has is not in its weights; give num_heads"
        )
    config = ViTConfig(
        width=width,
        depth=len(blocks),
        num_heads=heads,
        mlp_ratio=_rows(arrays, "blocks.0.mlp.fc1.weight") / width,
        layer_scale=1.0 if any(name.endswith("ls1.gamma") for name in arrays) else None,
        image_size=image_size or side * patch_size,
        patch_size=patch_size,
        num_channels=channels,
        distilled=special == 2,
        expanded_width=_rows(arrays, "conv1x1.1.weight") if is_starred else None,
        position="fixed" if _is_sincos(table, side, special) else "learned",
        final_norm="norm.weight" in arrays,
    )
    return dataclasses.replace(config, **overrides)


def _rows(arrays: Mapping[str, np.ndarray], name: str) -> int:
    require(name in arrays, f"the weights have no {name}", CheckpointError)
    return arrays[name].shape[0]


def _is_sincos(table: np.ndarray, side: int, special: int) -> bool:
    """Whether a position table is MAE's fixed one."""
    width = table.shape[-1]
    if width % 4 or side * side + special != table.shape[1]:
        return False
    return bool(np.allclose(table, sincos_table(width, side, special), atol=1e-3))
