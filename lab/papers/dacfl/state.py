"""The state of all users as one pytree."""

from typing import Any

import jax
from flax import struct


class FederatedState(struct.PyTreeNode):
    """Everything a round needs and changes. Per-user leaves are [N, ...].

    Attributes:
      step: int32 scalar, the number of rounds taken; key: a typed key that never changes.
      omega: the users' models, a pytree of float leaves.
      model_state: the users' mutable collections ({} where there are none); each user's own.
      opt_state: the users' optimizer states; never mixed.
      tracker: x of DACFL, the estimate of the mean model; None elsewhere.
      gradient_tracker, gradient: y and the last gradient of gradient tracking; None elsewhere.
      velocity: of heavy-ball momentum; None without.
      adapted: where exact diffusion's last local training ended; None elsewhere.
      public: what the neighbours hold of the user's models when messages are compressed; None
        where messages are exact.
    """

    step: jax.Array
    key: jax.Array
    omega: Any
    model_state: Any
    opt_state: Any
    tracker: Any = None
    gradient_tracker: Any = None
    gradient: Any = None
    velocity: Any = None
    adapted: Any = None
    public: Any = None


def mean_model(models: Any) -> Any:
    """The mean over users of a pytree of models [N, ...]."""
    return jax.tree.map(lambda x: x.mean(axis=0), models)
