"""What the paper measures: accuracy over users, and how far apart their models are."""

from typing import Any

import jax
import jax.numpy as jnp

from lab.papers.dacfl.users import UserAxis


def user_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Each user's share of right answers; float [N] of logits [N, n, C] and labels int [n].

    Of equal logits the first class is the answer.
    """
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels, axis=-1)


def class_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Each user's accuracy on each class; float [N, C], NaN where the test set lacks the class."""
    right = jnp.argmax(logits, axis=-1) == labels
    of_class = jax.nn.one_hot(labels, logits.shape[-1])
    count = of_class.sum(axis=0)
    share = right.astype(jnp.float32) @ of_class / jnp.maximum(count, 1)
    return jnp.where(count > 0, share, jnp.nan)


def accuracy_summary(accuracy: jax.Array) -> dict[str, jax.Array]:
    """The paper's Average of Acc and Var of Acc (population variance), with their relatives.

    Args: accuracy float [..., N], fractions.
    Returns: average_of_acc, var_of_acc (fractions squared), var_of_acc_percent2, std_points (in
      percentage points), min_acc, max_acc; float [...] each.
    """
    variance = jnp.var(accuracy, axis=-1)
    return {
        "average_of_acc": jnp.mean(accuracy, axis=-1),
        "var_of_acc": variance,
        "var_of_acc_percent2": variance * 1e4,
        "std_points": jnp.sqrt(variance) * 100,
        "min_acc": jnp.min(accuracy, axis=-1),
        "max_acc": jnp.max(accuracy, axis=-1),
    }


def squared_norms(tree: Any) -> jax.Array:
    """Each user's squared 2-norm over all leaves [n, ...]; float [n]."""
    first, *others = (
        jnp.sum(jnp.square(x).reshape(x.shape[0], -1), axis=1) for x in jax.tree.leaves(tree)
    )
    return sum(others, start=first)


def deviations(tree: Any, users: UserAxis) -> Any:
    """(I - J) applied to the users of a pytree [n, ...]: each minus the mean of all."""
    return jax.tree.map(lambda x, mean: x - mean[None], tree, users.mean(tree))


def consensus_distance(tree: Any, users: UserAxis) -> jax.Array:
    """mean_i |p_i - mean p|^2 over all leaves; float scalar."""
    return users.mean(squared_norms(deviations(tree, users)))


def disagreement(tree: Any, users: UserAxis) -> jax.Array:
    """|(I - J) p|_F over all leaves; float scalar."""
    return jnp.sqrt(users.sum(squared_norms(deviations(tree, users))))


def mean_gap(tracker: Any, omega: Any, users: UserAxis) -> jax.Array:
    """|mean x - mean omega| / |mean omega|, 0 but for rounding (claim C6); float scalar."""
    ours, theirs = users.mean(tracker), users.mean(omega)
    square = sum(jnp.sum(jnp.square(a - b)) for a, b in _pairs(ours, theirs))
    size = sum(jnp.sum(jnp.square(b)) for b in jax.tree.leaves(theirs))
    return jnp.sqrt(square / jnp.maximum(size, 1e-30))


def finite_users(tree: Any) -> jax.Array:
    """Which users' float leaves [n, ...] hold no NaN or infinity; bool [n]."""
    flags = [
        jnp.all(jnp.isfinite(x).reshape(x.shape[0], -1), axis=1)
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return jnp.all(jnp.stack(flags), axis=0)


def members_only(accuracy: jax.Array, members: jax.Array) -> jax.Array:
    """Accuracies [..., N] of the users in `members` bool [N], host side."""
    return jnp.asarray(accuracy)[..., jnp.flatnonzero(members)]


def _pairs(first: Any, second: Any):
    return zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
