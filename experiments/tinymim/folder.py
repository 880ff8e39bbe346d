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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from experiments.command import Options, guarded, parse
from experiments.progress import console, shown
from lab.data.augment import MixConfig
from lab.data.folders import ImageFolder, image_folder
from lab.data.streams import in_order, stream
from lab.errors import require
from lab.files import held_alone
from lab.interop import load_checkpoint, save_safetensors
from lab.nn.vit import ViTConfig, vit_config
from lab.papers import tinymim
from lab.papers.tinymim.views import (
    FinetuningViews,
    distillation_views,
    evaluation_views,
    finetuning_views,
    pretraining_views,
    with_views,
)
from lab.report import Run
from lab.train import Checkpoints, Fitted, fit, state_of
from lab.train.schedules import scaled_rate, warmup_cosine

AXIS = "batch"
WEIGHTS = "student.safetensors"


@dataclasses.dataclass(frozen=True)
class Common:
    """What the three commands share."""

    folder: Path
    """Folder of pictures, or of one folder of pictures a class."""
    size: str = "T"
    """The network: T, S, B or L. Of given weights their own."""
    image_size: int = 224
    """Side of what the network sees, pixels."""
    epochs: float = 100.0
    """Passes over the pictures."""
    batch_size: int = 64
    """Pictures a step, of all devices and hosts together."""
    accumulate: int = 1
    """Steps whose gradients are averaged for one update."""
    warmup_epochs: float = 5.0
    """Passes in which the learning rate rises."""
    weight_decay: float = 0.05
    """Decoupled decay of weights."""
    canvas: int = 256
    """Pictures are scaled down to fit into a square of this side when they are read."""
    num_workers: int = 0
    """Processes that read pictures; 0 reads in threads."""
    save_every: int = 200
    """Steps between checkpoints."""
    dtype: str = ""
    """Of activations; by default float32 on a CPU and bfloat16 elsewhere."""
    remat: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    seed: int = 0
    """Of initialisation, order and augmentation."""


@dataclasses.dataclass(frozen=True)
class Pretrain(Common):
    """Goes on with MAE pre-training from weights, or begins it."""

    weights: Path | None = None
    """Weights to go on from (official MAE, with or without decoder, timm); none begins anew."""
    base_rate: float = 1.5e-4
    """Learning rate a batch of 256."""
    mask_ratio: float = 0.75
    """Share of the patches that is hidden."""


@dataclasses.dataclass(frozen=True)
class Distill(Common):
    """Distils a small ViT from a teacher's weights; no labels are used."""

    teacher: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """The teacher's weights: official MAE or TinyMIM (.pth), timm or DINOv2 (.safetensors)."""
    teacher_heads: int | None = None
    """Heads of the teacher, if not those of the usual ViT of its width."""
    student_heads: int | None = None
    """Heads of the student's blocks while it is distilled; by default the usual ones."""
    distillation: tinymim.Distillation = dataclasses.field(default_factory=tinymim.Distillation)
    """What is distilled."""
    drop_path: float = 0.1
    """Of the student, in all blocks but the last."""
    base_rate: float = 1.5e-4
    """Learning rate a batch of 256."""


@dataclasses.dataclass(frozen=True)
class Finetune(Common):
    """Trains a classifier on class folders, from weights."""

    weights: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """Weights to start from, such as those that `distill` writes."""
    test_folder: Path | None = None
    """Class folders to measure accuracy on; the training ones where none is given."""
    num_heads: int | None = None
    """Heads of all blocks, if not those of the usual ViT of this width."""
    base_rate: float = 1e-3
    """Learning rate a batch of 256."""
    layer_decay: float = 0.75
    """Factor of the rate from each layer to the one below it."""
    drop_path: float = 0.0
    """Of the last block, rising linearly from 0."""
    mixing: bool = True
    """Mixup and cutmix."""
    eval_every: int = 500
    """Steps between evaluations; the best checkpoint is kept."""


def pretrain(args: list[str]) -> int:
    """`python -m experiments.tinymim pretrain`."""
    return _verb("pretrain", Pretrain, _pretrain, args)


def distill(args: list[str]) -> int:
    """`python -m experiments.tinymim distill`."""
    return _verb("distill", Distill, _distill, args)


def finetune(args: list[str]) -> int:
    """`python -m experiments.tinymim finetune`."""
    return _verb("finetune", Finetune, _finetune, args)


