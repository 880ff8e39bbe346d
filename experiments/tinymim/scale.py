"""Full size: parameter counts, multiply-adds, what a distillation step costs, waiting for data."""

import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.tinymim import Config
from lab.data import locate
from lab.data.folders import image_archive
from lab.data.streams import stream
from lab.errors import require
from lab.nn.vit import ViTConfig, multiply_adds, vit_config
from lab.papers import tinymim
from lab.papers.tinymim.distill import target_block, teacher_outputs
from lab.papers.tinymim.stages import Stage
from lab.papers.tinymim.views import distillation_views, with_views
from lab.train import TrainState, fit, state_of
from lab.train.steps import Step

SIZES = ("T", "S", "B", "L", "T*")
TURN_SECONDS = 15.0
PEAK_SIDE = 2048


def model_sizes() -> list[dict[str, Any]]:
    """Parameters and multiply-adds of every model, by shapes alone: nothing is computed."""
    rows = []
    for size in SIZES:
        encoder = vit_config(size)
        classifier = tinymim.ClassifierConfig(tinymim.finetuning_backbone(encoder))
        whole = tinymim.MAEConfig(encoder) if size != "T*" else None
        rows.append(
            {
                "size": size,
                "encoder": count(tinymim.variable_shapes(encoder)),
                "classifier": count(tinymim.variable_shapes(classifier)["params"]),
                "mae": None if whole is None else count(tinymim.variable_shapes(whole)),
                "multiply_adds": multiply_adds(encoder),
            }
        )
    return rows


def count(variables: Any) -> int:
    """Numbers in a pytree of shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables))


def stage_of(size: str) -> Stage:
    """The released distillation of a student's size. Raises: InvalidInputError."""
    stages = {stage.size: stage for stage in tinymim.STAGES}
    require(size in stages, f"a student is one of {', '.join(stages)}, got {size!r}")
    return stages[size]


@dataclasses.dataclass(frozen=True)
class Full:
    """The released distillation of a size, with fresh networks."""

    what: tinymim.Distillation
    model: tinymim.StudentConfig
    teacher: ViTConfig

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer; only what gets a gradient has moments that move."""
        return tinymim.pretraining_adamw(1e-4, moves=tinymim.moving_parts(self.what, self.model))

    @property
    def multiply_adds(self) -> float:
        """Of a step a picture, the backward pass as two forward ones."""
        student = self.model.encoder
        share = _share_until(self.teacher.depth, target_block(self.what, self.teacher))
        own = _share_until(student.depth, student.depth)
        return share * multiply_adds(self.teacher) + 3 * own * multiply_adds(student)

    def step(self, axis_name: str | None = None) -> Step:
        """`(state, batch) -> (state, metrics)`."""
        return tinymim.make_distillation_step(
            self.what, self.model, self.teacher, self.tx, axis_name=axis_name
        )

    def state(self) -> TrainState:
        """A fresh state, the teacher in it."""
        variables = tinymim.init_variables(self.model, jax.random.key(0))
        variables["teacher"] = tinymim.init_variables(self.teacher, jax.random.key(1))
        return state_of(variables, self.tx, jax.random.key(2))

    def teacher_forward(self, state: TrainState, batch: Any) -> Any:
        """What the teacher says of a batch."""
        variables = state.model_state["teacher"]
        return teacher_outputs(self.what, self.teacher, variables, batch["images"])

    def student_gradient(self, state: TrainState, batch: Any, targets: Any) -> Any:
        """The student's forward and backward pass, the targets being given."""
        loss_fn = tinymim.distillation_loss_fn(self.what, self.model, self.teacher)
        given = batch | {"targets": targets}
        return jax.grad(lambda p: loss_fn(p, state.model_state, given, state.key)[0])(state.params)


