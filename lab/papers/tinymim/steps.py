"""The steps of each stage: MAE, distillation, fine-tuning; pure, for streams and whole runs.

A batch is a dict of arrays: "images" normalised float [B, H, W, C], and where it may be padded
"mask" float [B], 0 for a row that does not count. With `axis_name` ("batch" under
`lab.train.devices.compile`) losses are those of the global batch, and every random draw belongs
to an example, whatever the number of devices.

`model_state` holds what never changes: "constants" (fixed position tables) and, of distillation,
"teacher".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lab.errors import require
from lab.nn.drop_path import drop_path_noise
from lab.nn.vit import ViTConfig
from lab.papers.tinymim import losses
from lab.papers.tinymim.distill import (
    Distillation,
    distillation_losses,
    student_names,
    target_heads,
    teacher_outputs,
)
from lab.papers.tinymim.masking import Masking, masking_noise, random_masking
from lab.papers.tinymim.models import (
    MAE,
    Classifier,
    ClassifierConfig,
    MAEConfig,
    Student,
    StudentConfig,
    class_logits,
)
from lab.train.devices import global_index
from lab.train.state import Aux, TrainState
from lab.train.steps import LossFn, Step, make_train_step, mean_over

Terms = dict[str, jax.Array]


def mae_losses(
    model: MAEConfig,
    variables: Any,
    images: jax.Array,
    masking: Masking,
    *,
    normalise: bool = True,
    drop_path_noise: jax.Array | None = None,
) -> jax.Array:
    """MAE's loss of each picture, float32 [B] (He et al., 2022)."""
    out: Any = MAE(model).apply(variables, images, masking, drop_path_noise=drop_path_noise)
    targets = losses.pixel_targets(images, model.encoder.patch_size, normalise=normalise)
    return losses.reconstruction_loss(out["pixels"], targets, masking.removed)


def mae_loss_fn(
    model: MAEConfig,
    mask_ratio: float = 0.75,
    *,
    normalise: bool = True,
    axis_name: str | None = None,
) -> LossFn:
    """The loss of MAE pre-training; a batch may give its masking "noise" float [B, N]."""

    def loss_fn(params, model_state, batch, key):
        images = batch["images"]
        keys = example_keys(key, len(images), axis_name)
        noise = batch.get("noise")
        if noise is None:
            noise = masking_noise(split(keys, 0), model.encoder.num_patches)
        variables = {"params": params, "constants": model_state.get("constants", {})}
        values = mae_losses(
            model,
            variables,
            images,
            random_masking(noise, mask_ratio),
            normalise=normalise,
            drop_path_noise=branch_noise(split(keys, 1), model.encoder),
        )
        return reduced({"reconstruction": values}, batch, model_state, axis_name)

    return loss_fn


def distillation_loss_fn(
    config: Distillation,
    student: StudentConfig,
    teacher: ViTConfig,
    *,
    axis_name: str | None = None,
) -> LossFn:
    """The loss of distillation; teacher variables are `model_state["teacher"]`, or
    `batch["teacher"]` where vmapped copies share one. A batch that holds the "targets" of
    `teacher_outputs` needs no teacher: what copies of a student have in common is made once.

    Both networks see "images"; the teacher "teacher_images" where the batch has them (the student's
    are then a colour-jittered copy). Metrics: each term.
    """
    names, project = student_names(config, student.encoder)
    heads = target_heads(config, teacher) if config.target == "relation" else 0

    def loss_fn(params, model_state, batch, key):
        images = batch["images"]
        keys = example_keys(key, len(images), axis_name)
        masking = None
        if config.mask_ratio:
            noise = masking_noise(split(keys, 0), student.encoder.num_patches)
            masking = random_masking(noise, config.mask_ratio)
        targets = batch.get("targets")
        if targets is None:
            targets = teacher_outputs(
                config,
                teacher,
                batch["teacher"] if "teacher" in batch else model_state["teacher"],
                batch.get("teacher_images", images),
                masking,
                branch_noise(split(keys, 2), teacher),
            )
        out: Any = Student(student).apply(
            {"params": params, "constants": model_state.get("constants", {})},
            images,
            tuple(names.values()),
            masking,
            project=project,
            drop_path_noise=branch_noise(split(keys, 1), student.encoder),
        )
        out |= {short: out[name] for short, name in names.items()}
        terms = distillation_losses(config, targets, out, heads, student.encoder.num_special)
        weights = {}
        if student.decoder is not None and masking is not None:
            pixels = losses.pixel_targets(images, student.encoder.patch_size)
            terms["reconstruction"] = losses.reconstruction_loss(
                out["pixels"], pixels, masking.removed
            )
            weights["reconstruction"] = config.reconstruction_weight
        return reduced(terms, batch, model_state, axis_name, weights)

    return loss_fn


@dataclasses.dataclass(frozen=True)
class TeacherLabels:
    """DeiT's distillation in fine-tuning, for models with a distillation head (or with one head).

    Attributes: alpha, the weight of the teacher's term; is_hard, its decisions or its
      distribution at `temperature`.
    """

    alpha: float = 0.5
    is_hard: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"alpha must be in [0, 1], got {self.alpha}")
        require(self.temperature > 0, f"temperature must be positive, got {self.temperature}")


