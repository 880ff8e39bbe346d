"""One round of any of the algorithms, as one pure function of all users' state.

`make_round(algorithm, loss_fn)` works on any pytree of float parameters and any loss of the
signature `(params, model_state, batch, key) -> (loss, Aux)`: it sees one user's model at a time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lab.errors import require
from lab.papers.dacfl.algorithms import Algorithm, as_algorithm
from lab.papers.dacfl.compression import CompressionConfig
from lab.papers.dacfl.failures import MODES
from lab.papers.dacfl.gossip import Mix, mix_compressed, mix_dense
from lab.papers.dacfl.metrics import consensus_distance, disagreement, mean_gap, squared_norms
from lab.papers.dacfl.state import FederatedState
from lab.papers.dacfl.topology import require_known
from lab.papers.dacfl.users import UserAxis, check_user_leaves, where_user
from lab.train.state import check_key
from lab.train.steps import LossFn

PLAIN_SGD = optax.sgd(1.0)
USER_MAPS = ("vmap", "map")
Round = Callable[[FederatedState, "RoundInputs"], tuple[FederatedState, dict[str, jax.Array]]]


class RoundInputs(struct.PyTreeNode):
    """What one round is given.

    Attributes:
      batches: a pytree, leaves [n, E, B, ...]: each user's batch of each local step. Gradient
        tracking takes the batch of the *next* round, at the new point.
      weights: W of this round after failures, float [N, N] or what `mix` takes; None where the
        algorithm does not gossip.
      learning_rate: float scalar; it multiplies the optimizer's update.
      active: bool [N], who is there; None for everybody.
      counts: float [n], users' sizes, the weights of FedAvg; None for equal ones.
      num_steps: int32 [n], local steps of each user, at most E; None for E.
    """

    batches: Any
    weights: Any
    learning_rate: jax.Array | float
    active: jax.Array | None = None
    counts: jax.Array | None = None
    num_steps: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What `make_round` was given, with the gaps filled."""

    algorithm: Algorithm
    gradient: Callable
    tx: optax.GradientTransformation
    users: UserAxis
    mix: Mix
    drop_mode: str
    compression: CompressionConfig | None
    diagnose: bool


def make_round(
    algorithm: str | Algorithm,
    loss_fn: LossFn,
    tx: optax.GradientTransformation = PLAIN_SGD,
    *,
    users: UserAxis | None = None,
    mix: Mix | None = None,
    drop_mode: str = "offline",
    compression: CompressionConfig | None = None,
    user_map: str = "vmap",
    diagnose: bool = False,
) -> Round:
    """Makes `round_fn(state, inputs) -> (state, metrics)`.

    Args:
      algorithm: a name of `algorithms.NAMES`, or an `Algorithm` with options.
      loss_fn: of one user: `(params, model_state, batch, key) -> (loss, Aux)`.
      tx: local optimizer; every user has its own state, which is never mixed. Its update times
        the round's learning rate is applied: plain SGD by default.
      users: where the users live; by default all that the state has, on one device.
      mix: `mix(weights, tree) -> tree`; a matrix product by default (see `gossip.choose_mix`).
      drop_mode: `offline`, absent users stand still, or `isolated`, they train on alone.
      compression: of the gossip's messages; None sends models as they are.
      user_map: `vmap` over users, or `map`, one after the other (less memory, and faster where a
        batched convolution is slow).
      diagnose: also return consensus distances, what the bound C7 needs, and "gradient_norm", the
        mean over users of the norm of their gradients.
    Returns: a pure function. Its metrics: "loss", the mean over the users that trained, "user_loss"
      [N], each user's mean over its local steps before they were taken (NaN for one that did not
      train), "diverged" bool [N], and the means of the loss's own metrics.
    """
    algorithm = as_algorithm(algorithm)
    require_known(drop_mode, MODES, "mode of absent users")
    require_known(user_map, USER_MAPS, "user_map")
    gradient = map_users(jax.value_and_grad(loss_fn, has_aux=True), user_map)
    exact = compression is None or compression.kind == "none"

    def round_fn(state: FederatedState, inputs: RoundInputs):
        axis = users or UserAxis(jax.tree.leaves(state.omega)[0].shape[0])
        rules = _Rules(
            algorithm,
            gradient,
            tx,
            axis,
            mix or (lambda weights, tree: mix_dense(weights, tree, axis)),
            drop_mode,
            None if exact else compression,
            diagnose,
        )
        update = _UPDATES.get(algorithm.name, _descend)
        new, losses, extra = update(rules, state, inputs)
        present = None if inputs.active is None else axis.take(inputs.active)
        trained = present
        if algorithm.name != "fedavg" and drop_mode == "isolated":
            present = trained = None
        if algorithm.name != "fedavg":
            new = where_user_state(present, new, state)
        metrics = _loss_metrics(axis, losses, extra, trained, new.omega)
        if diagnose:
            metrics |= diagnostics(new, axis) | {
                "increment": disagreement(_difference(new.omega, state.omega), axis)
            }
        return new.replace(step=state.step + 1), metrics

    return round_fn


