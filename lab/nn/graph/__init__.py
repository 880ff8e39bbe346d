"""Message passing on jraph graphs and on blocks of sampled mini-batches."""

from lab.nn.graph.blocks import Blocks, blocks_of, whole_graph
from lab.nn.graph.layers import GATConv, GCNConv, GINConv, SAGEConv
from lab.nn.graph.links import (
    DenseLinks,
    EdgeLinks,
    Links,
    ProductLinks,
    in_degrees,
    links_of,
    mean_of_neighbours,
    propagate,
    softmax_attention,
    symmetric_weights,
    to_dense,
)
from lab.nn.graph.sampling import SampledLayer, needed_rows, sample_layers, sample_neighbours
from lab.nn.graph.symmetric import (
    Pairs,
    SymmetricLinks,
    dropped_neighbour_sum,
    neighbour_sum,
    pair_features,
    pair_products,
    pairs_of,
    symmetric_links,
)

__all__ = [
    "Blocks",
    "DenseLinks",
    "EdgeLinks",
    "GATConv",
    "GCNConv",
    "GINConv",
    "Links",
    "Pairs",
    "ProductLinks",
    "SAGEConv",
    "SampledLayer",
    "SymmetricLinks",
    "blocks_of",
    "dropped_neighbour_sum",
    "in_degrees",
    "links_of",
    "mean_of_neighbours",
    "needed_rows",
    "neighbour_sum",
    "pair_features",
    "pair_products",
    "pairs_of",
    "propagate",
    "sample_layers",
    "sample_neighbours",
    "softmax_attention",
    "symmetric_links",
    "symmetric_weights",
    "to_dense",
    "whole_graph",
]
