"""What the commands on one's own data share: options, the run folder, streaming, weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from experiments.command import Options, guarded, parse
from experiments.progress import console, shown
from lab.data.streams import Source, stream
from lab.errors import require
from lab.files import held_alone
from lab.interop import save_safetensors
from lab.report import Run
from lab.train import Checkpoints, Fitted, fit, state_of

AXIS = "batch"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a folder is read and a network is run."""

    folder: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """Folder of pictures, or of one folder of pictures a class."""
    batch_size: int = 64
    """Pictures a step, of all devices and hosts together."""
    canvas: int = 256
    """Pictures are scaled down to fit into a square of this side when they are read."""
    num_workers: int = 0
    """Processes that read pictures; 0 reads in threads."""
    dtype: str = ""
    """Of activations; by default float32 on a CPU and bfloat16 elsewhere."""
    seed: int = 0
    """Of initialisation, order and augmentation."""


@dataclasses.dataclass(frozen=True)
class Training(Reading):
    """How a network is trained on a folder."""

    accumulate: int = 1
    """Steps whose gradients are averaged for one update."""
    weight_decay: float = 0.05
    """Decoupled decay of weights."""
    clip_norm: float | None = None
    """Largest global norm of a gradient; none clips nothing, as released."""
    save_every: int = 200
    """Steps between checkpoints."""
    remat: bool = False
    """Compute activations again in the backward pass instead of keeping them."""


def run_verb(verb: str, kind: type, work: Callable[[Any, Run], None], args: list[str]) -> int:
    """Parses a command's options (a dataclass), opens its run folder and does its work.

    Returns: the exit code.
    """
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


def given(path: Path | None, name: str) -> Path:
    """The path of an option that must be there. Raises: InvalidInputError naming the option."""
    require(path is not None and path != Path(), f"give the weights: {name} FILE")
    require(path.is_file(), f"{name} {path} is not a file")
    return path


def running(config: Reading) -> dict[str, Any]:
    """How the networks are run, as options of a `ViTConfig`."""
    default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    remat = getattr(config, "remat", False)
    return {"scan": True, "remat": remat, "dtype": config.dtype or default}


def optimizer_options(config: Training) -> dict[str, Any]:
    """Options that every optimizer here takes."""
    return {
        "weight_decay": config.weight_decay,
        "accumulate": config.accumulate,
        "clip_norm": config.clip_norm,
    }


def fit_stream(
    config: Training, run: Run, step, variables, tx, source: Source, num_steps: int, **options
) -> Fitted:
    """Streams a source through the step, with checkpoints.

    Args: options, `score` (the name of the metric by which the best checkpoint is kept) and those
      of `lab.train.fit`.
    """
    require(
        len(source) >= config.batch_size,
        f"{config.folder} has {len(source)} pictures, fewer than a batch: lower --batch-size "
        f"({config.batch_size})",
    )
    score = options.pop("score", None)
    scored = {} if score is None else {"best": lambda metrics: metrics[score]}
    return fit(
        step,
        state_of(variables, tx, jax.random.key(config.seed + 1)),
        stream(source, config.batch_size, seed=config.seed, num_workers=config.num_workers),
        num_steps=num_steps,
        checkpoints=Checkpoints(run.checkpoints, **scored),
        save_every=config.save_every,
        log=run,
        **options,
    )


def export(path: Path, arrays: dict[str, Any], fitted: Fitted) -> None:
    """Writes weights and says where, and how the training went."""
    save_safetensors(path, {name: np.asarray(x) for name, x in arrays.items()})
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in fitted.metrics.items())
    print(f"{fitted.step} steps, {fitted.steps_per_second:.3g} steps/s, "
          f"{fitted.waiting_share:.1%} of the time waiting for pictures; {metrics}")  # fmt: skip
    print(f"weights: {path}")