def _verb(verb: str, kind: type, work: Callable[[Any, Run], None], args: list[str]) -> int:
    flat = tyro.conf.arg(name="")
    command = dataclasses.make_dataclass(
        "Command", [("config", Annotated[kind, flat]), ("options", Annotated[Options, flat])]
    )
    about = (kind.__doc__ or "").strip()
    parsed = parse(command, args, prog=f"python -m experiments.tinymim {verb}", description=about)
    config, options = parsed.config, parsed.options
    folder = options.runs_dir / "tinymim" / f"{verb}-{options.name}"

    def action() -> int:
        with (
            held_alone(folder.with_name(f".{folder.name}.lock")),
            shown(console()) as reporter,
        ):
            run = Run.open(
                options.runs_dir, "tinymim", verb, options.name, config,
                resume=options.resume, reporter=reporter,
            )  # fmt: skip
            work(config, run)
        return 0

    return guarded(action, args)


def _pretrain(config: Pretrain, run: Run) -> None:
    source = _pictures(config)
    encoder, given = _network(config, config.weights)
    model = tinymim.MAEConfig(dataclasses.replace(encoder, position="fixed", final_norm=True))
    loaded = None
    if given is not None:
        loaded, _ = tinymim.from_official(given, model, strict=False)
        loaded = tinymim.relayout(loaded, scan=True)
    variables = tinymim.init_variables(model, jax.random.key(config.seed), loaded)
    tx = tinymim.pretraining_adamw(
        _rate(config, source), weight_decay=config.weight_decay, accumulate=config.accumulate
    )
    loss_fn = tinymim.mae_loss_fn(model, config.mask_ratio, axis_name=AXIS)
    step = with_views(
        tinymim.make_step(loss_fn, tx, axis_name=AXIS),
        functools.partial(pretraining_views, size=config.image_size),
        axis_name=AXIS,
    )
    fitted = _fit(config, run, step, variables, tx, source)
    _export(run, fitted, model.encoder)


def _distill(config: Distill, run: Run) -> None:
    source = _pictures(config)
    arrays = load_checkpoint(_given(config.teacher, "--teacher"))
    teacher = tinymim.vit_config_of(
        arrays, image_size=config.image_size, num_heads=config.teacher_heads, **_options(config)
    )
    student = vit_config(
        config.size,
        image_size=config.image_size,
        patch_size=teacher.patch_size,
        drop_path_rate=config.drop_path,
        drop_path_schedule="all_but_last",
        **({"num_heads": config.student_heads} if config.student_heads else {}),
        **_options(config),
    )
    model = tinymim.student_config(config.distillation, student, teacher)
    variables = tinymim.init_variables(model, jax.random.key(config.seed))
    variables["teacher"], _ = tinymim.from_official(arrays, teacher)
    tx = tinymim.pretraining_adamw(
        _rate(config, source),
        weight_decay=config.weight_decay,
        moves=tinymim.moving_parts(config.distillation, model),
        accumulate=config.accumulate,
    )
    step = with_views(
        tinymim.make_distillation_step(config.distillation, model, teacher, tx, axis_name=AXIS),
        functools.partial(distillation_views, size=config.image_size),
        axis_name=AXIS,
    )
    fitted = _fit(config, run, step, variables, tx, source)
    _export(run, fitted, model.encoder)


def _finetune(config: Finetune, run: Run) -> None:
    source = _pictures(config)
    require(source.labels is not None, f"{config.folder} has no class folders to learn from")
    test = source if config.test_folder is None else image_folder(config.test_folder)
    require(
        test.classes == source.classes,
        f"{config.test_folder} and {config.folder} must have the same class folders",
    )
    arrays = load_checkpoint(_given(config.weights, "--weights"))
    encoder = tinymim.vit_config_of(arrays, num_heads=config.num_heads, **_options(config))
    loaded, _ = tinymim.from_official(arrays, encoder)
    backbone = tinymim.finetuning_backbone(
        encoder, image_size=config.image_size, drop_path_rate=config.drop_path
    )
    classifier = tinymim.ClassifierConfig(backbone, len(source.classes))
    variables = tinymim.start_classifier(loaded, classifier, jax.random.key(config.seed))
    tx = tinymim.finetuning_adamw(
        _rate(config, source),
        backbone,
        layer_decay_rate=config.layer_decay,
        weight_decay=config.weight_decay,
        accumulate=config.accumulate,
    )
    views = functools.partial(
        finetuning_views,
        size=config.image_size,
        num_classes=len(source.classes),
        config=FinetuningViews(mixing=MixConfig() if config.mixing else None),
    )
    loss_fn = tinymim.finetune_loss_fn(classifier, axis_name=AXIS)
    step = with_views(tinymim.make_step(loss_fn, tx, axis_name=AXIS), views, axis_name=AXIS)
    evaluate = _evaluation(config, classifier, test)
    fitted = _fit(
        config, run, step, variables, tx, source, evaluate=evaluate, eval_every=config.eval_every
    )
    _export(run, fitted, classifier)


