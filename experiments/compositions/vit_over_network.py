"""DACFL x TinyMIM: users distil a masked-image teacher into one small ViT, each with two digits.

python -m experiments.compositions.vit_over_network
"""

import dataclasses

import jax
import numpy as np

from experiments.compositions.launch import launch
from experiments.compositions.ring import ring, users_table
from lab.data.embedded import generated_digits
from lab.nn.transformer import TransformerConfig
from lab.nn.vit import ViTConfig
from lab.papers import dacfl, tinymim
from lab.papers.tinymim.distill import teacher_outputs
from lab.report import Result, Run
from lab.train.state import state_of, step_key
from lab.train.whole import run as run_steps

TITLE = "A vision transformer over a network"
SUMMARY = "DACFL's users distil TinyMIM's token relations, though each has pictures of two digits."
TEACHER = ViTConfig(32, 3, 4, image_size=8, patch_size=2, num_channels=1, scan=True)
STUDENT = dataclasses.replace(TEACHER, width=16, depth=2)
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Config:
    """How many pictures and users, how long."""

    num_pictures: int = 1000
    """Generated pictures of digits, 8 x 8, divided among the users."""
    num_users: int = 5
    """Users on a ring."""
    teacher_steps: int = 300
    """Steps of the teacher's masked autoencoding; 0: one with random weights."""
    num_rounds: int = 150
    """Rounds of distillation, one step each."""
    learning_rate: float = 2e-3
    """Of distillation."""
    algorithms: tuple[str, ...] = ("dacfl", "local", "centralised")
    """Of `dacfl.ALGORITHMS`, on the same batches."""
    seed: int = 0
    """Of everything."""


def main(config: Config, run: Run) -> Result:
    """Distils over the network, alone and in one place."""
    images, labels = _pictures("train", config.num_pictures)
    test_images, _ = _pictures("test", 200)
    teacher = _teacher(config, images)
    distillation = tinymim.Distillation()
    student = tinymim.student_config(distillation, STUDENT, TEACHER)
    loss_fn = tinymim.distillation_loss_fn(distillation, student, TEACHER)
    start = tinymim.init_variables(student, jax.random.key(config.seed))
    constants = {"constants": start["constants"]}

    def lessons(images):
        return {
            "images": images,
            "targets": teacher_outputs(distillation, TEACHER, teacher, images),
        }

    parts = dacfl.draw_partition(
        labels, config.num_users, dacfl.PartitionConfig("shards"), np.random.default_rng(0)
    )
    done = dacfl.simulate(
        config.algorithms,
        loss_fn,
        start["params"],
        dacfl.federated_data(lessons(images), parts, ring(config.num_users), lessons(test_images)),
        dacfl.Protocol(
            config.num_rounds,
            batch_size=min(BATCH, config.num_pictures // config.num_users),
            learning_rate=dacfl.LearningRate(config.learning_rate, 1.0),
        ),
        jax.random.key(config.seed),
        model_state=constants,
        evaluate=dacfl.loss_evaluation(loss_fn),
        tx=tinymim.pretraining_adamw(1.0, moves=tinymim.moving_parts(distillation, student)),
    )

    untrained, _ = jax.jit(loss_fn)(
        start["params"], constants, lessons(test_images), jax.random.key(0)
    )
    table = users_table(
        "On pictures of all ten digits",
        done,
        "loss",
        "relation loss",
        is_loss=True,
        others=[("not at all", float(untrained))],
    )
    return Result(TITLE, SUMMARY, tables=[table])


def _pictures(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = generated_digits(split, num_examples=count)
    return images.astype(np.float32) / 127.5 - 1, labels


def _teacher(config: Config, images: np.ndarray):
    """The variables of a ViT after masked autoencoding."""
    model = tinymim.MAEConfig(TEACHER, TransformerConfig(width=32, depth=1, num_heads=4))
    tx = tinymim.pretraining_adamw(2e-3)
    take = tinymim.make_step(tinymim.mae_loss_fn(model), tx)

    def step(state, images):
        rows = jax.random.randint(step_key(state), (4 * BATCH,), 0, len(images))
        return take(state, {"images": images[rows]})

    key = jax.random.key(config.seed)
    variables = tinymim.init_variables(model, key)
    if config.teacher_steps == 0:
        return tinymim.encoder_of(variables)
    state = state_of(variables, tx, key)
    state, _ = jax.jit(run_steps, static_argnums=(0, 3))(step, state, images, config.teacher_steps)
    return tinymim.encoder_of({"params": state.params, **state.model_state})


if __name__ == "__main__":
    raise SystemExit(launch("vit_over_network"))
