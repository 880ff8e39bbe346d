"""What is distilled: one config, a field for each question of the ablation study.

    config = Distillation(target="relation", relations=("qk", "vv"), target_block=18)
    student = student_config(config, vit_config("B", num_heads=12), teacher)
    targets = teacher_outputs(config, teacher, teacher_variables, images)
    losses = distillation_losses(config, targets, student_outputs, num_heads)

`steps.make_distillation_step` puts these together.
"""

import dataclasses
from typing import Any, Literal

import jax

from lab.errors import require
from lab.nn.attention import check_heads
from lab.nn.transformer import TransformerConfig
from lab.nn.vit import ViT, ViTConfig
from lab.papers.tinymim import losses
from lab.papers.tinymim.masking import Masking, num_kept_patches
from lab.papers.tinymim.models import DECODER, StudentConfig
from lab.papers.tinymim.relations import RELATIONS, relation_losses

Target = Literal["relation", "feature", "cls", "pooled"]
FEATURES = ("output", "block", "ffn", "ffn_res", "attn", "attn_res", "qkv")


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Which signal of the teacher the student learns, and how (defaults: TinyMIM).

    Attributes:
      target: "relation" (eq. 5, 6), "feature" or "cls" (class token), table 8; or "pooled", the
        mean squared error of mean patch tokens that timm distils features by, for comparison.
      target_block: the teacher's block, 1-based (table 10); None: `default_target_block`. Class
        token, pooled tokens and feature "output" are always the last block's.
      relations: of "qk", "vv", "qq", "kk" (table 7).
      softmax: relations as distributions, compared by KL; False: scaled logits, compared by
        `relation_distance`.
      include_cls: the class token is one of the tokens that relations are between.
      teacher_target_heads: heads of the teacher's target block where they are not those of its
        config; the student's last block takes the same number.
      feature: "output", "block", "ffn", "ffn_res", "attn", "attn_res" or "qkv" (table 6).
      student_feature_norm: the student's feature goes through its final norm.
      cls_loss: of class tokens, KL of softmaxes or smooth-L1 of the whitened token.
      teacher_cls_norm: the teacher's class token goes through its final norm.
      mask_ratio: 0, or both networks see the same kept patches (table 12).
      reconstruction_weight: 0, or MAE's loss is added with this weight (tables 5 and 12); needs a
        mask_ratio.
      beta: of smooth-L1.
      heads_at_once: relation maps of so many heads in memory at a time; None: all.
    """

    target: Target = "relation"
    target_block: int | None = None
    relations: tuple[str, ...] = ("qk", "vv")
    softmax: bool = True
    relation_distance: losses.Distance = "smooth_l1"
    include_cls: bool = True
    teacher_target_heads: int | None = None
    feature: str = "block"
    student_feature_norm: bool = True
    cls_loss: Literal["softmax_kl", "whitened_smooth_l1"] = "softmax_kl"
    teacher_cls_norm: bool = True
    mask_ratio: float = 0.0
    reconstruction_weight: float = 0.0
    beta: float = 2.0
    heads_at_once: int | None = None

    def __post_init__(self) -> None:
        one_of = {
            "target": ("relation", "feature", "cls", "pooled"),
            "feature": FEATURES,
            "cls_loss": ("softmax_kl", "whitened_smooth_l1"),
            "relation_distance": ("smooth_l1", "mse", "l1"),
        }
        for field, known in one_of.items():
            value = getattr(self, field)
            require(value in known, f"{field} is one of {', '.join(known)}, got {value!r}")
        kinds = self.relations
        known = bool(kinds) and set(kinds) <= set(RELATIONS) and len(set(kinds)) == len(kinds)
        require(known, f"relations are different ones of {', '.join(RELATIONS)}, got {kinds}")
        require(
            0 <= self.mask_ratio < 1, f"mask_ratio must be 0 or in (0, 1), got {self.mask_ratio}"
        )
        require(
            self.reconstruction_weight == 0 or self.mask_ratio > 0,
            "reconstruction_weight needs a mask_ratio: there is nothing to reconstruct otherwise",
        )
        require(self.beta > 0, f"beta must be positive, got {self.beta}")


def default_target_block(depth: int) -> int:
    """The last block of a teacher of at most 12 blocks, else three quarters up (18 of 24)."""
    return depth if depth <= 12 else round(0.75 * depth)


def target_block(config: Distillation, teacher: ViTConfig) -> int:
    """The teacher's block that is distilled, 1-based.

    Raises: InvalidInputError where the teacher has no such block.
    """
    block = config.target_block
    if block is None:
        block = default_target_block(teacher.depth)
    require(
        1 <= block <= teacher.depth,
        f"target_block must be in 1..{teacher.depth}, the teacher's blocks, got {block}",
    )
    return block


def target_heads(config: Distillation, teacher: ViTConfig) -> int:
    """Heads of the teacher's target block, which the student's last block takes too.

    Raises: InvalidInputError where they do not divide the teacher's width.
    """
    heads = config.teacher_target_heads or teacher.heads[target_block(config, teacher) - 1]
    check_heads(teacher.width, heads, "teacher_target_heads")
    return heads


def student_config(
    config: Distillation,
    student: ViTConfig,
    teacher: ViTConfig,
    decoder: TransformerConfig = DECODER,
) -> StudentConfig:
    """The student with its last block's heads, projections and decoder as the config needs them.

    Raises: InvalidInputError where the two networks do not go together.
    """
    projections: tuple[tuple[str, int], ...] = ()
    if config.target == "relation":
        heads = target_heads(config, teacher)
        check_heads(student.width, heads, "the teacher's head count")
        student = student.with_last_block_heads(heads)
    elif config.target == "feature" and config.feature == "qkv":
        projections = tuple((name, teacher.width) for name in "qkv")
    else:
        projections = ((config.target, teacher.width),)
    check_pair(config, student, teacher)
    with_decoder = decoder if config.reconstruction_weight else None
    return StudentConfig(student, projections, with_decoder)


def check_pair(config: Distillation, student: ViTConfig, teacher: ViTConfig) -> None:
    """Raises InvalidInputError where tokens of student and teacher cannot be held together."""
    target_block(config, teacher)
    require(
        student.num_tokens == teacher.num_tokens and student.num_special == teacher.num_special,
        f"student and teacher must have equal tokens, got {student.num_tokens} (image "
        f"{student.image_size}, patch {student.patch_size}, {student.num_special} special) and "
        f"{teacher.num_tokens} (image {teacher.image_size}, patch {teacher.patch_size}, "
        f"{teacher.num_special} special)",
    )
    final = config.target == "pooled" or (config.target == "cls" and config.teacher_cls_norm)
    require(
        not final or teacher.final_norm,
        "target 'pooled' and teacher_cls_norm need a teacher with a final norm",
    )
    needs_norm = config.reconstruction_weight or (
        config.target != "relation" and config.student_feature_norm
    )
    require(
        not needs_norm or student.final_norm,
        "student_feature_norm and reconstruction need a student with a final norm",
    )
    if config.mask_ratio:
        num_kept_patches(student.num_patches, config.mask_ratio)


def teacher_names(config: Distillation, teacher: ViTConfig) -> dict[str, str]:
    """The teacher's intermediates that are learned: short name -> name in the ViT."""
    block, last = f"block{target_block(config, teacher)}", f"block{teacher.depth}/block"
    if config.target == "relation":
        return {part: f"{block}/{part}" for part in _parts(config.relations)}
    if config.target == "cls":
        return {"cls": "norm" if config.teacher_cls_norm else last}
    if config.target == "pooled":
        return {"pooled": "norm"}
    if config.feature == "qkv":
        return {part: f"{block}/{part}" for part in "qkv"}
    inside = {"output": last, "ffn_res": f"{block}/block"}
    return {"feature": inside.get(config.feature, f"{block}/{config.feature}")}


