"""Each user's mini-batches: shuffled without replacement, reshuffled every epoch, last one dropped.

A batch is a function of (key, user, step), so a run may be cut anywhere, and divided over any
number of devices, without changing what is drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require


def epochs_spanned(counts: np.ndarray, batch_size: int, num_steps: int) -> int:
    """The most epochs that any `num_steps` consecutive steps of any user touch.

    Args: counts int [..., N]. Users with fewer examples than a batch draw with replacement and
      have no epochs.
    """
    counts = np.asarray(counts)
    enough = counts[counts >= batch_size]
    if enough.size == 0:
        return 1
    per_epoch = int(enough.min()) // batch_size
    # A window that begins at the last step of an epoch touches one epoch more.
    return (num_steps + per_epoch - 2) // per_epoch + 1


def batch_rows(
    key: jax.Array,
    users: jax.Array,
    counts: jax.Array,
    first_step: jax.Array,
    *,
    num_steps: int,
    batch_size: int,
    width: int,
    num_epochs: int,
    has_small_users: bool,
) -> jax.Array:
    """Positions within each user's own examples for consecutive local steps.

    Args:
      users: int32 [n], global user numbers; counts int32 [n], at most `width`.
      first_step: int32, local steps counted from the beginning of the run.
      num_epochs: at least `epochs_spanned(counts, batch_size, num_steps)`.
      has_small_users: whether any user has fewer examples than a batch; it then draws with
        replacement.
    Returns: int32 [num_steps, n, batch_size], each below the user's count.
    """
    require(batch_size >= 1, f"the batch size must be at least 1, got {batch_size}")
    steps = first_step + jnp.arange(num_steps)

    def of_user(user, count):
        user_key = jax.random.fold_in(key, user)
        per_epoch = jnp.maximum(count // batch_size, 1)
        first_epoch = first_step // per_epoch
        epochs = first_epoch + jnp.arange(num_epochs)
        orders = jax.vmap(lambda epoch: _shuffled(user_key, epoch, count, width))(epochs)
        begin = steps % per_epoch * batch_size
        place = jnp.minimum(begin[:, None] + jnp.arange(batch_size), width - 1)
        rows = orders[(steps // per_epoch - first_epoch)[:, None], place]
        if has_small_users:
            rows = jnp.where(count >= batch_size, rows, _with_replacement(user_key, steps, count))
        return rows

    def _with_replacement(user_key, steps, count):
        def draw(step):
            uniform = jax.random.uniform(jax.random.fold_in(user_key, step), (batch_size,))
            return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)

        return jax.vmap(draw)(steps)

    return jax.vmap(of_user, out_axes=1)(users, counts)


def _shuffled(user_key: jax.Array, epoch: jax.Array, count: jax.Array, width: int) -> jax.Array:
    """0..count-1 in the random order of an epoch, followed by the padding; int32 [width]."""
    score = jax.random.uniform(jax.random.fold_in(user_key, epoch), (width,))
    score = jnp.where(jnp.arange(width) < count, score, 2.0)
    return jnp.argsort(score).astype(jnp.int32)