def _evaluation(config: Finetune, classifier: tinymim.ClassifierConfig, test: ImageFolder):
    """`state -> {"accuracy"}` over the whole test folder."""
    evaluate = tinymim.make_classifier_eval(classifier)

    @jax.jit
    def hits(state, raw):
        batch = evaluation_views(raw, size=config.image_size)
        return evaluate(state, batch)["accuracy"] * raw["mask"].sum()

    def accuracy(state) -> dict[str, float]:
        batches = in_order(test, config.batch_size, num_workers=config.num_workers)
        return {"accuracy": sum(float(hits(state, raw)) for raw in batches) / len(test)}

    return accuracy


def _pictures(config: Common) -> ImageFolder:
    source = image_folder(config.folder, canvas=config.canvas)
    require(
        len(source) >= config.batch_size,
        f"{config.folder} has {len(source)} pictures, fewer than a batch: lower --batch-size "
        f"({config.batch_size})",
    )
    return source


def _given(path: Path, name: str) -> Path:
    require(path != Path(), f"give the weights: {name} FILE")
    require(path.is_file(), f"{name} {path} is not a file")
    return path


def _options(config: Common) -> dict[str, Any]:
    """How the networks are run."""
    default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return {"scan": True, "remat": config.remat, "dtype": config.dtype or default}


def _network(config: Common, weights: Path | None) -> tuple[ViTConfig, Mapping[str, Any] | None]:
    """The network of the weights, or of the size, and the weights."""
    if weights is None:
        return vit_config(config.size, image_size=config.image_size, **_options(config)), None
    arrays = load_checkpoint(_given(weights, "--weights"))
    return tinymim.vit_config_of(arrays, image_size=config.image_size, **_options(config)), arrays


def _steps(config: Common, source: ImageFolder) -> tuple[int, int]:
    """(of an epoch, of all)"""
    per_epoch = len(source) // config.batch_size
    return per_epoch, max(1, round(config.epochs * per_epoch))


def _rate(config: Any, source: ImageFolder):
    """The schedule, of updates."""
    per_epoch, num_steps = _steps(config, source)
    warmup = min(config.warmup_epochs * per_epoch, num_steps / 2)
    peak = scaled_rate(config.base_rate, config.batch_size * config.accumulate)
    return warmup_cosine(peak, warmup / config.accumulate, num_steps / config.accumulate)


def _fit(config: Common, run: Run, step, variables, tx, source: ImageFolder, **options) -> Fitted:
    """Streams the folder through the step, with checkpoints."""
    scored = {"best": lambda metrics: metrics["accuracy"]} if "evaluate" in options else {}
    return fit(
        step,
        state_of(variables, tx, jax.random.key(config.seed + 1)),
        stream(source, config.batch_size, seed=config.seed, num_workers=config.num_workers),
        num_steps=_steps(config, source)[1],
        checkpoints=Checkpoints(run.checkpoints, **scored),
        save_every=config.save_every,
        log=run,
        **options,
    )


def _export(run: Run, fitted: Fitted, model: Any) -> None:
    """Writes timm's layout and says where."""
    variables = {"params": fitted.state.params, **fitted.state.model_state}
    if isinstance(model, ViTConfig):
        variables = tinymim.encoder_of(variables)
    arrays = tinymim.to_official(variables, model, naming="timm")
    path = run.folder / WEIGHTS
    save_safetensors(path, {name: np.asarray(x) for name, x in arrays.items()})
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in fitted.metrics.items())
    print(f"{fitted.step} steps, {fitted.steps_per_second:.3g} steps/s, "
          f"{fitted.waiting_share:.1%} of the time waiting for pictures; {metrics}")  # fmt: skip
    print(f"weights: {path}")
