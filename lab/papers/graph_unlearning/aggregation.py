"""One prediction from the posteriors of all shard models (spec section 8).

`log_probs` is float [S, n, C] everywhere: log_softmax of the logits of S shard models on the same n
nodes. Predictions are int [n], ties to the smallest class.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from lab.arrays import Array
from lab.data.graphs import preview
from lab.errors import NonFiniteError, require
from lab.papers.graph_unlearning.data import RandomGenerator


def check_log_probs(log_probs: Any) -> None:
    """Raises NonFiniteError, naming the shards, where a posterior is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(np.asarray(log_probs)).all(axis=(1, 2)))
    require(bad.size == 0, f"posteriors of shards {preview(bad)} are not finite", NonFiniteError)


def without_empty_shards(log_probs: jax.Array, shard_sizes: np.ndarray) -> jax.Array:
    """Posteriors of the shards that still have train nodes; warns about those that have none.

    Args: shard_sizes int [S]. Raises: InvalidInputError where every shard is empty.
    """
    empty = np.flatnonzero(np.asarray(shard_sizes) == 0)
    if not empty.size:
        return log_probs
    require(empty.size < len(shard_sizes), "every shard has lost all its train nodes")
    warnings.warn(f"shards {preview(empty)} are empty and do not vote", stacklevel=2)
    return log_probs[np.flatnonzero(shard_sizes)]


def mean_log_probs(log_probs: jax.Array) -> jax.Array:
    """The mean aggregator as the official code has it, a mean of LOG-probabilities: [n, C]."""
    return log_probs.mean(axis=0)


def mean_probs(log_probs: jax.Array) -> jax.Array:
    """The mean aggregator over probabilities: [n, C]."""
    return jnp.exp(log_probs).mean(axis=0)


def votes(log_probs: jax.Array) -> jax.Array:
    """The majority aggregator: how many shards vote for each class, int32 [n, C]."""
    choices = jax.nn.one_hot(log_probs.argmax(axis=-1), log_probs.shape[-1], dtype=jnp.int32)
    return choices.sum(axis=0)


def weighted_log_probs(log_probs: Array, weights: Array) -> jax.Array:
    """The learned aggregator, sum of weights [S] times log-probabilities: [n, C]."""
    return jnp.einsum("s,snc->nc", weights, log_probs)


def predict(scores: Array) -> Array:
    """The class with the highest score of any aggregator: [n, C] -> int [n]."""
    return scores.argmax(axis=-1)


@dataclasses.dataclass(frozen=True)
class LBAggrConfig:
    """Fitting of the learned aggregator. The defaults are the official values."""

    learning_rate: float = 0.001
    batch_size: int = 32
    num_epochs: int = 50
    norm_coefficient: float = 1.0
    """Weight of the plain (not squared) 2-norm; it outweighs the cross-entropy."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "num_epochs"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}; accepted: above 0")
        require(
            self.norm_coefficient >= 0,
            f"norm_coefficient is {self.norm_coefficient}; accepted: 0 and above",
        )


class LBAggrFit(struct.PyTreeNode):
    """A fitted aggregator.

    Attributes:
      weights: float [S], not negative, sum 1: those at the end of the best epoch, normalised.
      best_epoch: int, the counted epoch with the smallest sum of batch losses; -1 if none counts
        (all weights fell to 0 within the first: `weights` are equal then).
      weights_per_epoch: float [epochs, S], at the end of each epoch, not normalised.
      loss_sum_per_epoch: float [epochs], of batch losses, each before its step.
      is_counted: bool [epochs], epochs before the one in which all weights become 0.
      official_weights, official_best_epoch: as the official code returns them: it also counts an
        epoch whose last step brings all weights to 0, and its weights are NaN then.
    """

    weights: jax.Array
    best_epoch: jax.Array
    weights_per_epoch: jax.Array
    loss_sum_per_epoch: jax.Array
    is_counted: jax.Array
    official_weights: jax.Array
    official_best_epoch: jax.Array


def optimisation_nodes(
    train_ids: np.ndarray, size: int | float | None, rng: RandomGenerator
) -> np.ndarray:
    """The train nodes on which the aggregator is fitted, ascending, drawn without replacement.

    A node that was unlearned must not be among them: draw again from the train ids that are left.

    Args: size, their number (int), their share (float up to 1), or None for all; the official
      code's settings are 1000, 0.1 and all. A number above what there is takes all, with a warning.
    """
    num_train = len(train_ids)
    if size is None:
        return np.sort(train_ids)
    require(size > 0, f"size is {size}; accepted: a number of nodes, or a share up to 1")
    if isinstance(size, float):
        require(size <= 1, f"size is {size}; a share is at most 1.0, a number of nodes an int")
        size = max(int(size * num_train), 1)
    if size > num_train:
        warnings.warn(f"LBAggr uses all {num_train} train nodes, not {size}", stacklevel=2)
        size = num_train
    return np.sort(rng.choice(train_ids, size, replace=False))


def epoch_orders(key: jax.Array, num_epochs: int, num_nodes: int) -> jax.Array:
    """A fresh shuffle of the optimisation nodes for every epoch: int32 [num_epochs, num_nodes]."""
    keys = jax.random.split(key, num_epochs)
    return jax.vmap(lambda k: jax.random.permutation(k, num_nodes))(keys)


def lbaggr_loss(
    weights: jax.Array,
    log_probs: jax.Array,
    labels: jax.Array,
    mask: jax.Array | None = None,
    norm_coefficient: float = 1.0,
) -> jax.Array:
    """CE(softmax(sum_s a_s Q_s), y) + c ||a||_2, the CE applying a log-softmax of its own.

    The softmax inside is the official code's: the cross-entropy sees probabilities as logits, and
    is much flatter than it ought to be. Kept, because the published weights come from it.

    Args: weights [S]; log_probs [S, b, C]; labels int [b]; mask bool [b], nodes that count.
    Returns: float scalar. The gradient at weights 0 is that of the cross-entropy alone.
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    mixed = jax.nn.softmax(weighted_log_probs(log_probs, weights))
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(mixed, labels)
    mean = jnp.where(mask, losses, 0).sum() / jnp.maximum(mask.sum(), 1)
    return mean + norm_coefficient * optax.safe_norm(weights, 0.0)