def student_names(config: Distillation, student: ViTConfig) -> tuple[dict[str, str], str | None]:
    """The student's intermediates, as `teacher_names`, and the one that is projected."""
    last = f"block{student.depth}"
    if config.target == "relation":
        return {part: f"{last}/{part}" for part in _parts(config.relations)}, None
    feature = "norm" if config.student_feature_norm else f"{last}/block"
    return {"feature": feature}, feature


def _parts(relations: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in "qkv" if any(part in kind for kind in relations))


def teacher_outputs(
    config: Distillation,
    teacher: ViTConfig,
    variables: Any,
    images: jax.Array,
    masking: Masking | None = None,
    drop_path_noise: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """What the frozen teacher gives to learn: nothing of it runs after the target block.

    Args: images normalised float [B, H, W, C]; variables of `ViT(teacher)`.
    Returns: "q", "k", "v", "feature" float [B, T, D]; "cls", "pooled" float [B, D].
    """
    names = teacher_names(config, teacher)
    out: Any = ViT(teacher).apply(
        variables,
        images,
        tuple(names.values()),
        kept_patches=None if masking is None else masking.kept,
        drop_path_noise=drop_path_noise,
    )
    targets = {short: out[name] for short, name in names.items()}
    if config.target == "cls":
        targets["cls"] = targets["cls"][:, 0]
    if config.target == "pooled":
        targets["pooled"] = targets["pooled"][:, teacher.num_special :].mean(axis=1)
    return jax.lax.stop_gradient(targets)


def distillation_losses(
    config: Distillation,
    targets: dict[str, jax.Array],
    outputs: dict[str, jax.Array],
    num_heads: int,
    num_special: int = 1,
) -> dict[str, jax.Array]:
    """The terms of the loss; their sum is minimised.

    Args:
      targets: of `teacher_outputs`.
      outputs: the student's "q", "k", "v" float [B, T, D], or its projections "projected/<name>".
      num_heads: of the relations. num_special: tokens before the patches.
    Returns: name of the term ("qk", "vv"; "feature"; "q", "k", "v"; "cls"; "pooled") -> float32
      [B].
    """
    if config.target == "relation":
        by_head = relation_losses(
            targets,
            outputs,
            num_heads,
            config.relations,
            _relation_loss(config),
            include_cls=config.include_cls,
            heads_at_once=config.heads_at_once,
        )
        return {kind: values.mean(axis=-1) for kind, values in by_head.items()}
    if config.target == "cls":
        prediction = outputs["projected/cls"][:, 0]
        if config.cls_loss == "softmax_kl":
            return {"cls": losses.softmax_kl(targets["cls"], prediction)}
        return {"cls": losses.feature_loss(targets["cls"], prediction, config.beta)}
    if config.target == "pooled":
        prediction = outputs["projected/pooled"][:, num_special:].mean(axis=1)
        error = losses.elementwise(prediction - targets["pooled"], "mse")
        return {"pooled": error.mean(axis=-1)}
    return {
        name: losses.feature_loss(target, outputs[f"projected/{name}"], config.beta)
        for name, target in targets.items()
    }


def _relation_loss(config: Distillation):
    if config.softmax:
        return losses.relation_kl

    def distance(teacher, student):
        return losses.relation_distance(teacher, student, config.relation_distance, config.beta)

    return distance
