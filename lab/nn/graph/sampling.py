"""Neighbour sampling inside compiled code: mini-batches as blocks of fixed shape."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lab.nn.graph.links import EdgeLinks


class SampledLayer(NamedTuple):
    """One hop of a sampled mini-batch.

    Attributes:
      sources: int32 [num_sources], node ids, the targets first; `num_nodes` on padding.
      links: from source rows to target rows, without weights.
    """

    sources: jax.Array
    links: EdgeLinks


def sample_neighbours(key: jax.Array, links: EdgeLinks, nodes: jax.Array, size: int) -> jax.Array:
    """Draws up to `size` in-neighbours of each node, uniformly without replacement.

    A node with fewer gets all of them.

    Args:
      links: of a whole graph, sorted by receiver.
      nodes: int32 [k]; `links.num_targets` is padding and has no neighbour.
    Returns: int32 [k, size], node ids; `links.num_targets` where there is none.
    """
    bounds = jnp.searchsorted(links.receivers, jnp.arange(links.num_targets + 2)).astype(jnp.int32)
    starts = bounds[nodes]
    # Padding edges have receiver num_targets: cut them off from padding nodes.
    degrees = jnp.where(nodes < links.num_targets, bounds[nodes + 1] - starts, 0)
    uniform = jax.random.uniform(key, (size, *nodes.shape))
    chosen = []
    for draw in range(size):
        # The draw-th of what is left: skip the earlier choices in ascending order.
        left = degrees - draw
        index = jnp.minimum((uniform[draw] * left).astype(jnp.int32), jnp.maximum(left - 1, 0))
        for earlier in _ascending(chosen):
            index = jnp.where(index >= earlier, index + 1, index)
        index = jnp.where(degrees > size, index, draw)
        chosen.append(index)
    positions = jnp.stack(chosen, axis=1)
    neighbours = links.senders[jnp.minimum(starts[:, None] + positions, len(links.senders) - 1)]
    return jnp.where(positions < degrees[:, None], neighbours, links.num_targets)


def _ascending(arrays):
    return list(jnp.sort(jnp.stack(arrays), axis=0)) if arrays else []


def sample_layers(
    key: jax.Array, links: EdgeLinks, nodes: jax.Array, sizes: tuple[int, ...]
) -> list[SampledLayer]:
    """Samples the neighbourhood of `nodes`, hop by hop, a node once a hop.

    Args:
      links: of a whole graph of n nodes, sorted by receiver.
      nodes: int32 [k], distinct; n is padding.
      sizes: neighbours a node, the layer that is applied first (the outermost) first.
    Returns: a layer each, outermost first: the targets of a layer are the sources of the next.
    """
    num_nodes, layers = links.num_targets, []
    for hop, size in enumerate(reversed(sizes)):
        drawn = sample_neighbours(jax.random.fold_in(key, hop), links, nodes, size)
        num_sources = min(num_nodes + len(nodes), len(nodes) * (1 + size))
        is_target = jnp.zeros(num_nodes, bool).at[nodes].set(True, mode="drop")
        is_drawn = jnp.zeros(num_nodes, bool).at[drawn].set(True, mode="drop")
        added = jnp.nonzero(
            is_drawn & ~is_target, size=num_sources - len(nodes), fill_value=num_nodes
        )[0].astype(jnp.int32)
        sources = jnp.concatenate([nodes, added])
        rows = jnp.zeros(num_nodes, jnp.int32)
        rows = rows.at[sources].set(jnp.arange(num_sources, dtype=jnp.int32), mode="drop")
        receivers = jnp.broadcast_to(jnp.arange(len(nodes), dtype=jnp.int32)[:, None], drawn.shape)
        is_real = drawn < num_nodes
        layers.append(
            SampledLayer(
                sources,
                EdgeLinks(
                    jnp.where(is_real, rows[jnp.minimum(drawn, num_nodes - 1)], 0).ravel(),
                    jnp.where(is_real, receivers, len(nodes)).ravel(),
                    num_targets=len(nodes),
                ),
            )
        )
        nodes = sources
    return layers[::-1]


def needed_rows(links: Any, mask: jax.Array) -> jax.Array:
    """The masked targets of a whole graph and all their neighbours; bool [num_nodes]."""
    if isinstance(links, EdgeLinks):
        receivers = jnp.minimum(links.receivers, links.num_targets - 1)
        return mask.at[links.senders].max(mask[receivers] & links.is_real())
    return mask | (mask.astype(jnp.float32) @ (links.weights != 0) > 0)