def deit_terms(
    config: TeacherLabels, base: jax.Array, student_logits: jax.Array, teacher_logits: jax.Array
) -> tuple[Terms, dict[str, float]]:
    """The two terms of DeiT's loss and their weights, (1 - alpha) base + alpha distillation."""
    if config.is_hard:
        learned = losses.hard_distillation(student_logits, teacher_logits)
    else:
        learned = losses.soft_distillation(student_logits, teacher_logits, config.temperature)
    weights = {"cross_entropy": 1 - config.alpha, "distillation": config.alpha}
    return {"cross_entropy": base, "distillation": learned}, weights


def finetune_loss_fn(
    model: ClassifierConfig,
    *,
    label_smoothing: float = 0.1,
    teacher_labels: TeacherLabels | None = None,
    teacher_apply: Callable[[Any, jax.Array], jax.Array] | None = None,
    axis_name: str | None = None,
) -> LossFn:
    """Cross-entropy of a classifier, with soft "targets" float [B, C] (mixup) or int "labels" [B].

    Args:
      label_smoothing: of "labels"; "targets" are taken as they are.
      teacher_labels: DeiT-style distillation from `teacher_apply(model_state["teacher"], images)
        -> logits`.
    """
    given = (teacher_labels is None) == (teacher_apply is None)
    require(given, "teacher_labels and teacher_apply go together")

    def loss_fn(params, model_state, batch, key):
        images = batch["images"]
        noise = branch_noise(example_keys(key, len(images), axis_name), model.backbone)
        variables = {"params": params, "constants": model_state.get("constants", {})}
        out: Any = Classifier(model).apply(variables, images, drop_path_noise=noise)
        targets = batch.get("targets")
        if targets is None:
            targets = losses.smoothed_targets(batch["labels"], model.num_classes, label_smoothing)
        terms = {"cross_entropy": losses.soft_cross_entropy(out["logits"], targets)}
        weights = {}
        if teacher_labels is not None and teacher_apply is not None:
            teacher_logits = teacher_apply(model_state["teacher"], images)
            student_logits = out.get("logits_dist", out["logits"])
            terms, weights = deit_terms(
                teacher_labels, terms["cross_entropy"], student_logits, teacher_logits
            )
        return reduced(terms, batch, model_state, axis_name, weights)

    return loss_fn


def make_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, *, axis_name: str | None = None
) -> Step:
    """`lab.train.make_train_step` for the losses of this file, which change no `model_state`.

    The teacher and the tables stay out of the devices' exchange and out of the gradient.
    """

    def inner_loss(params, _, inputs, key):
        frozen, batch = inputs
        loss, aux = loss_fn(params, frozen, batch, key)
        return loss, aux.replace(model_state={})

    inner = make_train_step(inner_loss, tx, axis_name=axis_name)

    def step(state: TrainState, batch) -> tuple[TrainState, Terms]:
        frozen = state.model_state
        new, metrics = inner(state.replace(model_state={}), (frozen, batch))
        return new.replace(model_state=frozen), metrics

    return step


def make_distillation_step(
    config: Distillation,
    student: StudentConfig,
    teacher: ViTConfig,
    tx: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
) -> Step:
    """The distillation step (`distillation_loss_fn`); give `tx` the `optimizers.moving_parts`."""
    loss_fn = distillation_loss_fn(config, student, teacher, axis_name=axis_name)
    return make_step(loss_fn, tx, axis_name=axis_name)


def make_classifier_eval(
    model: ClassifierConfig, *, axis_name: str | None = None
) -> Callable[[TrainState, Any], Terms]:
    """`eval_step(state, batch) -> {"loss", "accuracy"}`, means over the batch's real rows."""

    def evaluate(state, batch):
        variables = {"params": state.params, "constants": state.model_state.get("constants", {})}
        out: Any = Classifier(model).apply(variables, batch["images"])
        logits = class_logits(out)
        values = {
            "loss": optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]),
            "accuracy": (logits.argmax(axis=-1) == batch["labels"]).astype(jnp.float32),
        }
        return {k: mean_over(v, batch.get("mask"), axis_name) for k, v in values.items()}

    return evaluate


def reduced(
    terms: Terms,
    batch: Any,
    model_state: Any,
    axis_name: str | None,
    weights: dict[str, float] | None = None,
) -> tuple[jax.Array, Aux]:
    """Weighted sum of the terms' means over real rows of all devices; each term is a metric."""
    means = {name: mean_over(x, batch.get("mask"), axis_name) for name, x in terms.items()}
    weights = weights or {}
    first, *others = (weights.get(name, 1.0) * mean for name, mean in means.items())
    return sum(others, start=first), Aux(metrics=means, model_state=model_state)


def example_keys(key: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """A key an example, by its place in the global batch."""
    places = jnp.arange(count) if axis_name is None else global_index(count, axis_name)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def split(keys: jax.Array, use: int) -> jax.Array:
    """The examples' keys for one of several uses."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, use)


def branch_noise(keys: jax.Array, config: ViTConfig) -> jax.Array | None:
    """Drop path noise, or None where the network drops nothing."""
    return drop_path_noise(keys, config.depth) if config.drop_path_rate > 0 else None
