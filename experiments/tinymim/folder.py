"""A folder of one's own pictures: pre-train, distil from a public teacher, fine-tune.

    python -m experiments.tinymim pretrain --folder pictures --size S
    python -m experiments.tinymim distill --folder pictures --teacher mae_pretrain_vit_base.pth \\
        --size T
    python -m experiments.tinymim finetune --folder classes/train --test-folder classes/val \\
        --weights runs/tinymim/distill-default/student.safetensors

Each resumes with --resume, stops cleanly on Ctrl-C, runs on all devices, and writes weights that
timm's `VisionTransformer` loads.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import jax
import tyro

from experiments.tinymim.verbs import (
    AXIS,
    Training,
    export,
    fit_stream,
    given,
    optimizer_options,
    run_verb,
    running,
)
from lab.data.augment import MixConfig
from lab.data.folders import ImageFolder, image_folder
from lab.data.streams import in_order
from lab.errors import require
from lab.interop import load_checkpoint
from lab.nn.vit import ViTConfig, vit_config
from lab.papers import tinymim
from lab.papers.tinymim.convert import payload
from lab.papers.tinymim.stages import SCRATCH, FinetuningRecipe, finetuning_recipe
from lab.papers.tinymim.views import (
    FinetuningViews,
    distillation_views,
    evaluation_views,
    finetuning_views,
    pretraining_views,
    with_views,
)
from lab.report import Run
from lab.train import Fitted
from lab.train.optimizers import averaged_params
from lab.train.schedules import scaled_rate, warmup_cosine

WEIGHTS = "student.safetensors"


@dataclasses.dataclass(frozen=True)
class Common(Training):
    """What the three commands share."""

    size: Literal["T", "S", "B", "L", "T*"] = "T"
    """The network. Of given weights their own."""
    image_size: int = 224
    """Side of what the network sees, pixels."""
    warmup_epochs: float = 5.0
    """Passes in which the learning rate rises."""


@dataclasses.dataclass(frozen=True)
class WithoutLabels(Common):
    """What pre-training and distillation share."""

    epochs: float = 100.0
    """Passes over the pictures."""
    base_rate: float = 1.5e-4
    """Learning rate a batch of 256."""


@dataclasses.dataclass(frozen=True)
class Pretrain(WithoutLabels):
    """Goes on with MAE pre-training from weights, or begins it."""

    weights: Path | None = None
    """Weights to go on from (official MAE, with or without decoder, timm); none begins anew."""
    mask_ratio: float = 0.75
    """Share of the patches that is hidden."""
    normalise: bool = True
    """Predict the pixels of each patch standardised by its own mean and deviation."""


@dataclasses.dataclass(frozen=True)
class Distill(WithoutLabels):
    """Distils a small ViT from a teacher's weights; no labels are used."""

    teacher: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """The teacher's weights: official MAE or TinyMIM (.pth), timm or DINOv2 (.safetensors)."""
    teacher_heads: int | None = None
    """Heads of the teacher, if not those of the usual ViT of its width."""
    student_heads: int | None = None
    """Heads of the student's blocks while it is distilled; by default those of the released
    distillation (6 for T and S, 12 for B). The last block takes the teacher's."""
    distillation: tinymim.Distillation = dataclasses.field(default_factory=tinymim.Distillation)
    """What is distilled."""
    drop_path: float = 0.1
    """Of the student, in all blocks but the last."""
    teacher_drop_path: float = 0.0
    """Of the teacher."""


