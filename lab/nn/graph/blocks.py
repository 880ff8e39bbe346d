"""The input of a graph network: rows, the links of each layer, and which rows are real."""

from typing import Any, cast

import jax
import jraph
from flax import struct

from lab.errors import require
from lab.nn.graph.links import Links, links_of


class Blocks(struct.PyTreeNode):
    """Source rows and the links of every layer, outermost (first applied) first.

    The targets of a layer are the sources of the next. A whole graph is the case where every layer
    has the same links (`whole_graph`).

    Attributes:
      features: float [num_sources, num_features] of the first layer's sources.
      links: one `Links` a layer.
      aggregate: what the first layer gathers from `features`, where that was computed before
        (float [num_targets of the first layer, num_features]), or None.
      masks: bool [num_targets] a layer: which target rows are real; None: all. Only layers that
        count rows (batch normalisation) look at it.
    """

    features: jax.Array
    links: tuple[Links, ...]
    aggregate: jax.Array | None = None
    masks: tuple[jax.Array, ...] | None = None

    def mask(self, layer: int) -> jax.Array | None:
        """The mask of the target rows of `layer`."""
        return None if self.masks is None else self.masks[layer]


def whole_graph(
    features: jax.Array, links: Links, num_layers: int, mask: jax.Array | None = None
) -> Blocks:
    """Blocks that use all links at every layer.

    Args: features float [num_nodes, d]; mask bool [num_nodes], the real nodes.
    """
    masks = None if mask is None else (mask,) * num_layers
    return Blocks(features, (links,) * num_layers, masks=masks)


def blocks_of(
    graph: jraph.GraphsTuple | Blocks,
    num_layers: int,
    *,
    normalise: Any = None,
    node_mask: jax.Array | None = None,
) -> Blocks:
    """Brings either input of a network into one form.

    Args:
      graph: a jraph graph, `graph.nodes` float [num_nodes, d] (edges as in `links_of`), or Blocks.
      normalise: gives a jraph graph whose edges have no weights its weights; not used for Blocks,
        whose weights must be those of the graph they were cut from.
      node_mask: bool [num_nodes], the real nodes of a padded jraph graph.
    """
    if isinstance(graph, Blocks):
        require(
            len(graph.links) == num_layers,
            f"the network has {num_layers} layers, the blocks have {len(graph.links)}",
        )
        return graph
    links = links_of(graph)
    if normalise is not None and links.weights is None:
        links = normalise(links)
    return whole_graph(cast(jax.Array, graph.nodes), links, num_layers, node_mask)
