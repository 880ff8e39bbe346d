"""What a run reads, on the device throughout: pooled examples, who holds which, the network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lab.data.images import load_images
from lab.errors import require
from lab.papers.dacfl.network import NeighbourTable, Network
from lab.papers.dacfl.partition import check_partition, pack


class FederatedData(struct.PyTreeNode):
    """Everything a run reads.

    Attributes:
      examples: a pytree, leaves [num_examples, ...], the users' examples pooled.
      index: int32 [N, M], each user's rows of `examples`, padded; counts int32 [N], the real ones.
      network: of all rounds.
      test: what `evaluate` is given, or None.
      lr_scale: float scalar on the learning rate (a copy's own, to run several at once).
      holds_one: each user holds one example, and that is its batch, without an axis of examples.
    """

    examples: Any
    index: jax.Array
    counts: jax.Array
    network: Network
    test: Any
    lr_scale: jax.Array
    holds_one: bool = struct.field(pytree_node=False, default=False)

    @property
    def num_users(self) -> int:
        """N."""
        return self.index.shape[-2]


def federated_data(
    examples: Any,
    parts: Sequence[np.ndarray] | None,
    network: Network,
    test: Any = None,
    lr_scale: float = 1.0,
) -> FederatedData:
    """Data of one run, checked.

    Args:
      examples: a pytree with a leading axis of all examples, for example
        {"inputs": [n, ...], "labels": int [n]}.
      parts: each user's rows (see `partition`). None: user i holds example i alone, a graph for
        instance, and the loss is given it as it is, without an axis of examples.
    Raises: InvalidInputError for parts that are empty or out of range, a network of another number
      of users, or leaves of different lengths.
    """
    sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(examples)}
    require(len(sizes) == 1, f"the leaves of examples have different lengths: {sorted(sizes)}")
    num_examples = sizes.pop()
    held = [np.array([row]) for row in range(num_examples)] if parts is None else parts
    packed = pack(check_partition(held, num_examples))
    require(
        network.num_users == len(packed.counts),
        f"the network has {network.num_users} users, the partition {len(packed.counts)}",
    )
    return FederatedData(
        examples=jax.tree.map(jnp.asarray, examples),
        index=jnp.asarray(packed.index),
        counts=jnp.asarray(packed.counts),
        network=network,
        test=jax.tree.map(jnp.asarray, test),
        lr_scale=jnp.float32(lr_scale),
        holds_one=parts is None,
    )


def stack_copies(copies: Sequence[FederatedData]) -> FederatedData:
    """Several runs' data for one call: they share examples and test set, and stack the rest.

    Raises: InvalidInputError where their examples are not the same arrays, or their networks have
      different forms.
    """
    first = copies[0]
    for other in copies[1:]:
        pairs = zip(
            jax.tree.leaves((first.examples, first.test)),
            jax.tree.leaves((other.examples, other.test)),
            strict=True,
        )
        require(
            all(a is b or a.shape == b.shape for a, b in pairs)
            and jax.tree.structure(first.network) == jax.tree.structure(other.network),
            "copies must share their examples and have networks of one form",
        )
    width = max(copy.index.shape[1] for copy in copies)
    padded = [copy.replace(index=_widened(copy.index, width)) for copy in copies]
    networks = _of_one_width([copy.network for copy in copies])

    def stack(*leaves):
        return jnp.stack(leaves)

    return first.replace(
        index=stack(*(copy.index for copy in padded)),
        counts=stack(*(copy.counts for copy in padded)),
        network=jax.tree.map(stack, *networks),
        lr_scale=stack(*(copy.lr_scale for copy in padded)),
    )


def standardise(
    images: np.ndarray, mean: Sequence[float] | float, std: Sequence[float] | float
) -> np.ndarray:
    """(pixel / 255 - mean) / std a channel; float32 of uint8 images [..., C]."""
    scaled = images.astype(np.float32) / 255
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def image_set(
    name: str,
    num_train: int | None = None,
    num_test: int | None = None,
    data_dir: str | Path | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Standardised train and test examples {"inputs": float32 [n, H, W, C], "labels": int32 [n]}.

    Args: name, "mnist", "fashion_mnist" or "cifar10"; num_train, num_test, the first so many. Mean
      and standard deviation a channel are those of the whole training set.
    """
    images, labels = load_images(name, "train", data_dir)
    scaled = images.reshape(-1, images.shape[-1]) / np.float64(255)
    mean, std = scaled.mean(axis=0), scaled.std(axis=0)
    del scaled
    test_images, test_labels = load_images(name, "test", data_dir)
    return (
        examples_of(images[:num_train], labels[:num_train], mean, std),
        examples_of(test_images[:num_test], test_labels[:num_test], mean, std),
    )


def examples_of(images: Any, labels: Any, mean: Any, std: Any) -> dict[str, np.ndarray]:
    """Images and labels as a standardised example set."""
    return {"inputs": standardise(images, mean, std), "labels": np.asarray(labels, np.int32)}


def _widened(index: jax.Array, width: int) -> jax.Array:
    missing = width - index.shape[1]
    return jnp.concatenate([index, jnp.repeat(index[:, :1], missing, axis=1)], axis=1)


def _of_one_width(networks: Sequence[Network]) -> list[Network]:
    """Neighbour tables padded to the largest number of neighbours."""
    if not isinstance(networks[0].weights, NeighbourTable):
        return list(networks)
    width = max(network.weights.weights.shape[-1] for network in networks)
    return [network.replace(weights=_wider_table(network.weights, width)) for network in networks]


def _wider_table(table: NeighbourTable, width: int) -> NeighbourTable:
    missing = width - table.weights.shape[-1]
    ends = ((0, 0), (0, 0), (0, missing))
    users = jnp.arange(table.own.shape[-1], dtype=jnp.int32)[None, :, None]
    padding = jnp.broadcast_to(users, (*table.own.shape, missing))
    return table.replace(
        neighbours=jnp.concatenate([table.neighbours, padding], axis=-1),
        weights=jnp.pad(table.weights, ends),
    )