@functools.partial(jax.jit, static_argnames="config")
def fit_lbaggr(
    log_probs: jax.Array,
    labels: jax.Array,
    orders: jax.Array,
    config: LBAggrConfig | None = None,
) -> LBAggrFit:
    """Learns the importance of every shard (LBAggr) in one compiled scan; `vmap` it over seeds.

    Adam on batches in the given orders, weights clamped at 0 after every step. The norm shrinks all
    weights; once all are 0 nothing is learned any more (the official code's gradient is NaN from
    there on), so the epoch in which that happens and all later ones do not count.

    Args:
      log_probs: float [S, m, C] on the optimisation nodes.
      labels: int [m].
      orders: int [epochs, m], the order of the nodes in every epoch (`epoch_orders`); batches are
        consecutive, the last may be short.
      config: its num_epochs is not read, the orders say it.
    """
    config = config or LBAggrConfig()
    num_shards = len(log_probs)
    tx = optax.adam(config.learning_rate)
    batches, masks = _batches(orders, config.batch_size)

    def step(carry, batch):
        weights, opt_state, alive = carry
        nodes, mask = batch
        loss, gradient = jax.value_and_grad(lbaggr_loss)(
            weights, log_probs[:, nodes], labels[nodes], mask, config.norm_coefficient
        )
        updates, new_opt_state = tx.update(gradient, opt_state)
        moved: Any = optax.apply_updates(weights, updates)
        stepped = jnp.maximum(moved, 0)
        kept = jax.tree.map(
            lambda new, old: jnp.where(alive, new, old),
            (stepped, new_opt_state),
            (weights, opt_state),
        )
        return (*kept, alive & (stepped > 0).any()), (loss, alive)

    def epoch(carry, nodes):
        carry, (losses, alive_before) = jax.lax.scan(step, carry, (nodes, masks))
        return carry, (carry[0], losses.sum(), carry[2], alive_before.all())

    start = jnp.full(num_shards, 1 / num_shards, log_probs.dtype)
    carry = (start, tx.init(start), jnp.asarray(True))
    _, (per_epoch, loss_sums, is_counted, official_counted) = jax.lax.scan(epoch, carry, batches)
    best, weights = _best(per_epoch, loss_sums, is_counted)
    equal = jnp.full_like(start, 1 / num_shards)
    official_best, official_weights = _best(per_epoch, loss_sums, official_counted)
    return LBAggrFit(
        weights=jnp.where(best >= 0, weights, equal),
        best_epoch=best,
        weights_per_epoch=per_epoch,
        loss_sum_per_epoch=loss_sums,
        is_counted=is_counted,
        official_weights=official_weights,
        official_best_epoch=official_best,
    )


def _batches(orders, batch_size):
    """Orders [epochs, m] as nodes [epochs, batches, size], and which of an epoch are real."""
    num_nodes = orders.shape[1]
    num_batches = -(-num_nodes // batch_size)
    padding = num_batches * batch_size - num_nodes
    padded = jnp.pad(orders.astype(jnp.int32), ((0, 0), (0, padding)))
    masks = (jnp.arange(num_batches * batch_size) < num_nodes).reshape(num_batches, batch_size)
    return padded.reshape(-1, num_batches, batch_size), masks


def _best(weights_per_epoch, loss_sums, is_counted):
    """The counted epoch with the smallest loss sum (-1: none) and its weights over their sum."""
    epoch = jnp.where(is_counted, loss_sums, jnp.inf).argmin()
    weights = weights_per_epoch[epoch]
    return jnp.where(is_counted.any(), epoch, -1), weights / weights.sum()