@dataclasses.dataclass(frozen=True)
class Finetune(Common):
    """Trains a classifier on class folders, from weights or from scratch."""

    weights: Path | None = None
    """Weights to start from, such as those that `distill` writes; none trains from scratch."""
    test_folder: Path | None = None
    """Class folders to measure accuracy on; the training ones where none is given."""
    num_heads: int | None = None
    """Heads of all blocks, if not those of the usual ViT of this width."""
    pooling: Literal["global", "cls"] = "global"
    """What the head sees: the mean of the patch tokens, or the class token."""
    epochs: float | None = None
    """Passes over the pictures; by default, as the next three, the recipe's of the network's size,
    or of training from scratch."""
    base_rate: float | None = None
    """Learning rate a batch of 256."""
    layer_decay: float | None = None
    """Factor of the rate from each layer to the one below it."""
    drop_path: float | None = None
    """Of the last block, rising linearly from 0."""
    label_smoothing: float = 0.1
    """Share of the target that goes to all classes alike."""
    crop_scale: float = 0.08
    """Smallest share of a picture's area that a crop takes."""
    randaugment: bool = True
    """Two random operations of magnitude 9 a picture."""
    erasing: float = 0.25
    """How often a box of a picture is replaced by noise."""
    mixing: MixConfig = dataclasses.field(default_factory=MixConfig)
    """Mixup and cutmix."""
    ema_decay: float | None = None
    """Of a moving average of the weights, which is then tested and kept."""
    deit_teacher: Path | None = None
    """A fine-tuned classifier's weights to learn from as well (DeiT), for starred models."""
    deit: tinymim.TeacherLabels = dataclasses.field(default_factory=tinymim.TeacherLabels)
    """How its decisions count."""
    eval_every: int = 500
    """Steps between evaluations; the best checkpoint is kept."""


def pretrain(args: list[str]) -> int:
    """`python -m experiments.tinymim pretrain`."""
    return run_verb("pretrain", Pretrain, _pretrain, args)


def distill(args: list[str]) -> int:
    """`python -m experiments.tinymim distill`."""
    return run_verb("distill", Distill, _distill, args)


def finetune(args: list[str]) -> int:
    """`python -m experiments.tinymim finetune`."""
    return run_verb("finetune", Finetune, _finetune, args)


def _pretrain(config: Pretrain, run: Run) -> None:
    source = image_folder(config.folder, canvas=config.canvas)
    encoder, weights = _network(config, config.weights)
    model = tinymim.MAEConfig(dataclasses.replace(encoder, position="fixed", final_norm=True))
    loaded = None
    if weights is not None:
        loaded, _ = tinymim.from_official(weights, model, strict=False)
        loaded = tinymim.relayout(loaded, scan=True)
    variables = tinymim.init_variables(model, jax.random.key(config.seed), loaded)
    schedule = Schedule.of(config, len(source), config.epochs, config.base_rate)
    tx = tinymim.pretraining_adamw(schedule.rate, **optimizer_options(config))
    loss_fn = tinymim.mae_loss_fn(
        model, config.mask_ratio, normalise=config.normalise, axis_name=AXIS
    )
    step = with_views(
        tinymim.make_step(loss_fn, tx, axis_name=AXIS),
        functools.partial(pretraining_views, size=config.image_size),
        axis_name=AXIS,
    )
    fitted = fit_stream(config, run, step, variables, tx, source, schedule.num_steps)
    _export(run, fitted, fitted.state.params, model.encoder)


def _distill(config: Distill, run: Run) -> None:
    source = image_folder(config.folder, canvas=config.canvas)
    arrays = load_checkpoint(given(config.teacher, "--teacher"))
    teacher = tinymim.vit_config_of(
        arrays,
        image_size=config.image_size,
        num_heads=config.teacher_heads,
        drop_path_rate=config.teacher_drop_path,
        drop_path_schedule="all_but_last",
        **running(config),
    )
    student = distilled_student(config, teacher.patch_size)
    model = tinymim.student_config(config.distillation, student, teacher)
    variables = tinymim.init_variables(model, jax.random.key(config.seed))
    variables["teacher"], _ = tinymim.from_official(arrays, teacher)
    schedule = Schedule.of(config, len(source), config.epochs, config.base_rate)
    moves = tinymim.moving_parts(config.distillation, model)
    tx = tinymim.pretraining_adamw(schedule.rate, moves=moves, **optimizer_options(config))
    step = with_views(
        tinymim.make_distillation_step(config.distillation, model, teacher, tx, axis_name=AXIS),
        functools.partial(distillation_views, size=config.image_size),
        axis_name=AXIS,
    )
    fitted = fit_stream(config, run, step, variables, tx, source, schedule.num_steps)
    _export(run, fitted, fitted.state.params, model.encoder)


