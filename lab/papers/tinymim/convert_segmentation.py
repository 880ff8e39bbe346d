"""Segmentation checkpoints in mmseg's names, both ways: backbone., decode_head., auxiliary_head.

    variables, report = from_mmseg(load_checkpoint("upernet_tinymim_base.pth"), config)
    save_safetensors("segmenter.safetensors", to_mmseg(variables, config))

With `backbone_only`, the variables are those of `SegmentationBackbone`, whose names have no
"backbone." in front.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lab.errors import CheckpointError, require
from lab.interop import (
    Report,
    Rule,
    Transform,
    batch_norm,
    conv,
    match_variables,
    to_state_dict,
)
from lab.nn.position import interpolate_positions, relative_position_index
from lab.papers.tinymim.convert import check_special_tokens, encoder_rules, payload
from lab.papers.tinymim.segmentation import SegmenterConfig, segmenter_shapes

_BACKBONE, _INDEX, _COUNT = "backbone.", "relative_position_index", "num_batches_tracked"
_BUFFERS = (f"*.{_INDEX}", f"*.{_COUNT}")
# left over from pre-training and classification
_UNUSED = ("norm.*", "fc_norm.*", "head.*", "head_dist.*", "mask_token")

# torch's window is applied mirrored, but with a stride of its own size nothing overlaps:
# [in, out, 2, 2] <-> [2, 2, in, out]
_UP = Transform(lambda w: w.transpose(2, 3, 0, 1), lambda k: k.transpose(2, 3, 0, 1))
# a 1 x 1 convolution is a dense layer
_POINTWISE = Transform(lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])


def backbone_rules(
    config: SegmenterConfig, *, at: str = "backbone/", source: str = _BACKBONE
) -> tuple[Rule, ...]:
    """The rules of `SegmentationBackbone`, at `at` in the variables and `source` in the file."""
    return (
        *encoder_rules(config.backbone, at=f"{at}vit/", source=source),
        *_biased(f"{source}fpn1.0", f"{at}fpn1_first", _UP),
        *batch_norm(f"{source}fpn1.1", f"{at}fpn1_norm"),
        *_biased(f"{source}fpn1.3", f"{at}fpn1_second", _UP),
        *_biased(f"{source}fpn2.0", f"{at}fpn2", _UP),
        *_biased(f"{source}fpn3", f"{at}fpn3", _POINTWISE),
        *conv(f"{source}fpn4.0", f"{at}fpn4"),
    )


def segmenter_rules(config: SegmenterConfig) -> tuple[Rule, ...]:
    """The rules of a whole `Segmenter`."""
    head = "decode_head"
    return (
        *backbone_rules(config),
        *_conv_norm(f"{head}.psp_modules.{{i}}.1", f"{head}/pool{{i}}", _POINTWISE),
        *_conv_norm(f"{head}.lateral_convs.{{i}}", f"{head}/lateral{{i}}", _POINTWISE),
        *_conv_norm(f"{head}.bottleneck", f"{head}/bottleneck"),
        *_conv_norm(f"{head}.fpn_convs.{{i}}", f"{head}/fpn{{i}}"),
        *_conv_norm(f"{head}.fpn_bottleneck", f"{head}/fpn_bottleneck"),
        *_biased(f"{head}.conv_seg", f"{head}/conv_seg", _POINTWISE),
        *_conv_norm("auxiliary_head.convs.0", "auxiliary_head/conv"),
        *_biased("auxiliary_head.conv_seg", "auxiliary_head/conv_seg", _POINTWISE),
    )


def _biased(source: str, target: str, transform: Transform) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"{target}/kernel", transform),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def _conv_norm(source: str, target: str, transform: Transform | str = "conv") -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.conv.weight", f"{target}/conv/kernel", transform),
        *batch_norm(f"{source}.bn", f"{target}/norm"),
    )


def rules_of(config: SegmenterConfig, *, backbone_only: bool = False) -> tuple[Rule, ...]:
    """All rules of a `Segmenter`, or of a `SegmentationBackbone`."""
    return backbone_rules(config, at="", source="") if backbone_only else segmenter_rules(config)


def variable_shapes(config: SegmenterConfig, *, backbone_only: bool = False) -> dict[str, Any]:
    """Shapes and dtypes of the variables that the rules make."""
    shapes = segmenter_shapes(config)
    return {name: tree["backbone"] for name, tree in shapes.items()} if backbone_only else shapes


def from_mmseg(
    state_dict: Mapping[str, Any],
    config: SegmenterConfig,
    *,
    backbone_only: bool = False,
    strict: bool = True,
) -> tuple[dict[str, Any], Report]:
    """Variables from a checkpoint in mmseg's names.

    A position table of another grid is resized; classifiers (`conv_seg`) for another number of
    classes are dropped.

    Args:
      state_dict: arrays by name, or nested in "state_dict", with or without "module.".
      backbone_only: take the backbone out of the file; its names may lack "backbone.".
      strict: everything that the model has must be there. Otherwise what is missing is left out
        (`init_segmenter(config, key, variables)` makes it), with a warning.
    Returns: ({"params", "batch_stats"} of numpy arrays, what matched and what did not).
    Raises: CheckpointError, naming the keys, for what is missing or of another shape, and for a
      starred checkpoint in a plain network or the other way.
    """
    arrays = payload(state_dict)
    prefix = "" if backbone_only else _BACKBONE
    if backbone_only and any(name.startswith(_BACKBONE) for name in arrays):
        inside = (name for name in arrays if name.startswith(_BACKBONE))
        arrays = {name.removeprefix(_BACKBONE): arrays[name] for name in inside}
    arrays = resized_table(arrays, config, prefix)
    ignore = [*_BUFFERS, *(f"{prefix}{name}" for name in _UNUSED)]
    classifiers = (name for name in arrays if ".conv_seg." in name)
    ignore += [name for name in classifiers if len(arrays[name]) != config.num_classes]
    variables, report = match_variables(
        arrays,
        rules_of(config, backbone_only=backbone_only),
        ignore=ignore,
        template=variable_shapes(config, backbone_only=backbone_only),
    )
    complete = not (report.missing or report.misshaped)
    require(complete or not strict, report.summary(), CheckpointError)
    if not report.is_clean:
        warnings.warn(report.summary(), stacklevel=2)
    return variables, report


def resized_table(
    arrays: Mapping[str, np.ndarray], config: SegmenterConfig, prefix: str
) -> dict[str, np.ndarray]:
    """The arrays with the position table brought to the model's grid.

    Raises: CheckpointError where the special tokens are not those of the model.
    """
    vit, name = config.backbone, f"{prefix}pos_embed"
    tokens = {
        key: arrays[f"{prefix}{key}"]
        for key in ("pos_embed", "dist_token")
        if f"{prefix}{key}" in arrays
    }
    check_special_tokens(tokens, vit)
    if name not in arrays or arrays[name].shape[1] == vit.num_tokens:
        return dict(arrays)
    table = interpolate_positions(arrays[name], vit.grid, vit.num_special)
    return {**arrays, name: np.asarray(table)}


def to_mmseg(
    variables: Mapping[str, Any], config: SegmenterConfig, *, backbone_only: bool = False
) -> dict[str, np.ndarray]:
    """The names and layouts that mmseg's strict loading expects, buffers included.

    Raises: InvalidInputError for variables that the layout has no name for.
    """
    rules = rules_of(config, backbone_only=backbone_only)
    state_dict = to_state_dict(jax.tree.map(np.asarray, dict(variables)), rules)
    return state_dict | buffers(state_dict, config)


def buffers(state_dict: Mapping[str, np.ndarray], config: SegmenterConfig) -> dict[str, np.ndarray]:
    """What torch keeps beside the weights: each block's position index, each norm's count."""
    vit, table = config.backbone, "relative_position_bias_table"
    found, tables = {}, [name for name in state_dict if name.endswith(table)]
    if tables:
        index = relative_position_index(vit.grid, vit.num_special).astype(np.int64)
        found |= {name.removesuffix(table) + _INDEX: index for name in tables}
    counted = (name for name in state_dict if name.endswith(".running_mean"))
    zero = np.zeros((), np.int64)
    return found | {name.removesuffix("running_mean") + _COUNT: zero for name in counted}
