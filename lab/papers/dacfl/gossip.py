"""Mixing: users replace their models by weighted means of their neighbours', W @ models.

Einsum letters: i, j users; d everything else of a leaf. All mixing is float32 at HIGHEST
precision: with bfloat16 or TF32 products the rows of W no longer sum to 1 and the users' mean
drifts by 1e-3 a round.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require
from lab.papers.dacfl.compression import CompressionConfig, compress
from lab.papers.dacfl.network import NeighbourTable, Network
from lab.papers.dacfl.users import UserAxis, per_user

Mix = Callable[[Any, Any], Any]
HIGHEST = jax.lax.Precision.HIGHEST


def mix_dense(weights: jax.Array, tree: Any, users: UserAxis) -> Any:
    """mix(W, p)_i = sum_j W_ij p_j for every leaf.

    Over several devices every leaf is gathered, and each device computes its own users' rows.

    Args: weights float [N, N]; tree, leaves [n, ...].
    """
    rows = users.take(weights)

    def mix(leaf):
        everyone = users.gather(leaf.astype(jnp.float32))
        flat = everyone.reshape(users.num_users, -1)
        mixed = jnp.einsum("ij,jd->id", rows, flat, precision=HIGHEST)
        return mixed.reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree.map(mix, tree)


def mix_table(table: NeighbourTable, tree: Any, users: UserAxis) -> Any:
    """The same for a sparse matrix: N K d products and no [N, K, d] array in between."""
    local = users.take(table)

    def mix(leaf):
        everyone = users.gather(leaf.astype(jnp.float32))
        mixed = leaf.astype(jnp.float32) * per_user(local.own, leaf)
        for k in range(local.weights.shape[-1]):
            neighbour = everyone[local.neighbours[:, k]]
            mixed = mixed + neighbour * per_user(local.weights[:, k], leaf)
        return mixed.astype(leaf.dtype)

    return jax.tree.map(mix, tree)


def mix_circulant(weights: jax.Array, tree: Any, users: UserAxis, offsets: tuple[int, ...]) -> Any:
    """The same for a circulant graph: user i hears i + o mod N for each offset o.

    Over several devices only the users that cross a device's border travel (`ppermute`): for a
    ring 2 users' models a device instead of all N. The weights may be any on that graph, so that
    repaired links are no exception.

    Args: weights float [N, N], zero off the offsets; offsets, each in 1..N-1, both directions.
    """
    n = users.num_users
    here = users.indices()
    own = weights[here, here]

    def mix(leaf):
        values = leaf.astype(jnp.float32)
        mixed = values * per_user(own, leaf)
        for offset in offsets:
            factor = weights[here, (here + offset) % n]
            mixed = mixed + _shifted(values, offset, users) * per_user(factor, leaf)
        return mixed.astype(leaf.dtype)

    return jax.tree.map(mix, tree)


def _shifted(values: jax.Array, offset: int, users: UserAxis) -> jax.Array:
    """Row i becomes the row of user i + offset mod N; over devices by neighbour exchange."""
    if users.axis_name is None:
        return jnp.roll(values, -offset, axis=0)
    hops, rest = divmod(offset, users.per_device)
    kept = _from_device(values[rest:], hops, users)
    if rest == 0:
        return kept
    return jnp.concatenate([kept, _from_device(values[:rest], hops + 1, users)])


def _from_device(values: jax.Array, hops: int, users: UserAxis) -> jax.Array:
    """The `values` of the device that many places further on."""
    count = users.num_devices
    if hops % count == 0:
        return values
    pairs = [((d + hops) % count, d) for d in range(count)]
    return jax.lax.ppermute(values, users.axis_name, pairs)


def circulant_offsets(matrices: np.ndarray) -> tuple[int, ...] | None:
    """The offsets at which any of the matrices [S, N, N] has weight, if their graph is circulant.

    Returns: ascending offsets in 1..N-1; None where some user lacks a neighbour that others have.
    """
    joined = (np.asarray(matrices) != 0).any(axis=0)
    n = len(joined)
    i = np.arange(n)
    offsets = [o for o in range(1, n) if joined[i, (i + o) % n].any()]
    if all(joined[i, (i + o) % n].all() for o in offsets):
        return tuple(offsets)
    return None


def choose_mix(network: Network, users: UserAxis, offsets: tuple[int, ...] | None = None) -> Mix:
    """The mixing of a network over these users: `mix(weights, tree) -> tree`.

    Neighbour tables are gathered from; with `offsets`, of `exchange_offsets`, neighbours are
    exchanged between devices; everything else is a matrix product.
    """
    require(
        network.num_users == users.num_users,
        f"the network has {network.num_users} users, the run {users.num_users}",
    )
    if isinstance(network.weights, NeighbourTable):
        return lambda weights, tree: mix_table(weights, tree, users)
    if offsets is not None:
        return lambda weights, tree: mix_circulant(weights, tree, users, offsets)
    return lambda weights, tree: mix_dense(weights, tree, users)


def exchange_offsets(network: Network, users: UserAxis) -> tuple[int, ...] | None:
    """The offsets to exchange over devices, or None where gathering all models moves less."""
    if isinstance(network.weights, NeighbourTable) or users.axis_name is None:
        return None
    matrices = np.asarray(network.weights).reshape(-1, users.num_users, users.num_users)
    offsets = circulant_offsets(matrices)
    if offsets is None or _travelling(offsets, users) >= users.num_users:
        return None
    return offsets


def _travelling(offsets: tuple[int, ...], users: UserAxis) -> int:
    """How many users' models reach a device in one neighbour exchange."""
    return sum(min(o, users.num_users - o, users.per_device) for o in offsets)


def mix_compressed(
    mix: Mix, weights: Any, tree: Any, public: Any, config: CompressionConfig, keys: jax.Array
) -> tuple[Any, Any]:
    """Gossip with compressed messages (CHOCO; Koloskova et al., 2019, algorithm 1).

    Neighbours hold a public copy of each model. A user sends only the compressed difference to
    it; everybody updates the copy, and moves by step_size * (W - I) public. The users' mean is
    kept exactly, whatever the compression drops, and dropped parts are sent later.

    Args: tree, public: leaves [n, ...]; keys [n], a user's own of this round.
    Returns: (mixed, public).
    """
    difference = jax.tree.map(jnp.subtract, tree, public)
    sent = compress(difference, config, keys)
    public = jax.tree.map(jnp.add, public, sent)
    mixed = jax.tree.map(
        lambda p, m, q: p + config.step_size * (m - q), tree, mix(weights, public), public
    )
    return mixed, public
