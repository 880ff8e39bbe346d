"""What compiling a whole distillation gains: `python -m experiments speed tinymim`."""

import jax
import jax.numpy as jnp

from experiments.speed import SpeedCase
from experiments.tinymim import PRESETS, training
from experiments.tinymim.arms import overridden
from lab.papers import tinymim
from lab.papers.tinymim.data import load_pictures

NUM_STEPS, NUM_COPIES = 30, 3


def cases():
    """Three students of the bench's teacher, by relations, by features, by class tokens."""
    return [_case(target) for target in ("relation", "feature", "cls")]


def _case(target: str) -> SpeedCase:
    config = overridden(
        PRESETS["bench"],
        {"distillation.target": target, "pretraining.distill_steps": NUM_STEPS},
    )
    pictures = load_pictures("shapes12", 1000, 10, 10)
    patch_size = config.shapes12.patch_size
    teacher = training.vit_of(pictures, patch_size, config.teacher)
    student = training.student_of(config, pictures, patch_size)
    way = training.distillation_training(config, student, teacher)
    chunk = training.compiled_chunk(config, pictures, way, NUM_STEPS)
    data = (
        {"images": jnp.asarray(pictures.unlabeled)},
        tinymim.init_variables(teacher, jax.random.key(0)),
    )
    one, all_copies = (training.start_copies(way, 0, count) for count in (1, NUM_COPIES))

    def together():
        return chunk(all_copies, data, NUM_STEPS)

    def one_at_a_time():
        return [chunk(one, data, NUM_STEPS) for _ in range(NUM_COPIES)]

    return SpeedCase(
        f"distil, {target}, {NUM_COPIES} students",
        together,
        one_at_a_time,
        _python_loop(config, pictures, way, one, data),
        num_steps=NUM_STEPS,
        num_copies=NUM_COPIES,
        note=f"37 tokens, batch {config.pretraining.batch_size}; together, the teacher's part is "
        "run once for all students",
    )


def _python_loop(config, pictures, way, one, data):
    """As one would write it first: a jitted step, called for every step of every student."""
    step = training.compiled_chunk(config, pictures, way, 1)

    def run():
        ends = []
        for _ in range(NUM_COPIES):
            copies = one
            for _ in range(NUM_STEPS):
                copies, metrics = step(copies, data, NUM_STEPS)
            ends.append((copies, metrics))
        return jax.block_until_ready(ends)

    return run
