"""Undirected graphs: links whose matrix is its own transpose, which makes gradients cheap.

The gradient of a sum over neighbours is again a sum over neighbours, so nothing is ever scattered
to unsorted places. Wide rows are multiplied as a sparse matrix (CSR) on a CPU, where summing them
edge by edge is bound by memory: 64 columns over 640,000 links take 16 ms instead of 120.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import sparse

from lab.nn.graph.links import EdgeLinks
from lab.nn.hashed_dropout import keep_pairs

# On a CPU XLA's sorted segment sum is the fastest up to four columns, and faster with four than
# with three; beyond, a CSR product is, if its rows fill whole vector registers.
NARROW = 4
LANES = 8


class SymmetricLinks(struct.PyTreeNode):
    """Links of an undirected graph, both directions of each; made by `symmetric_links`.

    Attributes:
      senders, receivers: int32 [num_edges]; receivers ascend.
      offsets: int32 [num_nodes + 1], where the links of each receiver begin.
      scale: float32 [num_nodes]: the matrix is diag(scale) A diag(scale); None: A itself.
    """

    senders: jax.Array
    receivers: jax.Array
    offsets: jax.Array
    scale: jax.Array | None = None

    @property
    def num_targets(self) -> int:
        return self.offsets.shape[0] - 1

    def times(self, rows: jax.Array) -> jax.Array:
        """`neighbour_sum` of these links, as `lab.nn.graph.propagate` calls it."""
        return neighbour_sum(self, rows)

    def degrees(self) -> jax.Array:
        """Number of links of each node, a self loop counted once; float32 [num_nodes]."""
        return jnp.diff(self.offsets).astype(jnp.float32)

    def as_edges(self) -> EdgeLinks:
        """The same links for layers that look at each: GAT. `scale` becomes their weights."""
        weights = None
        if self.scale is not None:
            weights = self.scale[self.senders] * self.scale[self.receivers]
        return EdgeLinks(self.senders, self.receivers, weights, self.num_targets, True)

    def normalised(self) -> "SymmetricLinks":
        """The matrix D^-1/2 A D^-1/2 (Kipf & Welling, 2017); degree 0 counts as 1."""
        return self.replace(scale=jax.lax.rsqrt(jnp.maximum(self.degrees(), 1)))


def symmetric_links(
    edge_index: np.ndarray, num_nodes: int, *, self_loops: bool = True
) -> SymmetricLinks:
    """Links on the host.

    Args:
      edge_index: int [2, M], both directions of every edge, no loops (`lab.data.graphs`).
      self_loops: add one link from each node to itself.
    """
    loops = np.arange(num_nodes if self_loops else 0)
    senders = np.concatenate([edge_index[0], loops]).astype(np.int32)
    receivers = np.concatenate([edge_index[1], loops]).astype(np.int32)
    order = np.lexsort([senders, receivers])
    counts = np.bincount(receivers, minlength=num_nodes)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    arrays: list[Any] = [senders[order], receivers[order], offsets]
    return SymmetricLinks(*arrays)


def neighbour_sum(links: SymmetricLinks, rows: jax.Array) -> jax.Array:
    """The matrix of `links` times `rows`: float [num_nodes, d] -> [num_nodes, d].

    Under `vmap` over rows alone the copies become further columns of one product.
    """
    if links.scale is not None:
        rows = rows * links.scale[:, None]
    out = _plain_sum((links.senders, links.receivers, links.offsets), rows)
    return out if links.scale is None else out * links.scale[:, None]


@jax.custom_vjp
def _plain_sum(arrays, rows):
    return _product(*arrays, None, rows)


def _plain_sum_forward(arrays, rows):
    return _plain_sum(arrays, rows), arrays


def _plain_sum_backward(arrays, cotangent):
    return None, _plain_sum(arrays, cotangent)


_plain_sum.defvjp(_plain_sum_forward, _plain_sum_backward)


@jax.custom_batching.custom_vmap
def _product(senders, receivers, offsets, weights, rows):
    """Sum of weights[e] * rows[sender of e] over the links e of each receiver."""
    num_nodes, width = rows.shape
    if jax.default_backend() != "cpu" or width <= NARROW:
        return _segments(senders, receivers, offsets, weights, rows)
    data = jnp.ones(senders.shape, rows.dtype) if weights is None else weights
    matrix = sparse.BCSR((data, senders, offsets), shape=(num_nodes, num_nodes))
    return (matrix @ _pad_columns(rows, LANES))[:, :width]


@_product.def_vmap
def _product_of_copies(axis_size, in_batched, senders, receivers, offsets, weights, rows):
    if any(in_batched[:4]):
        axes = [0 if batched else None for batched in in_batched]
        return jax.vmap(_segments, axes)(senders, receivers, offsets, weights, rows), True
    # [copies, nodes, d] -> [nodes, copies * d]
    wide = jnp.moveaxis(rows, 0, 1).reshape(rows.shape[1], -1)
    out = _product(senders, receivers, offsets, weights, wide)
    return jnp.moveaxis(out.reshape(rows.shape[1], axis_size, rows.shape[2]), 1, 0), True


def _segments(senders, receivers, offsets, weights, rows):
    width = rows.shape[1]
    messages = _pad_columns(rows, NARROW)[senders] if width < NARROW else rows[senders]
    if weights is not None:
        messages = messages * weights[:, None]
    num_nodes = offsets.shape[0] - 1
    out = jax.ops.segment_sum(messages, receivers, num_nodes, indices_are_sorted=True)
    return out[:, :width]


def _pad_columns(rows: jax.Array, multiple: int) -> jax.Array:
    return jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % multiple)))


def dropped_neighbour_sum(
    links: SymmetricLinks, rows: jax.Array, key: jax.Array, rate: float, num_whole: int = 0
) -> jax.Array:
    """A sum over neighbours with each directed link left out at random, the rest scaled up.

    Links count 1 whatever `links.scale`. Which are left out is a hash of the link's two ends and
    the key, so that the gradient finds the same ones again without an array of masks.

    Args:
      rows: float [num_nodes, d].
      key: a typed key.
      rate: the share left out, in [0, 1).
      num_whole: the last columns of the rows that are summed over all links.
    """
    if rate == 0:
        return neighbour_sum(links.replace(scale=None), rows)
    words = jax.random.bits(key, (2,), jnp.uint32)
    return _dropped_sum(rate, num_whole, (links.senders, links.receivers), words, rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dropped_sum(rate, num_whole, ends, words, rows):
    senders, receivers = ends
    kept = keep_pairs(words, senders, receivers, rate)
    return _sum_kept(ends, kept, rate, num_whole, rows)


def _sum_kept(ends, kept, rate, num_whole, rows):
    width = rows.shape[1]
    is_whole = jnp.arange(width) >= width - num_whole
    rows = _pad_columns(rows / jnp.where(is_whole, 1, 1 - rate), NARROW)
    is_whole = jnp.arange(rows.shape[1]) >= width - num_whole
    messages = jnp.where(kept[:, None] | is_whole, rows[ends[0]], 0)
    out = jax.ops.segment_sum(messages, ends[1], rows.shape[0], indices_are_sorted=True)
    return out[:, :width]


def _dropped_sum_forward(rate, num_whole, ends, words, rows):
    return _dropped_sum(rate, num_whole, ends, words, rows), (ends, words)


def _dropped_sum_backward(rate, num_whole, saved, cotangent):
    (senders, receivers), words = saved
    # Row u gathers from the receivers v of its links u -> v: those are u's neighbours, and the
    # link that was kept or not is (u, v), the reverse of the one that stands in the list.
    kept = keep_pairs(words, receivers, senders, rate)
    return None, None, _sum_kept((senders, receivers), kept, rate, num_whole, cotangent)


_dropped_sum.defvjp(_dropped_sum_forward, _dropped_sum_backward)


class Pairs(struct.PyTreeNode):
    """Every undirected edge once, for what is symmetric in its two ends.

    Attributes:
      first, second: int32 [num_pairs].
      of_link: int32 [num_links], the pair that each link belongs to.
      counts: float32 [num_pairs], links of the pair: 2, for a self loop 1.
    """

    first: jax.Array
    second: jax.Array
    of_link: jax.Array
    counts: jax.Array


def pairs_of(links: SymmetricLinks) -> Pairs:
    """The pairs of links, on the host."""
    senders, receivers = np.asarray(links.senders), np.asarray(links.receivers)
    low, high = np.minimum(senders, receivers), np.maximum(senders, receivers)
    codes = low.astype(np.int64) * links.num_targets + high
    found: Any = np.unique(codes, return_inverse=True, return_counts=True)
    unique, of_link, counts = found
    return Pairs(
        first=(unique // links.num_targets).astype(np.int32),
        second=(unique % links.num_targets).astype(np.int32),
        of_link=of_link.astype(np.int32),
        counts=counts.astype(np.float32),
    )


def pair_features(pairs: Pairs, rows: jax.Array) -> jax.Array:
    """Elementwise product of both rows of each pair: float [num_nodes, d] -> [num_pairs, d]."""
    return rows[pairs.first] * rows[pairs.second]


@jax.custom_vjp
def pair_products(
    links: SymmetricLinks, pairs: Pairs, rows: jax.Array, features: jax.Array, diagonal: jax.Array
) -> jax.Array:
    """sum_k diagonal_k rows_uk rows_vk of every pair (u, v): float [num_pairs].

    The gradient for the rows is a sparse product, not a scatter.

    Args: rows float [num_nodes, d]; features, their `pair_features`, which several products may
      share and through which no gradient flows; diagonal float [d].
    """
    return features @ diagonal


def _pair_products_forward(links, pairs, rows, features, diagonal):
    return features @ diagonal, (links, pairs, rows, features, diagonal)


def _pair_products_backward(saved, cotangent):
    links, pairs, rows, features, diagonal = saved
    # A pair (u, v) stands twice among the links, once for each end; a loop (u, u) only once, and
    # has the same row at both ends.
    weights = jnp.where(pairs.counts == 1, 2 * cotangent, cotangent)[pairs.of_link]
    gathered = _product(links.senders, links.receivers, links.offsets, weights, rows)
    return None, None, gathered * diagonal, None, cotangent @ features


pair_products.defvjp(_pair_products_forward, _pair_products_backward)
