"""The loss of shard training."""

import jax
import optax

from lab.train.steps import mean_over


def node_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the masked nodes; 0 where the mask is empty.

    Args: logits float [n, classes]; labels int [n]; mask bool [n].
    Returns: float scalar.
    """
    return mean_over(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels), mask)
