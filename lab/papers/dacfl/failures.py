"""What goes wrong: lost links, absent users, users who leave for good or come later.

A link (i, j) that is down takes its weight back to the diagonal. With undirected losses W stays
symmetric and doubly stochastic, so the users' mean is kept; a lost single message (`row_only`)
breaks that, which is offered to show the damage.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require
from lab.papers.dacfl.state import FederatedState
from lab.papers.dacfl.topology import require_known
from lab.papers.dacfl.users import per_user, where_user

MODES = ("offline", "isolated")
REPAIRS = ("symmetric", "row_only")


@dataclasses.dataclass(frozen=True)
class FailureConfig:
    """Failures drawn or scheduled over a run.

    Attributes:
      link_loss: chance that an undirected link is down in a round; with `row_only`, that one
        direction's message is lost.
      user_loss: chance that a user is absent in a round.
      mode: an absent user is `offline` (its links are down and all its state stands still) or
        `isolated` (its links are down, it trains on).
      repair: `symmetric` or `row_only`.
      outages: bursts (user, first round, number of rounds).
      link_outages: bursts (user, user, first round, number of rounds).
      arrivals: late joiners (user, first round): absent before it, and then begins with the
        weighted mean of its neighbours' models, as `join` does.
    """

    link_loss: float = 0.0
    user_loss: float = 0.0
    mode: str = "offline"
    repair: str = "symmetric"
    outages: tuple[tuple[int, int, int], ...] = ()
    link_outages: tuple[tuple[int, int, int, int], ...] = ()
    arrivals: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("link_loss", "user_loss"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be a chance in [0, 1], got {value}")
        require_known(self.mode, MODES, "mode of absent users")
        require_known(self.repair, REPAIRS, "repair")


def repair(weights: jax.Array, link_up: jax.Array | None, active: jax.Array | None) -> jax.Array:
    """Moves the weight of links that are down, or lead to absent users, to the diagonal.

    W'_ij = W_ij up_ij, W'_ii = W_ii + sum_j W_ij (1 - up_ij): the `symmetric` repair for a
    symmetric `link_up`, the `row_only` one for single lost messages.

    Args: weights float [N, N]; link_up bool [N, N], [i, j] that j's message reaches i; active bool
      [N]. None: all up.
    """
    if link_up is None and active is None:
        return weights
    n = weights.shape[0]
    up = jnp.ones((n, n), bool) if link_up is None else link_up
    if active is not None:
        up = up & active[:, None] & active[None, :]
    up = up | jnp.eye(n, dtype=bool)
    return jnp.where(up, weights, 0) + jnp.diag(jnp.sum(jnp.where(up, 0, weights), axis=1))


def links_up(
    key: jax.Array,
    receivers: jax.Array,
    senders: jax.Array,
    num_users: int,
    loss: float,
    *,
    directed: bool,
) -> jax.Array:
    """Which messages of this round arrive; a function of the key and the link alone.

    Args: key, of the round; receivers and senders int32 of one shape; directed: each message has
      its own luck, else both directions of a link share it.
    Returns: bool of that shape, True with chance 1 - loss.
    """
    low, high = jnp.minimum(receivers, senders), jnp.maximum(receivers, senders)
    first, second = (receivers, senders) if directed else (low, high)
    link = (first * num_users + second).astype(jnp.uint32)

    def draw(number):
        return jax.random.uniform(jax.random.fold_in(key, number))

    return jax.vmap(draw)(link.ravel()).reshape(link.shape) >= loss


def users_active(key: jax.Array, num_users: int, loss: float) -> jax.Array:
    """Which users are there in this round; bool [N], each with chance 1 - loss."""
    return jax.random.uniform(key, (num_users,)) >= loss


def active_mask(config: FailureConfig, num_rounds: int, num_users: int) -> np.ndarray | None:
    """The scheduled absences as bool [T, N]; None where there are none."""
    if not config.outages and not config.arrivals:
        return None
    active = np.ones((num_rounds, num_users), bool)
    for user, start, length in config.outages:
        _require_user(user, num_users)
        require(
            start >= 0 and length >= 1, f"outage {(user, start, length)}: start >= 0, length >= 1"
        )
        active[start : start + length, user] = False
    for user, first_round in config.arrivals:
        _require_arrival(user, first_round, num_rounds, num_users)
        active[:first_round, user] = False
    return active


def arrival_mask(config: FailureConfig, num_rounds: int, num_users: int) -> np.ndarray | None:
    """Who comes late in which round as bool [T, N]; None where nobody does."""
    if not config.arrivals:
        return None
    arriving = np.zeros((num_rounds, num_users), bool)
    for user, first_round in config.arrivals:
        _require_arrival(user, first_round, num_rounds, num_users)
        arriving[first_round, user] = True
    return arriving


def link_mask(config: FailureConfig, num_rounds: int, num_users: int) -> np.ndarray | None:
    """The scheduled link outages as bool [T, N, N]; None where there are none."""
    if not config.link_outages:
        return None
    up = np.ones((num_rounds, num_users, num_users), bool)
    for i, j, start, length in config.link_outages:
        _require_user(i, num_users)
        _require_user(j, num_users)
        up[start : start + length, i, j] = up[start : start + length, j, i] = False
    return up


def check_masks(
    active: Any, link_up: Any, num_rounds: int, num_users: int, repair_name: str = "symmetric"
) -> None:
    """Raises InvalidInputError for masks of another shape, or one-way losses that `symmetric`
    repair cannot mend. All users absent in a round is allowed: nothing happens in it."""
    if active is not None:
        require(
            np.shape(active) == (num_rounds, num_users),
            f"active must be bool [{num_rounds}, {num_users}], got shape {np.shape(active)}",
        )
    if link_up is None:
        return
    shape = (num_rounds, num_users, num_users)
    require(
        np.shape(link_up) == shape,
        f"link_up must be bool {list(shape)}, got shape {np.shape(link_up)}",
    )
    one_way = np.argwhere(np.asarray(link_up) != np.swapaxes(link_up, 1, 2))
    require(
        repair_name != "symmetric" or len(one_way) == 0,
        f"link_up is one-way in round {one_way[0][0] if len(one_way) else ''}; "
        "repair='symmetric' needs symmetric masks, 'row_only' takes lost messages",
    )


def leave(state: FederatedState, user: int, heir: int | None = None) -> FederatedState:
    """A user goes for good. Call it between two runs; the network after it lacks the user.

    Without an heir the trackers of the others keep the leaver's residue: the survivors' mean of
    x - omega is off by -(x_i - omega_i) / (N - 1) for ever, and gradient trackers likewise. With
    an heir, a neighbour, the leaver hands it over: x_k += x_i - omega_i, y_k += y_i - g_i.
    """
    num_users = jax.tree.leaves(state.omega)[0].shape[0]
    _require_user(user, num_users)
    if heir is None:
        return state
    _require_user(heir, num_users)
    require(heir != user, f"user {user} cannot be its own heir")

    def hand_over(tracker, signal):
        return jax.tree.map(lambda t, s: t.at[heir].add(t[user] - s[user]), tracker, signal)

    if state.tracker is not None:
        tracker = hand_over(state.tracker, state.omega)
        # What was handed over is gone: the leaver's own residue becomes zero.
        tracker = jax.tree.map(lambda t, w: t.at[user].set(w[user]), tracker, state.omega)
        state = state.replace(tracker=tracker)
    if state.gradient_tracker is not None:
        trackers = hand_over(state.gradient_tracker, state.gradient)
        trackers = jax.tree.map(lambda t, g: t.at[user].set(g[user]), trackers, state.gradient)
        state = state.replace(gradient_tracker=trackers)
    return state


def join(state: FederatedState, user: int, neighbour_weights: Any) -> FederatedState:
    """A user comes (back) with the weighted mean of its neighbours' omega as omega and x.

    Args: neighbour_weights float [N], non-negative, 0 for itself; normalised here. Velocity and
      gradient trackers of the newcomer start at 0; its optimizer state is left as it is.
    """
    weights = np.asarray(neighbour_weights, np.float64)
    num_users = jax.tree.leaves(state.omega)[0].shape[0]
    _require_user(user, num_users)
    is_share = weights.shape == (num_users,) and weights[user] == 0
    require(
        bool(is_share and (weights >= 0).all() and weights.sum() > 0),
        f"neighbour_weights must be [{num_users}], non-negative, 0 for user {user} itself and not "
        f"all 0; got {weights}",
    )
    share = jnp.asarray(weights / weights.sum(), jnp.float32)

    def arrive(w):
        mean = jnp.einsum("j,j...->...", share, w, precision=jax.lax.Precision.HIGHEST)
        return w.at[user].set(mean)

    omega = jax.tree.map(arrive, state.omega)

    def set_to(tree, values):
        return jax.tree.map(lambda t, v: t.at[user].set(v[user]), tree, values)

    zeros = jax.tree.map(jnp.zeros_like, omega)
    changes = {"omega": omega}
    for name in ("tracker", "adapted"):
        if getattr(state, name) is not None:
            changes[name] = set_to(getattr(state, name), omega)
    for name in ("velocity", "gradient_tracker", "gradient"):
        if getattr(state, name) is not None:
            changes[name] = set_to(getattr(state, name), zeros)
    return state.replace(**changes)


def welcome(
    state: FederatedState, arriving: jax.Array, own: jax.Array, mixed: Any
) -> FederatedState:
    """`join` within a run, for the users in `arriving` bool [n].

    Args: own float [n], the diagonal of this round's weights; mixed, W omega. What a newcomer hears
      from its neighbours alone is (W omega - own omega) / (1 - own); one that hears nobody keeps
      its model.
    """
    heard = 1 - own
    comes = arriving & (heard > 1e-6)

    def arrive(model, mix):
        mean = (mix - per_user(own, model) * model) / per_user(jnp.maximum(heard, 1e-6), model)
        return jnp.where(per_user(comes, model), mean.astype(model.dtype), model)

    omega = jax.tree.map(arrive, state.omega, mixed)
    changes = {"omega": omega}
    for name in ("tracker", "adapted"):
        if getattr(state, name) is not None:
            changes[name] = where_user(comes, omega, getattr(state, name))
    for name in ("velocity", "gradient_tracker", "gradient"):
        if getattr(state, name) is not None:
            zeros = jax.tree.map(jnp.zeros_like, getattr(state, name))
            changes[name] = where_user(comes, zeros, getattr(state, name))
    return state.replace(**changes)


def _require_arrival(user: int, first_round: int, num_rounds: int, num_users: int) -> None:
    _require_user(user, num_users)
    require(
        1 <= first_round < num_rounds,
        f"user {user} must arrive in a round 1..{num_rounds - 1}, got {first_round}",
    )


def _require_user(user: int, num_users: int) -> None:
    require(0 <= user < num_users, f"there is no user {user}; users are 0..{num_users - 1}")
