"""Links from source rows to target rows: what messages travel along.

A full graph has as many targets as sources; a block of a sampled mini-batch has fewer targets, and
they are the first of the sources. Two forms hold the same links: `EdgeLinks`, lists summed by
segments, and `DenseLinks`, a matrix, faster for small graphs. Both give the same numbers up to the
order of additions, and nothing that is padding reaches a real row in either.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import jraph
from flax import struct

from lab.errors import require


class EdgeLinks(struct.PyTreeNode):
    """Links as lists.

    Attributes:
      senders: int32 [num_edges], source row of each link.
      receivers: int32 [num_edges], target row; a value of `num_targets` or more is padding, whose
        message goes nowhere.
      weights: float32 [num_edges], or None for 1 each.
      num_targets: number of target rows (static).
      is_sorted: whether `receivers` ascend, padding last (static); sums are faster then.
    """

    senders: jax.Array
    receivers: jax.Array
    weights: jax.Array | None = None
    num_targets: int = struct.field(pytree_node=False, default=0)
    is_sorted: bool = struct.field(pytree_node=False, default=False)

    def sum_by_target(self, messages: jax.Array) -> jax.Array:
        """Sums float [num_edges, ...] over the links of each target: [num_targets, ...]."""
        return jraph.segment_sum(messages, self.receivers, self.num_targets, self.is_sorted)

    def is_real(self) -> jax.Array:
        """Which links are not padding; bool [num_edges]."""
        return self.receivers < self.num_targets


class DenseLinks(struct.PyTreeNode):
    """Links as a matrix.

    Attributes: weights, float32 [num_targets, num_sources]; 0 is no link. Parallel unweighted
    edges add up.
    """

    weights: jax.Array

    @property
    def num_targets(self) -> int:
        return self.weights.shape[0]


class ProductLinks(Protocol):
    """Links that multiply rows themselves, as `lab.nn.graph.symmetric.SymmetricLinks` do."""

    @property
    def num_targets(self) -> int:
        """Number of target rows."""
        ...

    def times(self, rows: jax.Array) -> jax.Array:
        """Weighted sum of each target's sources: float [num_sources, d] -> [num_targets, d]."""
        ...


Links = EdgeLinks | DenseLinks
AnyLinks = Links | ProductLinks


def links_of(graph: jraph.GraphsTuple, *, is_sorted: bool = False) -> EdgeLinks:
    """The links of a whole graph.

    `graph.edges` may be None, float weights [num_edges], or a dict with any of "weight" (float
    [num_edges]) and "mask" (bool [num_edges], False drops the edge). Padding edges in jraph's way,
    between padding nodes, need no mask.

    Args: is_sorted, whether `graph.receivers` ascend.
    """
    num_nodes = jax.tree.leaves(graph.nodes)[0].shape[0]
    weights, mask = _edge_values(graph.edges)
    senders, receivers = cast(jax.Array, graph.senders), cast(jax.Array, graph.receivers)
    if mask is not None:
        receivers, is_sorted = jnp.where(mask, receivers, num_nodes), False
    return EdgeLinks(senders, receivers, weights, num_nodes, is_sorted)


def _edge_values(edges: Any) -> tuple[jax.Array | None, jax.Array | None]:
    if edges is None:
        return None, None
    if not isinstance(edges, dict):
        return edges, None
    unknown = set(edges) - {"weight", "mask"}
    require(not unknown, f"graph.edges may hold weight and mask, got also {sorted(unknown)}")
    return edges.get("weight"), edges.get("mask")


def to_dense(links: EdgeLinks, num_sources: int) -> DenseLinks:
    """The same links as a matrix [num_targets, num_sources]."""
    weights = jnp.ones(links.senders.shape) if links.weights is None else links.weights
    matrix = jnp.zeros((links.num_targets, num_sources), weights.dtype)
    return DenseLinks(matrix.at[links.receivers, links.senders].add(weights, mode="drop"))


def propagate(links: AnyLinks, sources: jax.Array) -> jax.Array:
    """Weighted sum of each target's sources: float [num_sources, d] -> [num_targets, d]."""
    if isinstance(links, DenseLinks):
        return links.weights @ sources
    if not isinstance(links, EdgeLinks):
        return links.times(sources)
    messages = sources[links.senders]
    if links.weights is not None:
        messages = messages * links.weights[:, None]
    return links.sum_by_target(messages)


