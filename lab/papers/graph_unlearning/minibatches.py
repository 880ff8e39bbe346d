"""What one training step of one shard looks at: the whole shard, or a mini-batch of its nodes.

Everything here runs inside the compiled training and has fixed shapes.
"""

import jax
import jax.numpy as jnp
from flax import struct

from lab.nn.graph import (
    Blocks,
    DenseLinks,
    EdgeLinks,
    Links,
    in_degrees,
    needed_rows,
    sample_layers,
    symmetric_weights,
    to_dense,
    whole_graph,
)
from lab.papers.graph_unlearning.models import GATConfig, GCNConfig, ModelConfig, gather_first
from lab.papers.graph_unlearning.shards import GraphStack
from lab.papers.graph_unlearning.steps import NodeBatch

# Set apart from the keys of steps, fold_in(key, step), which stay far below.
ORDER_STREAM, SAMPLE_STREAM = 2**32 - 1, 2**32 - 2
# Up to this many rows the matrix product costs no more than gathering and adding edge by edge
# (measured on a CPU: 112 rows alike, 476 rows a quarter more, 2166 rows twice as much). Attention
# pays for every pair of nodes and never gains.
DENSE_ROWS = 256


class ShardInputs(struct.PyTreeNode):
    """One shard, ready for training; n rows.

    Attributes: features float [n, d]; labels int32 [n]; mask bool [n], the rows that are train
    nodes; links with the model's weights; edges, the same without weights; aggregate, see
    `Blocks.aggregate`.
    """

    features: jax.Array
    labels: jax.Array
    mask: jax.Array
    links: Links
    edges: EdgeLinks
    aggregate: jax.Array | None


def links_for(model: ModelConfig, edges: EdgeLinks, propagation: str = "auto") -> Links:
    """The links of a whole graph with the model's weights, as lists or as a matrix.

    Args: propagation, "segments", "dense", or "auto" for the faster.
    """
    small = edges.num_targets <= DENSE_ROWS and not isinstance(model, GATConfig)
    dense = propagation == "dense" or (propagation == "auto" and small)
    links: EdgeLinks | DenseLinks = to_dense(edges, edges.num_targets) if dense else edges
    return symmetric_weights(links) if isinstance(model, GCNConfig) else links


def edges_of(graph: GraphStack) -> EdgeLinks:
    """The unweighted links of one graph of a stack."""
    num_rows = graph.node_ids.shape[0]
    return EdgeLinks(graph.senders, graph.receivers, None, num_rows, is_sorted=True)


def shard_inputs(
    model: ModelConfig,
    features: jax.Array,
    labels: jax.Array,
    graph: GraphStack,
    *,
    propagation: str = "auto",
    sampled: bool = False,
) -> ShardInputs:
    """Gathers one shard from the arrays that all shards share.

    Args: features float [N, d]; labels int32 [N]; graph, one graph (no stack axis); sampled, for
      training on sampled neighbours, where nothing can be gathered beforehand.
    """
    features, edges = graph.rows(features), edges_of(graph)
    links = links_for(model, edges, "segments" if sampled else propagation)
    aggregate = None if sampled else gather_first(model, links, features)
    return ShardInputs(features, graph.rows(labels), graph.train_mask, links, edges, aggregate)


