"""Losses of next-token prediction where prompt and completion count differently."""

import functools

import jax
import jax.numpy as jnp

from lab.nn import decoder
from lab.nn.decoder import DecoderConfig, Params
from lab.train import Aux, mean_over


def target_weights(
    prompt_length: jax.Array, length: jax.Array, num_tokens: int, prompt_weight: float
) -> jax.Array:
    """Weights of the tokens as targets, float32 [B, num_tokens].

    `prompt_weight` on the prompt, 1 on the completion, 0 on the first token (nothing predicts it)
    and on the padding behind `length`.

    Args: prompt_length, length: int [B], tokens of the prompt and of both.
    """
    place = jnp.arange(num_tokens)
    weights = jnp.where(place < prompt_length[:, None], prompt_weight, 1.0)
    return jnp.where((place > 0) & (place < length[:, None]), weights, 0.0)


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
    model_state,
    batch: dict[str, jax.Array],
    key: jax.Array | None = None,
    *,
    axis_name: str | None = None,
    frozen_layers: int = 0,
    chunk: int | None = None,
) -> tuple[jax.Array, Aux]:
    """sum(w nll) / sum(w) over the batch (the hosted service's loss, prompt weight 0.01).

    Args: batch as in `completion_nll`, with "weights" float32 [B, T] of the tokens as targets.
    Returns: (loss, Aux), the loss of the completion tokens alone (weight 1) among the metrics.
    """
    nll = completion_nll(config, params, batch, key=key, frozen_layers=frozen_layers, chunk=chunk)
    weights = batch["weights"][:, 1:]
    mean = functools.partial(mean_over, nll, axis_name=axis_name)
    loss = mean(weights)
    completion = jax.lax.stop_gradient(mean((weights == 1).astype(nll.dtype)))
    return loss, Aux({"completion_nll": completion}, model_state)