def in_degrees(links: Links) -> jax.Array:
    """Number of links of each target (weights do not count); float32 [num_targets]."""
    if isinstance(links, DenseLinks):
        return links.weights.sum(axis=1)
    return links.sum_by_target(jnp.ones(links.senders.shape))


def mean_of_neighbours(links: Links, sources: jax.Array) -> jax.Array:
    """Mean over each target's unweighted links, 0 where it has none; [num_targets, d]."""
    return propagate(links, sources) / jnp.maximum(in_degrees(links), 1)[:, None]


def symmetric_weights(links: Links) -> Links:
    """Weighs each link of a whole graph by deg_source^-1/2 deg_target^-1/2 (0 for degree 0).

    Degrees are in-degrees of the unweighted links; add self loops before, where a model has them.
    """
    degrees = in_degrees(links)
    scale = jnp.where(degrees > 0, jax.lax.rsqrt(jnp.maximum(degrees, 1)), 0)
    if isinstance(links, DenseLinks):
        return DenseLinks(links.weights * scale[:, None] * scale[None, :])
    receivers = jnp.minimum(links.receivers, links.num_targets - 1)
    weights = jnp.where(links.is_real(), scale[links.senders] * scale[receivers], 0)
    return links.replace(weights=weights)


def softmax_attention(
    links: Links,
    source_scores: jax.Array,
    target_scores: jax.Array,
    values: jax.Array,
    *,
    self_loops: bool,
    negative_slope: float = 0.2,
    epsilon: float = 1e-16,
    drop: Callable[[jax.Array], jax.Array] = lambda coefficients: coefficients,
) -> jax.Array:
    """Each target's attention-weighted sum of its sources (GAT, Velickovic et al., 2018, eq. 3-4).

    The coefficient of a link is the softmax over the target's links of LeakyReLU(source score +
    target score); `epsilon` is added to the softmax's denominator.

    Args:
      source_scores: float [num_sources, heads]; target_scores: float [num_targets, heads].
      values: float [num_sources, heads, d].
      self_loops: give every target exactly one link to itself, whatever loops it has already.
      drop: dropout of the coefficients.
    Returns: float [num_targets, heads, d]; 0 for a target without links.
    """
    attend = _attend_dense if isinstance(links, DenseLinks) else _attend_edges
    activate = lambda scores: jax.nn.leaky_relu(scores, negative_slope)  # noqa: E731
    return attend(links, source_scores, target_scores, values, self_loops, activate, epsilon, drop)


def _attend_dense(links, source_scores, target_scores, values, self_loops, activate, epsilon, drop):
    is_link = links.weights != 0
    if self_loops:
        is_link = is_link | jnp.eye(*is_link.shape, dtype=bool)
    is_link = is_link[:, :, None]
    scores = activate(target_scores[:, None] + source_scores[None, :])
    top = jnp.max(scores, axis=1, keepdims=True, where=is_link, initial=-1e30)
    exponentials = jnp.where(is_link, jnp.exp(scores - jax.lax.stop_gradient(top)), 0)
    coefficients = exponentials / (exponentials.sum(axis=1, keepdims=True) + epsilon)
    return jnp.einsum("tsh,shd->thd", drop(coefficients), values)


def _attend_edges(links, source_scores, target_scores, values, self_loops, activate, epsilon, drop):
    num_targets, senders = links.num_targets, links.senders
    receivers = jnp.minimum(links.receivers, num_targets - 1)
    is_link = links.is_real()
    if self_loops:
        # The self links are a column of their own, so that the lists stay sorted.
        is_link = is_link & (senders != receivers)
    is_link = is_link[:, None]
    scores = activate(source_scores[senders] + target_scores[receivers])
    top = jraph.segment_max(
        jnp.where(is_link, scores, -1e30), links.receivers, num_targets, links.is_sorted
    )
    self_scores = activate(source_scores[:num_targets] + target_scores) if self_loops else None
    if self_scores is not None:
        top = jnp.maximum(top, self_scores)
    top = jax.lax.stop_gradient(jnp.maximum(top, -1e30))
    exponentials = jnp.where(is_link, jnp.exp(scores - top[receivers]), 0)
    total = links.sum_by_target(exponentials)
    self_exponentials = None if self_scores is None else jnp.exp(self_scores - top)
    if self_exponentials is not None:
        total = total + self_exponentials
    total = total + epsilon
    coefficients = drop(exponentials / total[receivers])
    out = links.sum_by_target(coefficients[..., None] * values[senders])
    if self_exponentials is not None:
        out = out + drop(self_exponentials / total)[..., None] * values[:num_targets]
    return out
