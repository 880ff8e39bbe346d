"""Message passing on jraph graphs and on blocks of sampled mini-batches."""

from lab.nn.graph.blocks import Blocks, blocks_of, whole_graph
from lab.nn.graph.layers import GATConv, GCNConv, GINConv, SAGEConv
from lab.nn.graph.links import (
    DenseLinks,
    EdgeLinks,
    Links,
    in_degrees,
    links_of,
    mean_of_neighbours,
    propagate,
    softmax_attention,
    sorted_by_receiver,
    symmetric_weights,
    to_dense,
)

__all__ = [
    "Blocks",
    "DenseLinks",
    "EdgeLinks",
    "GATConv",
    "GCNConv",
    "GINConv",
    "Links",
    "SAGEConv",
    "blocks_of",
    "in_degrees",
    "links_of",
    "mean_of_neighbours",
    "propagate",
    "softmax_attention",
    "sorted_by_receiver",
    "symmetric_weights",
    "to_dense",
    "whole_graph",
]
