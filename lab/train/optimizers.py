"""Optimizers put together from optax: what is decayed, scaled, frozen, accumulated, averaged.

Parameters are told apart by their path, the names joined by "/": "blocks_0/attn/qkv/kernel".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lab.arrays import Array
from lab.errors import InvalidInputError, require

Predicate = Callable[[str, jax.Array], bool]


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    is_decayed: Predicate | None = None,
    scale_of: Callable[[str], float | Array] | None = None,
    is_frozen: Predicate | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> optax.GradientTransformation:
    """AdamW with decoupled weight decay and the parts that large models are trained with.

    Args:
      learning_rate: a number or a schedule of optimizer steps.
      is_decayed: which parameters lose weight_decay * rate a step; by default `is_matrix`.
      scale_of: a factor of a parameter's rate, its decay included, by its path (`layer_decay`);
        an array is broadcast against the parameter, as for stacked layers.
      is_frozen: parameters that neither move nor decay nor have optimizer state.
      clip_norm: largest global norm of the gradient of the trained parameters.
      accumulate: how many batches' gradients are averaged for one optimizer step.
      ema_decay: keep a moving average of the parameters (`averaged_params`).
    """
    is_decayed = is_matrix if is_decayed is None else is_decayed
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    parts.append(optax.scale_by_adam(b1, b2, eps))
    if weight_decay:
        mask = lambda params: by_path(is_decayed, params)  # noqa: E731
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    parts += [] if scale_of is None else [scale_by_path(scale_of)]
    parts.append(optax.scale_by_learning_rate(learning_rate))
    return _finish(optax.chain(*parts), is_frozen, accumulate, ema_decay)


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 1e-3,
    is_frozen: Predicate | None = None,
    accumulate: int = 1,
) -> optax.GradientTransformation:
    """LARS (You et al., 2017) as MAE's linear probe has it: weights of more than one axis have
    g = trust (g + decay w) |w| / |g + decay w|, the others plain momentum without decay.

    The velocity is v = momentum v + g, and w moves by -rate v.
    """

    def matrices(params):
        return by_path(lambda _, x: x.ndim > 1, params)

    chain = optax.chain(
        optax.add_decayed_weights(weight_decay, matrices),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), matrices),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _finish(chain, is_frozen, accumulate, None)


def is_matrix(path: str, parameter: jax.Array) -> bool:
    """Whether a parameter is a weight proper: more than one axis, and no bias or norm scale."""
    return parameter.ndim > 1 and path.rpartition("/")[2] not in ("bias", "scale")


def layer_decay(
    layer_of: Callable[[str], int], num_layers: int, decay: float
) -> Callable[[str], float]:
    """Path -> decay ** (num_layers - layer), for `scale_of` (Clark et al., 2020; BEiT).

    Args:
      layer_of: path -> 0 (the embedding) .. num_layers (the head); a ViT of L blocks has
        num_layers = L + 1.
    """
    require(0 < decay <= 1, f"decay must lie in (0, 1], got {decay}")

    def scale_of(path: str) -> float:
        layer = layer_of(path)
        require(0 <= layer <= num_layers, f"{path} has layer {layer}, not in 0..{num_layers}")
        return decay ** (num_layers - layer)

    return scale_of


def scale_by_path(scale_of: Callable[[str], float | Array]) -> optax.GradientTransformation:
    """Multiplies each update by the factor of its path."""
    return optax.stateless(lambda updates, _: by_path(lambda path, x: x * scale_of(path), updates))


def freeze(tx: optax.GradientTransformation, is_frozen: Predicate) -> optax.GradientTransformation:
    """`tx` for the other parameters; frozen ones get no update and have no state."""

    def labels(params):
        return by_path(lambda path, x: "frozen" if is_frozen(path, x) else "trained", params)

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


class AverageState(NamedTuple):
    """State of `average_params`."""

    average: Any


def average_params(decay: float) -> optax.GradientTransformation:
    """Follows the parameters with an exponential moving average; updates pass unchanged.

    The last part of a chain: it takes the updates for final. The average starts at the initial
    parameters, e = decay e + (1 - decay) w after each step.
    """
    require(0 <= decay < 1, f"decay must lie in [0, 1), got {decay}")

    def init(params):
        return AverageState(jax.tree.map(jnp.array, params))

    def update(updates, state, params=None):
        if params is None:
            raise InvalidInputError(
                "the average of the parameters needs them: tx.update(..., params)"
            )
        new = optax.apply_updates(params, updates)
        return updates, AverageState(optax.incremental_update(new, state.average, 1.0 - decay))

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: Any) -> Any:
    """The moving average that an optimizer state of `ema_decay` holds.

    Raises: InvalidInputError where it holds none.
    """
    is_average = lambda x: isinstance(x, AverageState)  # noqa: E731
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(x)]
    if len(found) != 1:
        raise InvalidInputError(
            f"the optimizer state holds {len(found)} averages of the parameters; "
            "make the optimizer with ema_decay"
        )
    return found[0].average


def by_path(function: Callable[[str, jax.Array], Any], params: Any) -> Any:
    """Maps `function(path, leaf)` over a pytree, the names of the path joined by "/"."""

    def apply(path, leaf):
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(apply, params)


def _finish(tx, is_frozen, accumulate, ema_decay) -> optax.GradientTransformation:
    require(accumulate >= 1, f"accumulate must be at least 1, got {accumulate}")
    if is_frozen is not None:
        tx = freeze(tx, is_frozen)
    if ema_decay is not None:
        tx = optax.chain(tx, average_params(ema_decay))
    if accumulate > 1:
        tx = optax.MultiSteps(tx, accumulate).gradient_transformation()
    return tx
