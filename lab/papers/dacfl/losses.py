"""Classification losses of one user, in the signature of the house."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lab.train.state import Aux
from lab.train.steps import LossFn


def classification_loss(apply_fn: Callable[[Any, jax.Array], jax.Array]) -> LossFn:
    """Mean cross-entropy over a batch {"inputs": [B, ...], "labels": int [B]}.

    Args: apply_fn, `(variables, inputs) -> logits [B, C]`, for example `model.apply`.
    Returns: `(params, model_state, batch, key) -> (loss, Aux)`; model_state passes unchanged.
    """

    def loss_fn(params, model_state, batch, key):
        del key
        logits = apply_fn({"params": params, **model_state}, batch["inputs"])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return jnp.mean(losses), Aux({}, model_state)

    return loss_fn


def with_augmentation(
    loss_fn: LossFn, augment: Callable[[jax.Array, jax.Array], jax.Array]
) -> LossFn:
    """A loss on randomly changed inputs (crops and flips for CIFAR-10).

    Args: augment, `(keys [B], inputs [B, ...]) -> inputs`, one key an example.
    """

    def augmented(params, model_state, batch, key):
        keys = jax.random.split(key, batch["inputs"].shape[0])
        batch = batch | {"inputs": augment(keys, batch["inputs"])}
        return loss_fn(params, model_state, batch, key)

    return augmented