def num_batches(mask: jax.Array, batch_size: int) -> jax.Array:
    """Steps in an epoch of a shard, at least 1; int32 scalar."""
    return jnp.maximum(-(-mask.sum() // batch_size), 1)


def epoch_batch(mask: jax.Array, batch_size: int, key: jax.Array, step: jax.Array) -> jax.Array:
    """The nodes of a step: every epoch takes all of them once, in an order of its own.

    Args: mask bool [n]; key, the shard's; step int32 scalar.
    Returns: int32 [batch_size], rows; n where the last batch of an epoch is short.
    """
    num_rows, per_epoch = mask.shape[0], num_batches(mask, batch_size)
    epoch_key = jax.random.fold_in(jax.random.fold_in(key, ORDER_STREAM), step // per_epoch)
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(epoch_key, mask.shape), 2.0))
    order = jnp.where(jnp.arange(num_rows) < mask.sum(), order, num_rows).astype(jnp.int32)
    order = jnp.pad(order, (0, -num_rows % batch_size), constant_values=num_rows)
    return jax.lax.dynamic_slice_in_dim(order, (step % per_epoch) * batch_size, batch_size)


def all_neighbours_batch(
    model: ModelConfig, inputs: ShardInputs, batch_size: int, key: jax.Array, step: jax.Array
) -> NodeBatch:
    """A step's nodes with their whole neighbourhoods.

    The network runs on the whole shard and only the batch counts, in the loss and, with the
    neighbourhood it needs, in batch statistics: the numbers of cut-out blocks, without the cutting.
    """
    mask = inputs.mask
    if mask.shape[0] > batch_size:
        nodes = epoch_batch(mask, batch_size, key, step)
        mask = jnp.zeros_like(mask).at[nodes].set(True, mode="drop")
    masks = [mask]
    for _ in range(model.num_layers - 1):
        is_whole = mask is inputs.mask
        masks.insert(0, mask if is_whole else needed_rows(inputs.links, masks[0]))
    graph = whole_graph(inputs.features, inputs.links, model.num_layers)
    graph = graph.replace(aggregate=inputs.aggregate, masks=tuple(masks))
    return NodeBatch(graph, inputs.labels, mask)


def whole_batch(
    model: ModelConfig, features: jax.Array, labels: jax.Array, graph: GraphStack
) -> NodeBatch:
    """All train nodes of one graph: what each step of a shard that fits one batch looks at.

    Under `vmap` over a stack, one batch a shard. To score the test nodes instead, replace the mask
    by `graph.test_mask`.

    Args: features float [N, d]; labels int32 [N]; graph, one graph (no stack axis).
    """
    inputs = shard_inputs(model, features, labels, graph)
    blocks = whole_graph(inputs.features, inputs.links, model.num_layers, inputs.mask)
    return NodeBatch(blocks.replace(aggregate=inputs.aggregate), inputs.labels, inputs.mask)


def sampled_batch(
    model: ModelConfig,
    inputs: ShardInputs,
    sizes: tuple[int, ...],
    batch_size: int,
    key: jax.Array,
    step: jax.Array,
) -> NodeBatch:
    """A step's nodes with sampled neighbourhoods: `sizes[l]` neighbours a node in layer l."""
    num_rows = inputs.mask.shape[0]
    batch_size = min(batch_size, num_rows)
    nodes = epoch_batch(inputs.mask, batch_size, key, step)
    sample_key = jax.random.fold_in(jax.random.fold_in(key, SAMPLE_STREAM), step)
    layers = sample_layers(sample_key, inputs.edges, nodes, sizes)
    links = tuple(layer.links for layer in layers)
    if isinstance(model, GCNConfig):
        # The weights are those of the shard's graph, not of the sample.
        degrees = in_degrees(inputs.edges)
        scale = jnp.where(degrees > 0, jax.lax.rsqrt(jnp.maximum(degrees, 1)), 0)
        links = tuple(_weigh(layer.links, _rows(scale, layer.sources)) for layer in layers)
    targets = [layer.sources for layer in layers[1:]] + [nodes]
    graph = Blocks(
        _rows(inputs.features, layers[0].sources),
        links,
        masks=tuple(rows < num_rows for rows in targets),
    )
    return NodeBatch(graph, _rows(inputs.labels, nodes), nodes < num_rows)


def _rows(values, nodes):
    return jnp.take(values, nodes, axis=0, mode="fill", fill_value=0)


def _weigh(links: EdgeLinks, scale: jax.Array) -> EdgeLinks:
    receivers = jnp.minimum(links.receivers, links.num_targets - 1)
    return links.replace(weights=scale[links.senders] * scale[receivers])
