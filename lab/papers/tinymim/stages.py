"""From one stage to the next: teacher -> student -> smaller student, and on to fine-tuning."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lab.errors import require
from lab.nn.position import interpolate_positions
from lab.nn.vit import SIZES, ViTConfig, vit_config
from lab.papers.tinymim.convert import relayout
from lab.papers.tinymim.distill import Distillation
from lab.papers.tinymim.models import ClassifierConfig, init_variables


@dataclasses.dataclass(frozen=True)
class Stage:
    """One distillation of the chain L -> B -> S -> T.

    Attributes: size of the student; heads of its blocks while it is distilled (its last block takes
      the teacher's); teacher's size; target_block and teacher_target_heads of the teacher.
    """

    size: str
    heads: int
    teacher: str
    target_block: int
    teacher_target_heads: int

    @property
    def distillation(self) -> Distillation:
        return Distillation(
            target_block=self.target_block, teacher_target_heads=self.teacher_target_heads
        )

    def student(self, **overrides: Any) -> ViTConfig:
        """The student as it is distilled: constant drop path 0.1 in all blocks but the last."""
        options = {"drop_path_rate": 0.1, "drop_path_schedule": "all_but_last"}
        heads = {"num_heads": self.heads}
        student = vit_config(self.size, **{**options, **heads, **overrides})
        return student.with_last_block_heads(self.teacher_target_heads)


# As released; the released S -> T fails because its teacher has 6 heads where S was distilled with
# 12. Sequential distillation keeps the heads a target block was distilled with.
STAGES = (
    Stage("B", 12, "L", 18, 16),
    Stage("S", 6, "B", 12, 12),
    Stage("T", 6, "S", 12, 12),
)


@dataclasses.dataclass(frozen=True)
class FinetuningRecipe:
    """How a classifier is trained; what sizes have in common is in `finetuning_adamw` and `views`.

    Attributes: base_rate, the peak a batch of 256, and min_rate, the end; layer_decay; drop_path of
      the last block, rising linearly from 0; epochs.
    """

    base_rate: float
    layer_decay: float
    drop_path: float
    epochs: float
    min_rate: float = 1e-6


# B as released, in batches of 1,024. Of T and S the authors say only that rate and batch are
# larger; these are meant for batches of 2,048.
FINETUNING = {
    "T": FinetuningRecipe(1e-3, 0.75, 0.0, 200),
    "S": FinetuningRecipe(1e-3, 0.75, 0.1, 200),
    "B": FinetuningRecipe(5e-4, 0.65, 0.2, 100),
}
# DeiT's: 5e-4 a batch of 512, nothing slowed.
SCRATCH = FinetuningRecipe(2.5e-4, 1.0, 0.1, 300)


def finetuning_recipe(width: int) -> FinetuningRecipe:
    """The recipe of the size whose width is nearest."""
    size = min(FINETUNING, key=lambda name: abs(SIZES[name]["width"] - width))
    return FINETUNING[size]


def encoder_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder of a student's, an MAE's or a classifier's variables, as a ViT's own."""
    found = {}
    for collection in ("params", "constants"):
        tree = variables.get(collection, {})
        part = next((tree[name] for name in ("encoder", "backbone") if name in tree), None)
        if part is not None:
            found[collection] = part
    require("params" in found, f"no encoder among {sorted(variables.get('params', {}))}")
    return found


def finetuning_backbone(
    encoder: ViTConfig, *, num_heads: int | None = None, pooling: str = "global", **overrides: Any
) -> ViTConfig:
    """The backbone of a classifier: usual heads in all blocks, a learned table, linear drop path.

    Args: num_heads, by default those of the encoder's `num_heads` (T is distilled with 6 and
      fine-tuned with 3 heads in the released settings).
    """
    options = {
        "num_heads": num_heads or encoder.num_heads,
        "block_heads": None,
        "position": "learned",
        "final_norm": pooling == "cls",
        "drop_path_rate": 0.0,
        "drop_path_schedule": "linear",
    }
    return dataclasses.replace(encoder, **{**options, **overrides})


def start_classifier(
    encoder_variables: Mapping[str, Any], config: ClassifierConfig, key: jax.Array
) -> dict[str, Any]:
    """A classifier that starts from a pre-trained encoder; heads and `fc_norm` are fresh.

    The position table becomes a parameter, resized if the picture is of another size; blocks are
    stacked as the classifier wants them.
    """
    vit = config.backbone
    loaded = relayout(encoder_variables, scan=vit.scan)
    params = dict(loaded["params"])
    table = params.pop("pos_embed", None)
    if table is None:
        table = loaded["constants"]["pos_embed"]
    table = np.asarray(interpolate_positions(table, vit.grid, vit.num_special))
    if not vit.final_norm:
        params.pop("norm", None)
    if vit.position == "learned":
        given = {"params": {"backbone": params | {"pos_embed": table}}}
    else:
        given = {
            "params": {"backbone": params},
            "constants": {"backbone": {"pos_embed": table}},
        }
    return init_variables(config, key, given)
