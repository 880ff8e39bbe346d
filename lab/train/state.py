"""The state of a training run, as one pytree."""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from lab.errors import require


class TrainState(struct.PyTreeNode):
    """Everything a step needs and changes.

    Attributes: step int32 scalar, the number of steps taken; params, model_state (mutable flax
      collections such as `batch_stats`, {} where there are none) and opt_state pytrees; key, a
      typed key that never changes: a step draws from `step_key(state)`.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    key: jax.Array


class Aux(struct.PyTreeNode):
    """What a loss returns beside its value: scalars to log, and the mutable collections."""

    metrics: dict[str, jax.Array]
    model_state: Any


def init_state(
    model: nn.Module, tx: optax.GradientTransformation, key: jax.Array, *inputs: Any, **kwargs: Any
) -> TrainState:
    """Initialises a flax model on `inputs` and the optimizer on its parameters.

    Args: key, a typed key; inputs and kwargs are those of the module's call.
    Raises: InvalidInputError for a raw uint32 key.
    """
    init_key, run_key = jax.random.split(check_key(key))
    variables = dict(model.init(init_key, *inputs, **kwargs))
    return state_of(variables, tx, run_key)


def state_of(variables: dict, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """A fresh state around given flax variables (converted weights, for example)."""
    model_state = dict(variables)
    params = model_state.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
        key=check_key(key),
    )


def step_key(state: Any) -> jax.Array:
    """The typed key of the step that `state` is about to take."""
    return jax.random.fold_in(state.key, state.step)


def seed_keys(seeds: Iterable[int]) -> jax.Array:
    """One typed key a seed, [seeds]; a copy's key does not depend on how many there are."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def check_key(key: jax.Array) -> jax.Array:
    """Returns `key`, or refuses one that is not typed (`jax.random.key`)."""
    require(
        isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key),
        f"key must be a typed key, jax.random.key(seed); got {getattr(key, 'dtype', type(key))}",
    )
    return key