def distilled_student(config: Distill, patch_size: int) -> ViTConfig:
    """The student, before its last block takes the teacher's heads."""
    released = {stage.size: stage.heads for stage in tinymim.STAGES}
    heads = config.student_heads or released.get(config.size)
    return vit_config(
        config.size,
        image_size=config.image_size,
        patch_size=patch_size,
        drop_path_rate=config.drop_path,
        drop_path_schedule="all_but_last",
        **({"num_heads": heads} if heads else {}),
        **running(config),
    )


def _finetune(config: Finetune, run: Run) -> None:
    source, test = labelled_folders(config)
    backbone, loaded = _backbone(config)
    recipe = _recipe(config, backbone.width)
    backbone = dataclasses.replace(backbone, drop_path_rate=recipe.drop_path)
    classifier = tinymim.ClassifierConfig(backbone, len(source.classes), pooling=config.pooling)
    key = jax.random.key(config.seed)
    variables = (
        tinymim.init_variables(classifier, key)
        if loaded is None
        else tinymim.start_classifier(loaded, classifier, key)
    )
    if config.deit_teacher is not None:
        teacher, variables["teacher"] = load_classifier(
            config.deit_teacher, "--deit-teacher", len(source.classes), config
        )
    schedule = Schedule.of(config, len(source), recipe.epochs, recipe.base_rate, recipe.min_rate)
    tx = tinymim.finetuning_adamw(
        schedule.rate,
        backbone,
        layer_decay_rate=recipe.layer_decay,
        ema_decay=config.ema_decay,
        **optimizer_options(config),
    )
    learned = {}
    if config.deit_teacher is not None:
        learned = {"teacher_labels": config.deit, "teacher_apply": logits_of(teacher)}
    loss_fn = tinymim.finetune_loss_fn(classifier, axis_name=AXIS, **learned)
    step = with_views(
        tinymim.make_step(loss_fn, tx, axis_name=AXIS),
        _finetuning_views(config, len(source.classes)),
        axis_name=AXIS,
    )
    fitted = fit_stream(
        config, run, step, variables, tx, source, schedule.num_steps, score="accuracy",
        evaluate=_evaluation(config, classifier, test), eval_every=config.eval_every,
    )  # fmt: skip
    _export(run, fitted, _tested_params(config, fitted.state), classifier)


def _recipe(config: Finetune, width: int) -> FinetuningRecipe:
    """The size's recipe, or that of training from scratch, with what the command line says."""
    recipe = SCRATCH if config.weights is None else finetuning_recipe(width)
    names = ("epochs", "base_rate", "layer_decay", "drop_path")
    told = {name: getattr(config, name) for name in names}
    return dataclasses.replace(recipe, **{k: v for k, v in told.items() if v is not None})


def labelled_folders(config: Finetune) -> tuple[ImageFolder, ImageFolder]:
    """The class folders to train on and to test on. Raises: InvalidInputError."""
    source = image_folder(config.folder, canvas=config.canvas)
    require(source.labels is not None, f"{config.folder} has no class folders to learn from")
    if config.test_folder is None:
        return source, source
    test = image_folder(config.test_folder, canvas=config.canvas)
    require(
        test.classes == source.classes,
        f"{config.test_folder} and {config.folder} must have the same class folders",
    )
    return source, test


def _backbone(config: Finetune) -> tuple[ViTConfig, Mapping[str, Any] | None]:
    """The classifier's ViT, and the encoder's variables where weights are given."""
    options = {"image_size": config.image_size, "pooling": config.pooling}
    if config.weights is None:
        heads = {"num_heads": config.num_heads} if config.num_heads else {}
        encoder = vit_config(config.size, **heads, **running(config))
        return tinymim.finetuning_backbone(encoder, **options), None
    arrays = load_checkpoint(given(config.weights, "--weights"))
    encoder = tinymim.vit_config_of(arrays, num_heads=config.num_heads, **running(config))
    loaded, _ = tinymim.from_official(arrays, encoder)
    return tinymim.finetuning_backbone(encoder, **options), loaded


