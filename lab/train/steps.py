"""From a loss and an optax transformation to a pure train step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lab.train.state import Aux, TrainState, step_key

LossFn = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, Aux]]
Step = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, *, axis_name: str | None = None
) -> Step:
    """Makes `step(state, batch) -> (state, metrics)`.

    Args:
      loss_fn: `(params, model_state, batch, key) -> (loss, Aux)`, key being a typed key of this
        step alone.
      axis_name: the device axis of `lab.train.devices.compile` ("batch"). The loss must then be
        that of the global batch: sums and counts are psum-ed before dividing (`mean_over`).
    Returns: the step; its metrics are those of the loss, with "loss" and "grad_norm".
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, aux), grads = gradient(state.params, state.model_state, batch, step_key(state))
        metrics = {"loss": loss, **aux.metrics, "grad_norm": optax.tree.norm(grads)}
        model_state = aux.model_state
        if axis_name is not None:
            # Differentiating a psum-ed loss on every device gives each device the gradient of
            # the devices' summed losses, so the mean over devices is the gradient of one loss.
            grads = jax.lax.pmean(grads, axis_name)
            metrics = jax.lax.pmean(metrics, axis_name) | {"grad_norm": optax.tree.norm(grads)}
            model_state = jax.lax.pmean(model_state, axis_name)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
        )
        return state, metrics

    return step


def mean_over(
    values: jax.Array, weights: jax.Array | None = None, axis_name: str | None = None
) -> jax.Array:
    """Weighted mean over all entries of all devices; 0 where every weight is 0.

    Args: values float, any shape; weights broadcastable to it (a mask of real examples).
    """
    weights = jnp.ones_like(values) if weights is None else jnp.broadcast_to(weights, values.shape)
    weights = weights.astype(values.dtype)
    # A masked entry must not reach the sum even when it is NaN.
    total = jnp.sum(jnp.where(weights == 0, 0, values) * weights)
    count = jnp.sum(weights)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.where(count == 0, 1, count)
