"""Which parameters decay, which stand still, and how fast each layer learns.

Blocks may be stacked along a leading axis (`scan`); rules then hold block by block.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from lab.arrays import Array
from lab.nn.vit import ViTConfig
from lab.papers.tinymim.distill import Distillation
from lab.papers.tinymim.models import StudentConfig
from lab.train.optimizers import adamw, layer_decay

# of one block
_WEIGHTS = ("kernel", "relative_position_bias_table")
_AFTER_RELATIONS = ("proj", "norm2", "fc1", "fc2", "gamma_1", "gamma_2")
_EMBEDDING = ("cls_token", "dist_token", "pos_embed", "patch_embed", "pre_norm")


def is_decayed(path: str, parameter: jax.Array) -> bool:
    """Every weight of two or more axes, tokens included; no bias, norm or layer scale."""
    return parameter.ndim - ("/stacked/" in path) > 1


def is_decayed_in_finetuning(path: str, parameter: jax.Array) -> bool:
    """As `is_decayed`, without class token and position table."""
    return path.rpartition("/")[2] not in ("cls_token", "dist_token", "pos_embed") and is_decayed(
        path, parameter
    )


def pretraining_adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.05,
    b1: float = 0.9,
    b2: float = 0.95,
    moves: Callable[[str], float | Array] | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """AdamW of distillation and MAE: betas (0.9, 0.95), decay of weights and tokens.

    Args: moves, factors as of `moving_parts`; options as of `lab.train.optimizers.adamw`.
    """
    return adamw(
        learning_rate,
        b1=b1,
        b2=b2,
        weight_decay=weight_decay,
        is_decayed=is_decayed,
        scale_of=moves,
        **options,
    )


def moving_parts(config: Distillation, student: StudentConfig) -> Callable[[str], float | Array]:
    """Path -> 1 where distillation gives a gradient, 0 where it gives none.

    Relations come from the last block's q, k and v: nothing behind them is trained, nor decayed,
    and fine-tuning starts it afresh. For stacked blocks an array that leaves out the last.
    """
    reconstructs = student.decoder is not None
    relation = config.target == "relation" and not reconstructs
    norm_moves = reconstructs or (config.target != "relation" and config.student_feature_norm)

    def moves(path: str) -> float | np.ndarray:
        top, _, rest = path.partition("/")
        if top != "encoder":
            return 1.0
        if rest.startswith("norm/"):
            return float(norm_moves)
        if rest.startswith("expand"):
            return 0.0
        parts = rest.split("/")
        if parts[0] != "blocks" or not relation or parts[2] not in _AFTER_RELATIONS:
            return 1.0
        depth = student.encoder.depth
        by_block = np.ones(depth, np.float32)
        by_block[-1] = 0
        return of_block(by_block, path)

    return moves


def layer_of(depth: int) -> Callable[[str], int]:
    """Path -> 0 for the embedding, i + 1 for block i (0-based), depth + 1 for the rest."""

    def layer(path: str) -> int:
        parts = path.split("/")
        if any(part in _EMBEDDING for part in parts):
            return 0
        return int(parts[parts.index("blocks") + 1]) + 1 if "blocks" in parts else depth + 1

    return layer


def layer_scales(depth: int, decay: float) -> Callable[[str], float | Array]:
    """Path -> decay^(depth + 1 - layer), the factor of its learning rate (BEiT).

    For stacked blocks an array that broadcasts against the parameter.
    """
    scale_of = layer_decay(layer_of(depth), depth + 1, decay)

    def scale(path: str) -> float | np.ndarray:
        if "/stacked/" not in path:
            return scale_of(path)
        by_block = [scale_of(path.replace("stacked", str(i))) for i in range(depth)]
        return of_block(np.asarray(by_block, np.float32), path)

    return scale


def of_block(values: np.ndarray, path: str) -> float | np.ndarray:
    """The value of the path's block; of stacked blocks all, with axes to broadcast over."""
    parts = path.split("/")
    block = parts[parts.index("blocks") + 1]
    if block != "stacked":
        return float(values[int(block)])
    return values.reshape(-1, *(1,) * (2 if parts[-1] in _WEIGHTS else 1))


def finetuning_adamw(
    learning_rate: optax.ScalarOrSchedule,
    backbone: ViTConfig,
    *,
    layer_decay_rate: float = 0.65,
    weight_decay: float = 0.05,
    **options: Any,
) -> optax.GradientTransformation:
    """AdamW of fine-tuning: betas (0.9, 0.999), a lower rate for lower layers.

    Args: options as of `lab.train.optimizers.adamw` (clip_norm, ema_decay, accumulate, ...).
    """
    return adamw(
        learning_rate,
        weight_decay=weight_decay,
        is_decayed=is_decayed_in_finetuning,
        scale_of=layer_scales(backbone.depth, layer_decay_rate),
        **options,
    )