def load_classifier(path: Path, option: str, num_classes: int | None, config: Any):
    """A fine-tuned classifier from its file: (its config, its variables).

    Args:
      option: its name on the command line, for messages.
      num_classes: that its head must have; None takes any.
      config: with image_size and how networks are run; num_heads, where it has it.
    Raises: InvalidInputError, CheckpointError.
    """
    arrays = payload(load_checkpoint(given(path, option)))
    require("head.weight" in arrays, f"{option} {path} has no head: fine-tune it first")
    classes = len(arrays["head.weight"])
    require(
        num_classes in (None, classes),
        f"{option} {path} knows {classes} classes, the folder has {num_classes}",
    )
    pooling = "global" if "fc_norm.weight" in arrays else "cls"
    encoder = tinymim.vit_config_of(
        arrays, num_heads=getattr(config, "num_heads", None), **running(config)
    )
    backbone = tinymim.finetuning_backbone(encoder, image_size=config.image_size, pooling=pooling)
    classifier = tinymim.ClassifierConfig(backbone, classes, pooling=pooling)
    variables, _ = tinymim.from_official(arrays, classifier)
    return classifier, variables


def logits_of(classifier: tinymim.ClassifierConfig):
    """`(variables, normalised images) -> logits` of a classifier."""

    def logits(variables, images):
        return tinymim.class_logits(tinymim.Classifier(classifier).apply(variables, images))

    return logits


def _finetuning_views(config: Finetune, num_classes: int):
    views = FinetuningViews(
        config.crop_scale, config.randaugment, config.erasing, config.mixing, config.label_smoothing
    )
    return functools.partial(
        finetuning_views, size=config.image_size, num_classes=num_classes, config=views
    )


def _tested_params(config: Finetune, state: Any) -> Any:
    """The parameters, or their moving average where there is one."""
    return state.params if config.ema_decay is None else averaged_params(state.opt_state)


def _evaluation(config: Finetune, classifier: tinymim.ClassifierConfig, test: ImageFolder):
    """`state -> {"accuracy"}` over the whole test folder."""
    evaluate = tinymim.make_classifier_eval(classifier)

    @jax.jit
    def hits(state, raw):
        batch = evaluation_views(raw, size=config.image_size)
        return evaluate(state, batch)["accuracy"] * raw["mask"].sum()

    def accuracy(state) -> dict[str, float]:
        tested = state.replace(params=_tested_params(config, state), opt_state=())
        batches = in_order(test, config.batch_size, num_workers=config.num_workers)
        return {"accuracy": sum(float(hits(tested, raw)) for raw in batches) / len(test)}

    return accuracy


def _network(config: Common, weights: Path | None) -> tuple[ViTConfig, Mapping[str, Any] | None]:
    """The network of the weights, or of the size, and the weights."""
    options = {"image_size": config.image_size, **running(config)}
    if weights is None:
        return vit_config(config.size, **options), None
    arrays = load_checkpoint(given(weights, "--weights"))
    return tinymim.vit_config_of(arrays, **options), arrays


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast: num_steps batches; rate, of updates."""

    num_steps: int
    rate: Any

    @classmethod
    def of(
        cls, config: Common, count: int, epochs: float, base_rate: float, min_rate: float = 0.0
    ) -> Self:
        """Of `count` pictures; base_rate is that of a batch of 256."""
        per_epoch = max(1, count // config.batch_size)
        num_steps = max(1, round(epochs * per_epoch))
        warmup = min(config.warmup_epochs * per_epoch, num_steps / 2)
        peak = scaled_rate(base_rate, config.batch_size * config.accumulate)
        updates = num_steps / config.accumulate
        return cls(
            num_steps, warmup_cosine(peak, warmup / config.accumulate, updates, min(min_rate, peak))
        )


def _export(run: Run, fitted: Fitted, params: Any, model: Any) -> None:
    """Writes timm's layout."""
    variables = {"params": params, **fitted.state.model_state}
    variables.pop("teacher", None)
    if isinstance(model, ViTConfig):
        variables = tinymim.encoder_of(variables)
    export(run.folder / WEIGHTS, tinymim.to_official(variables, model, naming="timm"), fitted)