def map_users(function: Callable, user_map: str) -> Callable:
    """A function of one user as a function of all users of this device."""
    if user_map == "vmap":
        return jax.vmap(function)
    return lambda *args: jax.lax.map(lambda one: function(*one), args)


def init_state(
    algorithm: str | Algorithm,
    params: Any,
    key: jax.Array,
    num_users: int,
    tx: optax.GradientTransformation = PLAIN_SGD,
    *,
    model_state: Any = None,
    per_user: bool = False,
    compression: CompressionConfig | None = None,
) -> FederatedState:
    """All users' state before the first round; x^0 = omega^0.

    Gradient tracking also needs `start_tracking`.

    Args:
      params: one model for all users (leaves without a users axis), or with `per_user` a model a
        user (leaves [N, ...]); model_state likewise.
      key: typed; drives batches, dropout and compression.
    Raises: InvalidInputError that names a leaf without users axis, or not of floats.
    """
    algorithm = as_algorithm(algorithm)
    axis = UserAxis(num_users)
    everyone = (lambda tree: tree) if per_user else axis.spread
    omega = everyone(jax.tree.map(jnp.asarray, params))
    check_user_leaves(omega, num_users)
    zeros = jax.tree.map(jnp.zeros_like, omega)
    compressed = compression is not None and compression.kind != "none" and algorithm.gossips
    state = FederatedState(
        step=jnp.zeros((), jnp.int32),
        key=check_key(key),
        omega=omega,
        model_state=everyone(jax.tree.map(jnp.asarray, model_state or {})),
        opt_state=jax.vmap(tx.init)(omega),
        tracker=omega if algorithm.tracks_models else None,
        gradient_tracker=zeros if algorithm.tracks_gradients else None,
        gradient=zeros if algorithm.tracks_gradients else None,
        velocity=zeros if algorithm.momentum > 0 else None,
        adapted=omega if algorithm.corrects else None,
    )
    if compressed:
        state = state.replace(public=jax.tree.map(jnp.zeros_like, _mixed_parts(algorithm, state)))
    return state


def start_tracking(
    state: FederatedState, loss_fn: LossFn, batches: Any, user_map: str = "vmap"
) -> tuple[FederatedState, jax.Array]:
    """y^0 = g(omega^0; batch_0) for gradient tracking; also the losses [n] there.

    Args: batches, leaves [n, 1, B, ...], of round 0.
    """
    n = jax.tree.leaves(state.omega)[0].shape[0]
    gradient = map_users(jax.value_and_grad(loss_fn, has_aux=True), user_map)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(state.key, jnp.arange(n))
    (losses, aux), grads = gradient(state.omega, state.model_state, _local_batch(batches, 0), keys)
    state = state.replace(gradient_tracker=grads, gradient=grads, model_state=aux.model_state)
    return state, losses


def diagnostics(state: FederatedState, users: UserAxis) -> dict[str, jax.Array]:
    """Consensus distances of omega and x, and the gap between their means; float scalars."""
    found = {"consensus_omega": consensus_distance(state.omega, users)}
    if state.tracker is not None:
        found["consensus_x"] = consensus_distance(state.tracker, users)
        found["gap"] = mean_gap(state.tracker, state.omega, users)
    return found


def output_models(algorithm: Algorithm, state: FederatedState, users: UserAxis) -> Any:
    """The model that each user ends with, leaves [n, ...]: x, omega, or the mean of omega."""
    if algorithm.tracks_models:
        return state.tracker
    if algorithm.outputs_mean:
        return users.spread(users.mean(state.omega))
    return state.omega


def where_user_state(
    mask: jax.Array | None, new: FederatedState, old: FederatedState
) -> FederatedState:
    """`new` for the users in `mask` bool [n], `old` for the others; None: all new."""
    if mask is None:
        return new
    fields = [f.name for f in dataclasses.fields(old) if f.name not in ("step", "key")]
    return new.replace(
        **{name: where_user(mask, getattr(new, name), getattr(old, name)) for name in fields}
    )


