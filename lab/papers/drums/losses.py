"""Losses of next-token prediction where prompt and completion count differently."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lab.nn import decoder
from lab.nn.decoder import DecoderConfig, Params
from lab.train import Aux, mean_over

PROMPT_WEIGHT = 0.01


def target_masks(
    prompt_length: jax.Array, length: jax.Array, num_tokens: int
) -> dict[str, jax.Array]:
    """Which tokens are targets: "prompt" and "completion", float32 [B, num_tokens] of 0 and 1.

    Neither is the first token (nothing predicts it), nor the padding behind `length`.

    Args: prompt_length, length: int [B], tokens of the prompt and of both.
    """
    place = jnp.arange(num_tokens)
    is_prompt = (place > 0) & (place < prompt_length[:, None])
    is_completion = (place >= prompt_length[:, None]) & (place < length[:, None])
    masks = {"prompt": is_prompt, "completion": is_completion & (place > 0)}
    return {name: mask.astype(jnp.float32) for name, mask in masks.items()}


def next_token_nll(
    params: Params, hidden: jax.Array, targets: jax.Array, *, chunk: int | None = None
) -> jax.Array:
    """-log p(target), float32 [B, T].

    Args:
      hidden: float [B, T, D] of `lab.nn.decoder.hidden_states`; targets: int [B, T].
      chunk: tokens at a time whose logits are held, and computed again in the backward pass: for
        large vocabularies. None: all.
    """

    def nll(hidden, targets):
        logits = decoder.logits_of(params, hidden)
        own = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - own

    batch, length = targets.shape
    if chunk is None or length <= chunk:
        return nll(hidden, targets)
    padding = -length % chunk

    def cut(x):
        x = jnp.pad(x, ((0, 0), (0, padding), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(batch, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    pieces = jax.lax.map(lambda piece: jax.checkpoint(nll)(*piece), (cut(hidden), cut(targets)))
    return pieces.swapaxes(0, 1).reshape(batch, -1)[:, :length]


def completion_nll(
    config: DecoderConfig,
    params: Params,
    batch: dict[str, jax.Array],
    *,
    key: jax.Array | None = None,
    frozen_layers: int = 0,
    chunk: int | None = None,
) -> jax.Array:
    """-log p of each token but the first given those before it, float32 [B, T - 1].

    Args: batch, of `lab.papers.drums.data`: "ids" int32 [B, T], "segments" and "positions".
    """
    hidden = decoder.hidden_states(
        config,
        params,
        batch["ids"],
        segments=batch["segments"],
        positions=batch["positions"],
        key=key,
        frozen_layers=frozen_layers,
    )
    return next_token_nll(params, hidden[:, :-1], batch["ids"][:, 1:], chunk=chunk)


def prompt_weighted_loss(
    config: DecoderConfig,
    params: Params,
    model_state: Any,
    batch: dict[str, jax.Array],
    key: jax.Array | None = None,
    *,
    prompt_weight: float | jax.Array = PROMPT_WEIGHT,
    axis_name: str | None = None,
    frozen_layers: int = 0,
    chunk: int | None = None,
) -> tuple[jax.Array, Aux]:
    """sum(w nll) / sum(w) over the batch, w = 1 on completions and `prompt_weight` on prompts.

    The default weight is the hosted service's.

    Args: batch as in `completion_nll`, with the masks of `target_masks`.
    Returns: (loss, Aux), the loss of the completion tokens alone among the metrics.
    """
    nll = completion_nll(config, params, batch, key=key, frozen_layers=frozen_layers, chunk=chunk)
    prompt, completion = (batch[name][:, 1:] for name in ("prompt", "completion"))
    mean = functools.partial(mean_over, nll, axis_name=axis_name)
    loss = mean(completion + prompt_weight * prompt)
    completion = jax.lax.stop_gradient(mean(completion))
    return loss, Aux({"completion_nll": completion}, model_state)
