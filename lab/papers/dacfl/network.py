"""The network over the rounds: a graph and its weights, redrawn or not, with its failures.

The graph and the weights of round t are a function of (configuration, N, seed, t) alone, so that
any round can be looked at again; `draw_network` stacks the distinct ones for a compiled run.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lab.errors import InvalidInputError, require
from lab.papers.dacfl import mixing
from lab.papers.dacfl.failures import (
    FailureConfig,
    active_mask,
    arrival_mask,
    check_masks,
    link_mask,
    links_up,
    repair,
    users_active,
)
from lab.papers.dacfl.mixing import MixingConfig, draw_matrix, one_peer_exponential
from lab.papers.dacfl.topology import (
    TopologyConfig,
    check_adjacency,
    draw_adjacency,
    num_components,
    require_known,
)

ENSURE = ("connected", "union", "none")
ONE_PEER = "one_peer_exponential"
MAX_DRAWS = 100
NO_FAILURES = FailureConfig()


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """A network, fixed or time-varying.

    Attributes:
      topology: which graph; the name `one_peer_exponential` gives the alternating pairs (I + P) / 2
        whose product over log2 N rounds is J.
      mixing: which weights.
      change_every: rounds between redraws; 0 never changes.
      ensure: random graphs are redrawn (at most 100 times) until each is `connected`, until the
        `union` of `union_slots` successive ones is, or not at all (`none`).
      failures: what goes wrong.
    """

    topology: TopologyConfig = dataclasses.field(default_factory=TopologyConfig)
    mixing: MixingConfig = dataclasses.field(default_factory=MixingConfig)
    change_every: int = 0
    ensure: str = "connected"
    union_slots: int = 10
    failures: FailureConfig = dataclasses.field(default_factory=FailureConfig)

    def __post_init__(self) -> None:
        require(
            self.change_every >= 0,
            f"change_every must be at least 1, or 0 for a fixed network; got {self.change_every}",
        )
        require(self.union_slots >= 1, f"union_slots must be at least 1, got {self.union_slots}")
        require_known(self.ensure, ENSURE, "ensure")


class NeighbourTable(struct.PyTreeNode):
    """A sparse mixing matrix: K neighbours a user, padded with the user itself at weight 0.

    Attributes: neighbours int32 [..., N, K]; weights float32 [..., N, K]; own float32 [..., N],
    the diagonal.
    """

    neighbours: jax.Array
    weights: jax.Array
    own: jax.Array


class Network(struct.PyTreeNode):
    """A run's network on the device.

    Attributes:
      weights: float32 [S, N, N], or a NeighbourTable with leading axis S; round t uses slot
        (t // change_every) mod S.
      active: bool [T, N], scheduled presence, or None; link_up: bool [T, N, N], or None;
        arriving: bool [T, N], who comes for the first time, or None.
      key: of the random failures.
      change_every, link_loss, user_loss, mode, repair: static, as in the configurations.
    """

    weights: Any
    active: jax.Array | None
    link_up: jax.Array | None
    key: jax.Array
    arriving: jax.Array | None = None
    change_every: int = struct.field(pytree_node=False, default=1)
    link_loss: float = struct.field(pytree_node=False, default=0.0)
    user_loss: float = struct.field(pytree_node=False, default=0.0)
    mode: str = struct.field(pytree_node=False, default="offline")
    repair: str = struct.field(pytree_node=False, default="symmetric")

    @property
    def num_users(self) -> int:
        """N."""
        leaf = self.weights.own if isinstance(self.weights, NeighbourTable) else self.weights
        return leaf.shape[-1]


def slot_of(config: NetworkConfig, t: int) -> int:
    """Which of the successive networks round t uses."""
    if config.change_every == 0:
        return t if config.topology.name == ONE_PEER else 0
    return t // config.change_every


def adjacency_at(config: NetworkConfig, num_users: int, seed: int, t: int) -> np.ndarray:
    """The graph of round t; int32 [N, N]."""
    return _draw_slot(config, num_users, seed, slot_of(config, t))[0]


def matrix_at(config: NetworkConfig, num_users: int, seed: int, t: int) -> np.ndarray:
    """The mixing matrix of round t before failures; float32 [N, N]."""
    return mixing.to_float32(_draw_slot(config, num_users, seed, slot_of(config, t))[1])


def draw_network(
    config: NetworkConfig,
    num_users: int,
    seed: int,
    num_rounds: int,
    *,
    adjacency: np.ndarray | None = None,
    matrices: np.ndarray | None = None,
    sparse: bool | None = None,
) -> Network:
    """All networks of a run of `num_rounds` rounds, with the failures of `config`.

    Args:
      adjacency: a graph of your own, [N, N], in place of the drawn one; it gets the weights of
        `config.mixing`.
      matrices: weights of your own, [N, N] or [S, N, N], in place of drawn ones; every matrix is
        used for `config.change_every` rounds, or for one where that is 0.
      sparse: whether to keep neighbour tables; by default where N >= 64 and at most a quarter of
        all pairs is joined.
    Raises: InvalidInputError for impossible configurations, weights that are not symmetric and
      doubly stochastic, or a fixed network that never mixes.
    """
    require(num_rounds >= 1, f"a run has at least 1 round, got {num_rounds}")
    require(adjacency is None or matrices is None, "give a graph or weights of your own, not both")
    may_be_apart = config.ensure == "none"
    if matrices is not None:
        matrices = mixing.check_mixing(matrices, num_users, allow_disconnected=may_be_apart)
    elif adjacency is not None:
        adjacency = check_adjacency(adjacency, allow_isolated=may_be_apart)
        require(
            len(adjacency) == num_users,
            f"the graph is for {len(adjacency)} users, but there are {num_users}",
        )
        matrices = draw_matrix(adjacency, config.mixing, _generator(seed, 0, 1))[None]
    else:
        matrices = _drawn_matrices(config, num_users, seed, num_rounds)
    if len(matrices) == 1:
        mixing.check_mixing(
            matrices, num_users, allow_negative=True, allow_disconnected=may_be_apart
        )
    failures = config.failures
    return _placed(
        matrices,
        config.change_every or (1 if len(matrices) > 1 else num_rounds),
        active_mask(failures, num_rounds, num_users),
        link_mask(failures, num_rounds, num_users),
        failures,
        seed,
        sparse,
        arriving=arrival_mask(failures, num_rounds, num_users),
    )


def _drawn_matrices(config: NetworkConfig, num_users: int, seed: int, num_rounds: int):
    """The float64 weights [S, N, N] of all slots of a run."""
    if config.topology.name == ONE_PEER:
        return one_peer_exponential(num_users)
    slots = range(slot_of(config, num_rounds - 1) + 1)
    return np.stack([_draw_slot(config, num_users, seed, slot)[1] for slot in slots])


def network_of(
    matrices: np.ndarray,
    *,
    change_every: int = 1,
    active: np.ndarray | None = None,
    link_up: np.ndarray | None = None,
    num_rounds: int = 0,
    failures: FailureConfig = NO_FAILURES,
    seed: int = 0,
    sparse: bool | None = None,
    allow_negative: bool = False,
    allow_disconnected: bool = False,
) -> Network:
    """A Network around mixing matrices of your own, float [N, N] or [S, N, N].

    Args:
      active: bool [T, N] and link_up: bool [T, N, N], explicit masks (T = num_rounds).
      failures: only its chances, mode and repair count here; schedules are the masks.
      allow_negative, allow_disconnected: of `mixing.check_mixing`.
    Raises: InvalidInputError for weights that are not symmetric and doubly stochastic, or masks of
      another shape.
    """
    require(change_every >= 1, f"change_every must be at least 1, got {change_every}")
    matrices = mixing.check_mixing(
        matrices, allow_negative=allow_negative, allow_disconnected=allow_disconnected
    )
    check_masks(active, link_up, num_rounds, matrices.shape[-1], failures.repair)
    return _placed(matrices, change_every, active, link_up, failures, seed, sparse)


def _placed(
    matrices: np.ndarray,
    change_every: int,
    active: np.ndarray | None,
    link_up: np.ndarray | None,
    failures: FailureConfig,
    seed: int,
    sparse: bool | None,
    arriving: np.ndarray | None = None,
) -> Network:
    """Checked matrices [S, N, N] and masks on the device."""
    num_users = matrices.shape[-1]
    if sparse is None:
        joined = max(np.count_nonzero(m) - num_users for m in matrices)
        sparse = num_users >= 64 and joined <= num_users * (num_users - 1) / 4
    weights = neighbour_table(matrices) if sparse else jnp.asarray(mixing.to_float32(matrices))

    def mask(values):
        return None if values is None else jnp.asarray(values, bool)

    return Network(
        weights=weights,
        active=mask(active),
        link_up=mask(link_up),
        key=jax.random.key(seed),
        arriving=mask(arriving),
        change_every=change_every,
        link_loss=failures.link_loss,
        user_loss=failures.user_loss,
        mode=failures.mode,
        repair=failures.repair,
    )


def neighbour_table(matrices: np.ndarray) -> NeighbourTable:
    """The sparse form of mixing matrices float [S, N, N]; K is the largest degree of all slots."""
    matrices = mixing.to_float32(np.asarray(matrices))
    num_slots, n = matrices.shape[:2]
    joined = (matrices != 0) & ~np.eye(n, dtype=bool)
    width = max(1, int(joined.sum(axis=-1).max()))
    # A stable sort by "not joined" puts each user's neighbours first, in ascending order.
    order = np.argsort(~joined, axis=-1, kind="stable")[..., :width].astype(np.int32)
    is_real = np.take_along_axis(joined, order, axis=-1)
    users = np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], (num_slots, n, width))
    weights = np.where(is_real, np.take_along_axis(matrices, order, axis=-1), 0)
    return NeighbourTable(
        neighbours=jnp.asarray(np.where(is_real, order, users)),
        weights=jnp.asarray(weights.astype(np.float32)),
        own=jnp.asarray(np.einsum("sii->si", matrices)),
    )


def round_network(network: Network, t: jax.Array) -> tuple[Any, jax.Array | None]:
    """The repaired weights of round t and who is there.

    Returns: (float32 [N, N] or a NeighbourTable without slots, bool [N] or None for everybody).
    """
    leaf = jax.tree.leaves(network.weights)[0]
    slot = (t // network.change_every) % leaf.shape[0]
    weights = jax.tree.map(lambda x: x[slot], network.weights)
    n = network.num_users
    user_key, link_key = jax.random.split(jax.random.fold_in(network.key, t))
    active = None if network.active is None else network.active[t]
    if network.user_loss > 0:
        drawn = users_active(user_key, n, network.user_loss)
        active = drawn if active is None else active & drawn
    link_up = None if network.link_up is None else network.link_up[t]
    if isinstance(weights, NeighbourTable):
        return _repair_table(network, weights, link_up, active, link_key), active
    if network.link_loss > 0:
        users = jnp.arange(n)
        receivers, senders = jnp.broadcast_arrays(users[:, None], users[None, :])
        drawn = _draw_links(network, link_key, receivers, senders)
        link_up = drawn if link_up is None else link_up & drawn
    return repair(weights, link_up, active), active


def own_weights(weights: Any) -> jax.Array:
    """What users keep of their own, the diagonal of a round's weights in either form; float [N]."""
    return weights.own if isinstance(weights, NeighbourTable) else jnp.diagonal(weights)


def dense(weights: Any) -> jax.Array:
    """The matrix [..., N, N] of either form of weights."""
    if not isinstance(weights, NeighbourTable):
        return weights
    n = weights.own.shape[-1]
    placed = jax.nn.one_hot(weights.neighbours, n) * weights.weights[..., None]
    return placed.sum(axis=-2) + weights.own[..., None] * jnp.eye(n)


def repaired_matrices(network: Network, num_rounds: int) -> np.ndarray:
    """The matrices that rounds 0..T-1 really use, failures included; float32 [T, N, N]."""
    rounds = jnp.arange(num_rounds)
    return np.asarray(jax.lax.map(lambda t: dense(round_network(network, t)[0]), rounds))


def _draw_links(network: Network, key, receivers, senders) -> jax.Array:
    directed = network.repair == "row_only"
    return links_up(
        key, receivers, senders, network.num_users, network.link_loss, directed=directed
    )


def _repair_table(network: Network, table: NeighbourTable, link_up, active, key) -> NeighbourTable:
    n = network.num_users
    receivers = jnp.broadcast_to(jnp.arange(n)[:, None], table.neighbours.shape)
    up = jnp.ones(table.neighbours.shape, bool)
    if link_up is not None:
        up &= link_up[receivers, table.neighbours]
    if network.link_loss > 0:
        up &= _draw_links(network, key, receivers, table.neighbours)
    if active is not None:
        up &= active[receivers] & active[table.neighbours]
    lost = jnp.sum(jnp.where(up, 0, table.weights), axis=-1)
    return table.replace(weights=jnp.where(up, table.weights, 0), own=table.own + lost)


def _draw_slot(
    config: NetworkConfig, num_users: int, seed: int, slot: int
) -> tuple[np.ndarray, np.ndarray]:
    """Adjacency and float64 weights of one slot."""
    if config.topology.name == ONE_PEER:
        matrices = one_peer_exponential(num_users)
        matrix = matrices[slot % len(matrices)]
        return ((matrix != 0) & ~np.eye(num_users, dtype=bool)).astype(np.int32), matrix
    if config.ensure == "union":
        window, place = divmod(slot, config.union_slots)
        adjacency = _draw_window(config, num_users, seed, window)[place]
        generator = _generator(seed, slot, 1)
    else:
        generator = _generator(seed, slot, 0)
        adjacency = _draw_connected(config, num_users, generator)
    return adjacency, draw_matrix(adjacency, config.mixing, generator)


def _draw_connected(config: NetworkConfig, num_users: int, generator) -> np.ndarray:
    for _ in range(MAX_DRAWS):
        adjacency = draw_adjacency(num_users, config.topology, generator)
        if config.ensure == "none" or num_components(adjacency) == 1:
            return adjacency
    raise _never_connected(config, num_users, "graph")


def _draw_window(config: NetworkConfig, num_users: int, seed: int, window: int) -> list:
    """The successive graphs whose union is connected."""
    generator = _generator(seed, window, 2)
    for _ in range(MAX_DRAWS):
        drawn = [
            draw_adjacency(num_users, config.topology, generator) for _ in range(config.union_slots)
        ]
        if num_components(np.any(drawn, axis=0)) == 1:
            return drawn
    raise _never_connected(config, num_users, f"union of {config.union_slots} graphs")


def _never_connected(config: NetworkConfig, num_users: int, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"no connected {what} of {config.topology} on {num_users} users in {MAX_DRAWS} draws; "
        "raise its density, or take ensure='none'"
    )


def _generator(seed: int, slot: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, slot, purpose]))