def _descend(rules: _Rules, state: FederatedState, inputs: RoundInputs):
    """DACFL, CDSGD, D-PSGD, local only, centralised."""
    algorithm = rules.algorithm
    parts, public = _mix(rules, state, inputs, _mixed_parts(algorithm, state))
    mixed = parts["omega"]
    start = mixed if algorithm.gradient_at == "mixed" else state.omega
    trained, model_state, opt_state, losses, extra = _train_locally(rules, state, inputs, start)
    velocity = state.velocity
    if velocity is not None:
        velocity = jax.tree.map(
            lambda v, end, begin: algorithm.momentum * v + (end - begin), velocity, trained, start
        )
        omega = jax.tree.map(jnp.add, mixed, velocity)
    elif algorithm.gossips and algorithm.gradient_at == "local":
        omega = jax.tree.map(lambda m, end, begin: m + (end - begin), mixed, trained, start)
    else:
        omega = trained
    tracker = state.tracker
    if tracker is not None:
        tracker = jax.tree.map(
            lambda x, new, old: x + (new - old), parts["tracker"], omega, state.omega
        )
        if algorithm.reset_every:
            is_reset = (state.step + 1) % algorithm.reset_every == 0
            tracker = jax.tree.map(lambda x, w: jnp.where(is_reset, w, x), tracker, omega)
    new = state.replace(
        omega=omega,
        model_state=model_state,
        opt_state=opt_state,
        tracker=tracker,
        velocity=velocity,
        public=public,
    )
    return new, losses, extra


def _track_gradients(rules: _Rules, state: FederatedState, inputs: RoundInputs):
    """DSGT: omega <- mix(omega - lr y), y <- mix(y) + g(omega'; next batch) - g."""
    num_steps = jax.tree.leaves(inputs.batches)[0].shape[1]
    require(num_steps == 1, f"dsgt takes one local step a round, got {num_steps}")
    updates, opt_state = jax.vmap(rules.tx.update)(
        state.gradient_tracker, state.opt_state, state.omega
    )
    moved = _apply(state.omega, updates, inputs.learning_rate)
    parts = {"omega": moved, "gradient_tracker": state.gradient_tracker}
    parts, public = _mix(rules, state, inputs, parts)
    keys = _step_keys(rules.users, state, 0)
    (losses, aux), grads = rules.gradient(
        parts["omega"], state.model_state, _local_batch(inputs.batches, 0), keys
    )
    tracker = jax.tree.map(
        lambda y, new, old: y + (new - old), parts["gradient_tracker"], grads, state.gradient
    )
    new = state.replace(
        omega=parts["omega"],
        model_state=aux.model_state,
        opt_state=opt_state,
        gradient_tracker=tracker,
        gradient=grads,
        public=public,
    )
    return new, losses, _with_gradient_norm(rules, aux.metrics, grads)


def _train_then_mix(rules: _Rules, state: FederatedState, inputs: RoundInputs):
    """DFedAvg: omega <- mix(h_E). Exact diffusion: phi = h_E + omega - the h_E of the round before,
    omega <- (phi + mix(phi)) / 2."""
    trained, model_state, opt_state, losses, extra = _train_locally(
        rules, state, inputs, state.omega
    )
    sent = trained
    if rules.algorithm.corrects:
        sent = jax.tree.map(
            lambda new, omega, old: new + (omega - old), trained, state.omega, state.adapted
        )
    parts, public = _mix(rules, state, inputs, {"omega": sent})
    omega = parts["omega"]
    if rules.algorithm.corrects:
        omega = jax.tree.map(lambda a, b: (a + b) / 2, sent, omega)
    new = state.replace(
        omega=omega,
        model_state=model_state,
        opt_state=opt_state,
        adapted=trained if rules.algorithm.corrects else None,
        public=public,
    )
    return new, losses, extra


def _average_at_server(rules: _Rules, state: FederatedState, inputs: RoundInputs):
    """FedAvg: the server's model (the same in every user's omega) <- mean of the active users'."""
    users = rules.users
    trained, model_state, opt_state, losses, extra = _train_locally(
        rules, state, inputs, state.omega
    )
    weights = _weights(users, inputs)
    is_anyone = users.sum(weights) > 0
    averaged = users.spread(users.mean({"omega": trained, "model": model_state}, weights))

    def or_old(new, old):
        return jax.tree.map(lambda a, b: jnp.where(is_anyone, a, b.astype(a.dtype)), new, old)

    present = None if inputs.active is None else users.take(inputs.active)
    new = state.replace(
        omega=or_old(averaged["omega"], state.omega),
        model_state=or_old(averaged["model"], state.model_state),
        opt_state=where_user(present, opt_state, state.opt_state),
    )
    return new, losses, extra