def full_size(size: str, *, divisor: int = 1, **options: Any) -> Full:
    """The networks of a released stage.

    Args: divisor, of the width of a head, for a step at reduced width; options of both ViTs.
    """
    stage = stage_of(size)
    options = {"scan": True, **options}

    def width(name: str) -> dict[str, int]:
        return {"width": vit_config(name).width // divisor}

    teacher = vit_config(stage.teacher, **options, **width(stage.teacher))
    teacher = teacher.with_last_block_heads(stage.teacher_target_heads)
    student = stage.student(**options, **width(size))
    what = stage.distillation
    return Full(what, tinymim.student_config(what, student, teacher), teacher)


def _share_until(depth: int, block: int) -> float:
    """The share of a network's products up to q, k and v of a block, 1-based."""
    return (block - 1 + 0.25) / depth


def time_full_step(size: str, batch_size: int, dtype: str, peak: float) -> dict[str, Any]:
    """Seconds of a step and of its parts, run in turns, and what follows from them.

    Args: peak, the device's measured operations a second (`matmul_peak`).
    """
    full = full_size(size, dtype=dtype)
    side = full.teacher.image_size
    images = jax.random.normal(jax.random.key(3), (batch_size, side, side, 3))
    state, batch = full.state(), {"images": images}
    step = jax.jit(full.step()).lower(state, batch).compile()
    forward = jax.jit(full.teacher_forward).lower(state, batch).compile()
    targets = jax.block_until_ready(forward(state, batch))
    gradient = jax.jit(full.student_gradient).lower(state, batch, targets).compile()
    ways = {
        "step": lambda: step(state, batch),
        "teacher": lambda: forward(state, batch),
        "student": lambda: gradient(state, batch, targets),
    }
    for way in ways.values():
        jax.block_until_ready(way())
    turns: list[dict[str, float]] = []
    start = time.perf_counter()
    while not turns or (time.perf_counter() - start < TURN_SECONDS and len(turns) < 9):
        turns.append({name: _seconds(way) for name, way in ways.items()})
    seconds = statistics.median(turn["step"] for turn in turns)
    operations = 2 * full.multiply_adds * batch_size
    return {
        "size": size,
        "teacher_size": stage_of(size).teacher,
        "batch_size": batch_size,
        "steps_per_second": 1 / seconds,
        "images_per_second": batch_size / seconds,
        "peak_bytes": peak_bytes(step),
        "gmacs": full.multiply_adds / 1e9,
        "mfu": operations / seconds / peak,
        "step_over_parts": [t["step"] / (t["teacher"] + t["student"]) for t in turns],
    }


def _seconds(way) -> float:
    start = time.perf_counter()
    jax.block_until_ready(way())
    return time.perf_counter() - start


def peak_bytes(compiled: Any) -> int:
    """What a compiled program has in memory at once: arguments, results and in between."""
    memory = compiled.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(int(getattr(memory, part)) for part in parts)


def matmul_peak(dtype: str, repeats: int = 5) -> float:
    """Operations a second of a large matrix product, the best of several."""
    side = PEAK_SIDE if jax.default_backend() == "cpu" else 4 * PEAK_SIDE
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    return 2 * side**3 / min(_seconds(lambda: product(x, x)) for _ in range(repeats))


def time_sizes(config: Config) -> dict[str, Any]:
    """The table of full-size steps."""
    is_cpu = jax.default_backend() == "cpu"
    dtype = "float32" if is_cpu else "bfloat16"
    batch_size = config.timed_batch_size * (1 if is_cpu else 32)
    peak = matmul_peak(dtype)
    rows = [time_full_step(size, batch_size, dtype, peak) for size in config.timed_sizes]
    return {"dtype": dtype, "peak": peak, "rows": rows}


def measure_waiting(config: Config, data_dir: Any, batch_size: int = 8) -> dict[str, float]:
    """Trains a ViT-T student on streamed ImageNet pictures: how long does it wait for them?"""
    full = full_size("T")
    views = functools.partial(distillation_views, size=full.teacher.image_size)
    source = image_archive(locate("imagenet_sample", data_dir), canvas=160)
    fitted = fit(
        with_views(full.step("batch"), views, axis_name="batch"),
        full.state(),
        stream(source, batch_size, seed=config.seed, num_threads=2),
        num_steps=config.streamed_steps,
        devices=jax.local_devices()[:1],
    )
    return {
        "waiting_share": fitted.waiting_share,
        "images_per_second": fitted.steps_per_second * batch_size,
        "loss": fitted.metrics["loss"],
    }


def reduced_step(size: str, divisor: int = 4) -> float:
    """The loss of one step of a released stage at a fraction of the width, everything else whole:
    224 px, all blocks, all heads."""
    full = full_size(size, divisor=divisor)
    images = jax.random.normal(jax.random.key(3), (2, 224, 224, 3))
    _, metrics = jax.jit(full.step())(full.state(), {"images": images})
    return float(metrics["loss"])
