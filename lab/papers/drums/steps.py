"""Fine-tuning steps: everything, the last blocks, or adapters; and their evaluation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lab.nn.decoder import DecoderConfig, Params
from lab.papers.drums.lora import LoraConfig, with_lora
from lab.papers.drums.losses import PROMPT_WEIGHT, completion_nll, prompt_weighted_loss
from lab.train import TrainState, make_train_step
from lab.train.optimizers import adamw
from lab.train.state import state_of
from lab.train.steps import Step


def optimizer(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.1,
    clip_norm: float = 1.0,
    num_layers: int = 0,
    frozen_layers: int = 0,
) -> optax.GradientTransformation:
    """AdamW as language models are trained: b1 .9, b2 .95, eps 1e-8, decay on matrices only.

    Args: frozen_layers, of `num_layers` first blocks that must not move, nor the embedding.
    """
    scale = functools.partial(_moves, num_layers=num_layers, frozen_layers=frozen_layers)
    return adamw(
        learning_rate,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        scale_of=scale if frozen_layers else None,
    )


def _moves(path: str, num_layers: int, frozen_layers: int) -> jax.Array | float:
    """1 for what is trained, 0 for what is not; an array over the blocks, which lie stacked."""
    if path.startswith("blocks/"):
        rank = 3 if path.endswith("kernel") else 2
        trained = jnp.arange(num_layers) >= frozen_layers
        return trained.astype(jnp.float32).reshape(-1, *[1] * (rank - 1))
    return 1.0 if path.startswith(("norm/", "head/")) else 0.0


def fine_tuning(
    config: DecoderConfig,
    tx: optax.GradientTransformation,
    *,
    prompt_weight: float = PROMPT_WEIGHT,
    frozen_layers: int = 0,
    chunk: int | None = None,
    axis_name: str | None = None,
) -> Step:
    """`step(state, batch) -> (state, metrics)` that trains all parameters, or the last blocks.

    Args: batch of `lab.papers.drums.data`; chunk as in `next_token_nll`.
    """
    loss = functools.partial(
        prompt_weighted_loss,
        config,
        prompt_weight=prompt_weight,
        axis_name=axis_name,
        frozen_layers=frozen_layers,
        chunk=chunk,
    )
    return make_train_step(loss, tx, axis_name=axis_name)


def lora_tuning(
    config: DecoderConfig,
    lora: LoraConfig,
    tx: optax.GradientTransformation,
    *,
    prompt_weight: float = PROMPT_WEIGHT,
    chunk: int | None = None,
    axis_name: str | None = None,
) -> Step:
    """A step that trains adapters; the frozen weights are the state's `model_state`."""

    def loss(adapters, params, batch, key):
        merged = with_lora(config, lora, params, adapters)
        return prompt_weighted_loss(
            config,
            merged,
            params,
            batch,
            key,
            prompt_weight=prompt_weight,
            axis_name=axis_name,
            chunk=chunk,
        )

    return make_train_step(loss, tx, axis_name=axis_name)


def begin(params: Params, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A fresh state around parameters."""
    return state_of({"params": params}, tx, key)


def begin_lora(
    params: Params, adapters: Params, tx: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    """A fresh state of adapters around frozen parameters."""
    return state_of({"params": adapters}, tx, key).replace(model_state=params)


def evaluation(config: DecoderConfig, *, chunk: int | None = None) -> Callable[..., Any]:
    """`(params, batch) -> {"nll", "tokens", "lines"}`, sums over the completions of a batch.

    "nll" / "lines" is the paper-independent measure: nats a line of the completion, `SEP` and `END`
    included, whatever the tokenizer.
    """

    @jax.jit
    def evaluate(params, batch):
        nll = completion_nll(config, params, batch, chunk=chunk)
        counted = batch["completion"][:, 1:]
        return {
            "nll": jnp.sum(jnp.where(counted > 0, nll, 0)),
            "tokens": counted.sum(),
            "lines": batch["lines"].sum(),
        }

    return evaluate