_UPDATES = {
    "dsgt": _track_gradients,
    "dfedavg": _train_then_mix,
    "exact_diffusion": _train_then_mix,
    "fedavg": _average_at_server,
}


def _train_locally(rules: _Rules, state: FederatedState, inputs: RoundInputs, start: Any):
    """E optimizer steps of every user from `start`; losses are means over the steps."""
    users, num_steps = rules.users, jax.tree.leaves(inputs.batches)[0].shape[1]

    def local_step(carry, number):
        params, model_state, opt_state = carry
        batch = _local_batch(inputs.batches, number)
        keys = _step_keys(users, state, number)
        (losses, aux), grads = rules.gradient(params, model_state, batch, keys)
        if rules.algorithm.name == "centralised":
            grads = users.spread(users.mean(grads, _weights(users, inputs)))
        updates, new_opt_state = jax.vmap(rules.tx.update)(grads, opt_state, params)
        new = (_apply(params, updates, inputs.learning_rate), aux.model_state, new_opt_state)
        if inputs.num_steps is not None:
            is_taken = number < inputs.num_steps
            new = where_user(is_taken, new, carry)
            losses = jnp.where(is_taken, losses, 0)
        return new, (losses, _with_gradient_norm(rules, aux.metrics, grads))

    carry = (start, state.model_state, state.opt_state)
    if num_steps == 1:
        carry, (losses, extra) = local_step(carry, 0)
        return *carry, losses, extra
    carry, (losses, extra) = jax.lax.scan(local_step, carry, jnp.arange(num_steps))
    count = num_steps if inputs.num_steps is None else jnp.maximum(inputs.num_steps, 1)
    return *carry, losses.sum(axis=0) / count, jax.tree.map(lambda m: m.mean(axis=0), extra)


def _mixed_parts(algorithm: Algorithm, state: FederatedState) -> dict[str, Any]:
    """What the users send to their neighbours."""
    parts = {"omega": state.omega}
    if algorithm.tracks_models:
        parts["tracker"] = state.tracker
    if algorithm.tracks_gradients:
        parts["gradient_tracker"] = state.gradient_tracker
    return parts


def _mix(rules: _Rules, state: FederatedState, inputs: RoundInputs, parts: dict[str, Any]):
    """The mixed parts, and the public copies after this round's messages."""
    if not rules.algorithm.gossips:
        return parts, state.public
    if rules.compression is None:
        return rules.mix(inputs.weights, parts), state.public
    keys = _step_keys(rules.users, state, -1)
    return mix_compressed(rules.mix, inputs.weights, parts, state.public, rules.compression, keys)


def _weights(users: UserAxis, inputs: RoundInputs) -> jax.Array:
    """FedAvg's weights of this device's users: their counts, 0 for absent ones; float [n]."""
    counts = inputs.counts
    weights = jnp.ones(users.per_device) if counts is None else counts.astype(jnp.float32)
    return weights if inputs.active is None else weights * users.take(inputs.active)


def _step_keys(users: UserAxis, state: FederatedState, number: int | jax.Array) -> jax.Array:
    """A typed key for each user of this device, the same on any number of devices; [n]."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jnp.uint32(number + 1))
    return jax.vmap(jax.random.fold_in, (None, 0))(key, users.indices())


def _local_batch(batches: Any, number: int | jax.Array) -> Any:
    return jax.tree.map(lambda x: x[:, number], batches)


def _apply(params: Any, updates: Any, learning_rate: jax.Array | float) -> Any:
    return jax.tree.map(lambda p, u: p + (learning_rate * u).astype(p.dtype), params, updates)


def _with_gradient_norm(rules: _Rules, metrics: dict, grads: Any) -> dict:
    if not rules.diagnose:
        return metrics
    return metrics | {"gradient_norm": jnp.sqrt(squared_norms(grads))}


def _difference(new: Any, old: Any) -> Any:
    return jax.tree.map(jnp.subtract, new, old)


def _loss_metrics(users: UserAxis, losses, extra, trained, omega) -> dict[str, jax.Array]:
    present = jnp.ones(users.per_device, bool) if trained is None else trained
    bad = present & ~jnp.isfinite(losses)
    mean = users.mean(jnp.where(present, losses, 0)[:, None], present.astype(jnp.float32))[0]
    return {
        "loss": mean,
        "user_loss": users.gather(jnp.where(present, losses, jnp.nan)),
        "diverged": users.gather(bad),
        **{name: users.mean(values) for name, values in extra.items()},
    }
