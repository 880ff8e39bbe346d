"""Whole fine-tuning of several small models as one compiled function: seeds, ablations, starts."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lab.nn.decoder import DecoderConfig, Params
from lab.papers.drums.losses import prompt_weighted_loss
from lab.train import TrainState, make_train_step
from lab.train.steps import Step
from lab.train.whole import run

Arrays = Mapping[str, jax.Array]


class Hyper(struct.PyTreeNode):
    """What may differ from copy to copy: scalars, or arrays [copies].

    Attributes: prompt_weight of prompt tokens in the loss; num_rows, of the data the copy may see.
    """

    prompt_weight: jax.Array
    num_rows: jax.Array


def rows_of_step(key: jax.Array, step: jax.Array, num_rows: jax.Array, all_rows: int, size: int):
    """Rows of a step's batch, int32 [size]: every epoch has an order of its own, drawn from `key`.

    Only the first `num_rows` of `all_rows` occur; an epoch has all_rows // size batches.
    """
    epoch, place = jnp.divmod(step, max(all_rows // size, 1))
    order = jax.random.permutation(jax.random.fold_in(key, epoch), all_rows)
    wanted = jnp.arange(size) + place * size
    return order[wanted % all_rows] % num_rows


def copy_step(config: DecoderConfig, tx: optax.GradientTransformation, batch_size: int) -> Step:
    """`step(state, (arrays, hyper))` of one copy, which takes its batch from the whole data.

    Args: arrays of `lab.papers.drums.data.padded`, all rows of the data.
    """

    def step(state: TrainState, data: tuple[Arrays, Hyper]):
        arrays, hyper = data
        weight = hyper.prompt_weight
        loss = functools.partial(prompt_weighted_loss, config, prompt_weight=weight)
        order_key = jax.random.fold_in(state.key, 0)
        all_rows = arrays["ids"].shape[0]
        rows = rows_of_step(order_key, state.step, hyper.num_rows, all_rows, batch_size)
        batch = {name: array[rows] for name, array in arrays.items()}
        return make_train_step(loss, tx)(state, batch)

    return step


def train_copy(
    config: DecoderConfig, tx: optax.GradientTransformation, batch_size: int, chunk_steps: int
) -> Callable[..., Any]:
    """`(state, arrays, hyper, last_step) -> (state, history)`, `chunk_steps` steps of one copy.

    Compile it over copies with `lab.train.compile_copies(..., in_axes=(0, None, 0, None))`.
    """
    step = copy_step(config, tx, batch_size)

    def chunk(state, arrays, hyper, last_step):
        return run(step, state, (arrays, hyper), chunk_steps, last_step)

    return chunk


def stack(trees: list[Params]) -> Params:
    """Pytrees of equal structure with a leading axis of copies."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
