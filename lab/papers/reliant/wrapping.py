"""RELIANT around any student: a distillation loss, a proxy beside the features, two players.

groups = bias_groups(sensitive, train_mask, "sp")
apply_fn = lambda params, rows, key: model.apply(params, graph._replace(nodes=rows))
distance = lambda logits: optax.losses.kl_divergence(log_softmax(logits), teacher).mean()
step = make_fair_step(apply_fn, distance, groups, alpha=10.0, tx=optax.adam(1e-2))
state = init_fair_state(params, features, step.tx, key)
state, history = jax.jit(lambda s: run(step, s, features, 200))(state)
logits = apply_fn(state.params["student"], proxied(features, state), None)
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lab.papers.reliant.losses import BiasGroups, StepApproximation, bias
from lab.papers.reliant.objective import mean_proxy
from lab.train.state import TrainState, check_key, step_key

ApplyFn = Callable[[Any, jax.Array, jax.Array | None], jax.Array]


def init_fair_state(
    params: Any,
    num_nodes: int,
    tx: optax.GradientTransformation,
    key: jax.Array,
    *,
    proxy_dim: int = 2,
) -> TrainState:
    """A state whose params are {"student", "proxy" float [N, proxy_dim]}.

    Args: params of a student whose input is proxy_dim wider than the features; tx, that of
      `FairStep.tx`.
    """
    proxy_key, run_key = jax.random.split(check_key(key))
    players = {"student": params, "proxy": jax.random.uniform(proxy_key, (num_nodes, proxy_dim))}
    return TrainState(jnp.zeros((), jnp.int32), players, {}, tx.init(players), run_key)


def proxied(features: jax.Array, state: TrainState) -> jax.Array:
    """What the student sees at test time: features [N, F] with the mean proxy beside them."""
    return jnp.concatenate([features, mean_proxy(state.params["proxy"])], axis=1)


@dataclasses.dataclass(frozen=True)
class FairStep:
    """`step(state, features) -> (state, metrics)`; `tx` is the optimizer of both players."""

    take: Callable
    tx: optax.GradientTransformation

    def __call__(self, state: TrainState, features: jax.Array):
        """Both players' steps; metrics "loss", "distillation", "bias", "proxy_bias"."""
        return self.take(state, features)


def make_fair_step(
    apply_fn: ApplyFn,
    distillation_fn: Callable[[jax.Array], jax.Array],
    groups: BiasGroups,
    *,
    alpha: float,
    tx: optax.GradientTransformation,
    proxy_tx: optax.GradientTransformation | None = None,
    proxy_groups: BiasGroups | None = None,
    step_approx: StepApproximation = "official",
) -> FairStep:
    """The alternating step of RELIANT around a student of your own.

    Args:
      apply_fn: (params, rows float [N, F + proxy_dim], key or None) -> logits [N, C].
      distillation_fn: logits -> loss, holding the teacher (its logits, probabilities ...).
      groups: what the penalty compares (`bias_groups`); proxy_groups: what the proxy is trained
        on, the same by default.
      alpha: weight of the penalty.
      tx: the student's optimizer; proxy_tx: the proxy's, the same by default.
    """
    # One transformation of both players: optax.partition gives each its own, and a player that is
    # not to move gets zeros, which `_turn` sorts out.
    players: dict[Hashable, optax.GradientTransformation] = {"student": tx}
    players["proxy"] = tx if proxy_tx is None else proxy_tx
    both = optax.partition(players, {"student": "student", "proxy": "proxy"})
    proxy_groups = groups if proxy_groups is None else proxy_groups

    def student_loss(student, proxy, features, key):
        rows = jnp.concatenate([features, mean_proxy(proxy)], axis=1)
        logits = apply_fn(student, rows, key)
        distance = distillation_fn(logits)
        value = bias(jax.nn.softmax(logits), groups, step_approx)
        return distance + alpha * value, {"distillation": distance, "bias": value}

    def proxy_loss(proxy, student, features, key):
        rows = jnp.concatenate([features, proxy], axis=1)
        probs = jax.nn.softmax(apply_fn(student, rows, key))
        return -alpha * bias(probs, proxy_groups, step_approx)

    def take(state: TrainState, features: jax.Array):
        keys, params = jax.random.split(step_key(state)), state.params
        gradient = jax.value_and_grad(student_loss, has_aux=True)
        (loss, parts), grads = gradient(params["student"], params["proxy"], features, keys[0])
        moved, opt_state = _turn(both, "student", grads, params, state.opt_state)
        value, proxy_grads = jax.value_and_grad(proxy_loss)(
            params["proxy"], moved["student"], features, keys[1]
        )
        moved, opt_state = _turn(both, "proxy", proxy_grads, moved, opt_state)
        metrics = {"loss": loss, **parts, "proxy_loss": value, "grad_norm": optax.tree.norm(grads)}
        return state.replace(step=state.step + 1, params=moved, opt_state=opt_state), metrics

    return FairStep(take, both)


def _turn(tx, player, grads, params, opt_state):
    """One player's step; the other keeps its parameters and its optimizer state."""
    still = jax.tree.map(jnp.zeros_like, params)
    all_grads = {**still, player: grads}
    updates, new = tx.update(all_grads, opt_state, params)
    moved = {**params, player: optax.apply_updates(params[player], updates[player])}
    inner = {**opt_state.inner_states, player: new.inner_states[player]}
    return moved, new._replace(inner_states=inner)
