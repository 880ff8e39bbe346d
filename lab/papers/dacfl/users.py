"""The axis of users: all N on one device, or equal blocks of them over several devices.

Every per-user array has the users as its leading axis. `n` is the number of users on this device
(N where there is one device), and user `d * n + i` is the i-th of device d.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lab.errors import require


@dataclasses.dataclass(frozen=True)
class UserAxis:
    """Where the users live.

    Attributes: num_users N; num_devices D, a divisor of N; axis_name, the mapped axis of devices,
    None where all users are on one device.
    """

    num_users: int
    num_devices: int = 1
    axis_name: str | None = None

    def __post_init__(self) -> None:
        require(self.num_users >= 1, f"num_users must be at least 1, got {self.num_users}")
        require(
            self.num_devices >= 1 and self.num_users % self.num_devices == 0,
            f"{self.num_users} users do not divide over {self.num_devices} devices",
        )

    @property
    def per_device(self) -> int:
        """n, the number of users on this device."""
        return self.num_users // self.num_devices

    def indices(self) -> jax.Array:
        """Global numbers of this device's users; int32 [n]."""
        here = jnp.arange(self.per_device, dtype=jnp.int32)
        if self.axis_name is None:
            return here
        return jax.lax.axis_index(self.axis_name) * self.per_device + here

    def take(self, tree: Any) -> Any:
        """This device's rows of arrays [N, ...]."""
        if self.axis_name is None:
            return tree
        start = jax.lax.axis_index(self.axis_name) * self.per_device
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, self.per_device), tree)

    def gather(self, tree: Any) -> Any:
        """All users' rows [N, ...] of arrays [n, ...], on every device."""
        if self.axis_name is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, self.axis_name, tiled=True), tree)

    def sum(self, values: jax.Array) -> jax.Array:
        """Sum over all users of an array [n, ...]."""
        total = jnp.sum(values, axis=0)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)

    def mean(self, tree: Any, weights: jax.Array | None = None) -> Any:
        """Mean over all users of arrays [n, ...]; with weights float [n], the weighted one.

        Where all weights are 0 the result is 0. It is a matrix product: XLA would fuse a plain
        sum over users into whatever reads the mean and take it again for every user.
        """
        if weights is None:
            share = jnp.full(self.per_device, 1 / self.num_users, jnp.float32)
        else:
            total = self.sum(weights)
            share = weights / jnp.where(total > 0, total, 1)
            # A user of weight 0 must not reach the sum even when its model is not finite.
            tree = where_user(share > 0, tree, jax.tree.map(jnp.zeros_like, tree))

        def mean(x):
            flat = x.reshape(x.shape[0], -1)
            total = jnp.einsum("j,jd->d", share, flat, precision=jax.lax.Precision.HIGHEST)
            total = total if self.axis_name is None else jax.lax.psum(total, self.axis_name)
            return total.reshape(x.shape[1:]).astype(x.dtype)

        return jax.tree.map(mean, tree)

    def spread(self, tree: Any) -> Any:
        """The same arrays [...] for every user of this device: [n, ...]."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (self.per_device, *x.shape)), tree)


def per_user(mask: jax.Array, array: jax.Array) -> jax.Array:
    """A mask or factor [n] shaped to multiply an array [n, ...]."""
    return mask.reshape(mask.shape + (1,) * (array.ndim - 1))


def where_user(mask: jax.Array | None, chosen: Any, other: Any) -> Any:
    """Leaves of `chosen` for the users in `mask` bool [n], of `other` for the rest; None: all."""
    if mask is None:
        return chosen
    return jax.tree.map(lambda a, b: jnp.where(per_user(mask, a), a, b), chosen, other)


def check_user_leaves(tree: Any, num_users: int, what: str = "params") -> None:
    """Raises InvalidInputError that names the first leaf without a users axis, or not of floats."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = f"{what}{jax.tree_util.keystr(path)}"
        shape = jnp.shape(leaf)
        require(
            len(shape) >= 1 and shape[0] == num_users,
            f"{name} has shape {shape}; its leading axis must be the {num_users} users",
        )
        dtype = jnp.result_type(leaf)
        require(
            jnp.issubdtype(dtype, jnp.floating),
            f"{name} is {dtype}: only floating-point leaves can be mixed",
        )
