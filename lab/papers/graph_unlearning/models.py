"""The node classifiers that are trained on shards: GCN, GAT, SAGE, GIN and the feature-only MLP.

Each module has a frozen config and takes a `jraph.GraphsTuple` or `lab.nn.graph.Blocks` (one
`Links` a layer), with the same parameters, and returns logits of the last layer's targets. The
configs' defaults are the official "batch" networks; `model_config` also knows the official
"full-graph" variants.
"""

import dataclasses
import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from lab.errors import require
from lab.nn.graph import (
    Blocks,
    EdgeLinks,
    GATConv,
    GCNConv,
    GINConv,
    Links,
    SAGEConv,
    blocks_of,
    symmetric_weights,
    whole_graph,
)
from lab.nn.linear import torch_linear
from lab.nn.norm import BatchNorm

ACTIVATIONS = {"relu": nn.relu, "elu": nn.elu}
Graph = jraph.GraphsTuple | Blocks


@dataclasses.dataclass(frozen=True)
class GCNConfig:
    """Graph convolutional network; the batch variant adds no bias, the full-graph one does."""

    num_classes: int
    hidden: tuple[int, ...] = (16,)
    dropout_rate: float = 0.5
    activation: str = "relu"
    bias: bool = False

    @property
    def num_layers(self) -> int:
        """Number of graph convolutions."""
        return len(self.hidden) + 1


@dataclasses.dataclass(frozen=True)
class GATConfig:
    """Graph attention network: `heads[l]` heads a layer, side by side, averaged in the last."""

    num_classes: int
    heads: tuple[int, ...] = (8, 1)
    head_dim: int = 8
    dropout_rate: float = 0.6
    attention_dropout_rate: float = 0.6
    activation: str = "relu"
    self_loops: bool = True
    negative_slope: float = 0.2

    @property
    def num_layers(self) -> int:
        """Number of graph convolutions."""
        return len(self.heads)


@dataclasses.dataclass(frozen=True)
class SAGEConfig:
    """GraphSAGE with mean aggregation."""

    num_classes: int
    hidden: tuple[int, ...] = (256,)
    dropout_rate: float = 0.5
    activation: str = "relu"

    @property
    def num_layers(self) -> int:
        """Number of graph convolutions."""
        return len(self.hidden) + 1


@dataclasses.dataclass(frozen=True)
class GINConfig:
    """Graph isomorphism network, batch normalised, with a two-layer classifier.

    Attributes:
      full_graph: the official full-graph order: ReLU and batch normalisation after both
        convolutions, no dropout between; the batch variant has ReLU and dropout after the first
        only.
      unused_layers: further convolutions that the official full-graph network holds and never
        applies; parameters without a gradient.
    """

    num_classes: int
    hidden: tuple[int, ...] = (32, 32)
    classifier_hidden: int = 32
    dropout_rate: float = 0.5
    eps: float = 0.0
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    full_graph: bool = False
    unused_layers: int = 0

    @property
    def num_layers(self) -> int:
        """Number of graph convolutions."""
        return len(self.hidden)


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """Features only: linear layers without activations, as in the official code."""

    num_classes: int
    hidden: tuple[int, ...] = (250, 100)

    @property
    def num_layers(self) -> int:
        """Number of graph convolutions: none."""
        return 0


ModelConfig = GCNConfig | GATConfig | SAGEConfig | GINConfig | MLPConfig


class GCN(nn.Module):
    """Graph convolutional network (Kipf & Welling, 2017)."""

    config: GCNConfig

    @nn.compact
    def __call__(
        self, graph: Graph, *, train: bool, node_mask: jax.Array | None = None
    ) -> jax.Array:
        """float [num_sources, d] in `graph` -> logits [num_targets of the last layer, classes]."""
        config = self.config
        blocks = blocks_of(
            graph, config.num_layers, normalise=symmetric_weights, node_mask=node_mask
        )
        dropout = nn.Dropout(config.dropout_rate, deterministic=not train)
        rows, aggregate = blocks.features, blocks.aggregate
        for layer, width in enumerate((*config.hidden, config.num_classes)):
            if layer > 0:
                rows, aggregate = dropout(ACTIVATIONS[config.activation](rows)), None
            conv = GCNConv(width, config.bias, name=f"conv{layer}")
            rows = conv(blocks.links[layer], rows, aggregate)
        return rows


class GAT(nn.Module):
    """Graph attention network (Velickovic et al., 2018)."""

    config: GATConfig

    @nn.compact
    def __call__(
        self, graph: Graph, *, train: bool, node_mask: jax.Array | None = None
    ) -> jax.Array:
        """float [num_sources, d] in `graph` -> logits [num_targets of the last layer, classes]."""
        config = self.config
        blocks = blocks_of(graph, config.num_layers, node_mask=node_mask)
        dropout = nn.Dropout(config.dropout_rate, deterministic=not train)
        rows = blocks.features
        for layer, heads in enumerate(config.heads):
            is_last = layer == config.num_layers - 1
            if layer > 0:
                rows = ACTIVATIONS[config.activation](rows)
            conv = GATConv(
                heads,
                config.num_classes if is_last else config.head_dim,
                concat=not is_last,
                self_loops=config.self_loops,
                negative_slope=config.negative_slope,
                attention_dropout_rate=config.attention_dropout_rate,
                name=f"conv{layer}",
            )
            rows = conv(blocks.links[layer], dropout(rows), train=train)
        return rows


class SAGE(nn.Module):
    """GraphSAGE (Hamilton et al., 2017)."""

    config: SAGEConfig

    @nn.compact
    def __call__(
        self,
        graph: Graph,
        *,
        train: bool,
        node_mask: jax.Array | None = None,
        output: str = "logits",
    ) -> jax.Array:
        """float [num_sources, d] in `graph` -> logits [num_targets of the last layer, classes].

        Args: output, "logits", or "hidden" for the last hidden rows (float [num_targets of the
          layer before the last, hidden]), an embedding for partitioning.
        """
        config = self.config
        blocks = blocks_of(graph, config.num_layers, node_mask=node_mask)
        dropout = nn.Dropout(config.dropout_rate, deterministic=not train)
        rows, aggregate = blocks.features, blocks.aggregate
        for layer, width in enumerate((*config.hidden, config.num_classes)):
            if layer > 0:
                rows, aggregate = dropout(ACTIVATIONS[config.activation](rows)), None
            if output == "hidden" and layer == len(config.hidden):
                return rows
            rows = SAGEConv(width, name=f"conv{layer}")(blocks.links[layer], rows, aggregate)
        return rows


class GIN(nn.Module):
    """Graph isomorphism network (Xu et al., 2019), as the official code arranges it."""

    config: GINConfig

    @nn.compact
    def __call__(
        self, graph: Graph, *, train: bool, node_mask: jax.Array | None = None
    ) -> jax.Array:
        """float [num_sources, d] in `graph` -> logits [num_targets of the last layer, classes]."""
        config = self.config
        blocks = blocks_of(graph, config.num_layers, node_mask=node_mask)
        dropout = nn.Dropout(config.dropout_rate, deterministic=not train)
        rows, aggregate = blocks.features, blocks.aggregate
        for layer, width in enumerate(config.hidden):
            conv = GINConv(width, config.eps, name=f"conv{layer}")
            rows, aggregate = conv(blocks.links[layer], rows, aggregate), None
            if config.full_graph:
                rows = nn.relu(rows)
            elif layer < config.num_layers - 1:
                rows = dropout(nn.relu(rows))
            rows = self._norm(layer)(rows, train=train, mask=blocks.mask(layer))
        self._create_unused(blocks.links[-1], rows)
        rows = nn.relu(torch_linear(config.classifier_hidden, rows.shape[-1], "fc1")(rows))
        return torch_linear(config.num_classes, config.classifier_hidden, "fc2")(dropout(rows))

    def _norm(self, layer: int) -> BatchNorm:
        config = self.config
        return BatchNorm(config.bn_momentum, config.bn_eps, name=f"norm{layer}")

    def _create_unused(self, links: Links, rows: jax.Array) -> None:
        if not self.is_initializing():
            return
        for layer in range(self.config.num_layers, self._num_built):
            GINConv(rows.shape[-1], name=f"conv{layer}")(links, rows[: links.num_targets], rows)
            self._norm(layer)(rows, train=False)

    @property
    def _num_built(self) -> int:
        return self.config.num_layers + self.config.unused_layers


class MLP(nn.Module):
    """Linear layers on the features alone: how much does the graph matter?"""

    config: MLPConfig

    @nn.compact
    def __call__(
        self, graph: Graph, *, train: bool, node_mask: jax.Array | None = None
    ) -> jax.Array:
        """float [num_nodes, d] in `graph` -> logits [num_nodes, classes]; train changes nothing."""
        rows = graph.features if isinstance(graph, Blocks) else cast(jax.Array, graph.nodes)
        for layer, width in enumerate((*self.config.hidden, self.config.num_classes)):
            rows = torch_linear(width, rows.shape[-1], f"linear{layer}")(rows)
        return rows


MODULES = {GCNConfig: GCN, GATConfig: GAT, SAGEConfig: SAGE, GINConfig: GIN, MLPConfig: MLP}

MODELS = {
    "gcn": GCNConfig,
    "gat": GATConfig,
    "sage": SAGEConfig,
    "gin": GINConfig,
    "mlp": MLPConfig,
    "full_gat": functools.partial(GATConfig, activation="elu", self_loops=False),
    "full_gcn": functools.partial(GCNConfig, bias=True),
    "full_gin": functools.partial(GINConfig, full_graph=True, unused_layers=3),
}


def model_config(name: str, num_classes: int, **overrides: Any) -> ModelConfig:
    """The config of a model by name, with some of its fields changed.

    Raises: InvalidInputError for an unknown name or a number of classes below 2.
    """
    require(name in MODELS, f"unknown model {name!r}; there are {', '.join(MODELS)}")
    require(num_classes >= 2, f"num_classes must be at least 2, got {num_classes}")
    return MODELS[name](num_classes=num_classes, **overrides)


def build(config: ModelConfig) -> nn.Module:
    """The module of a config."""
    return MODULES[type(config)](config)


def init_variables(config: ModelConfig, key: jax.Array, num_features: int) -> dict:
    """Fresh flax variables of a model for features of a width; the graph does not matter."""
    links = EdgeLinks(jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32), jnp.ones(1), num_targets=1)
    node = whole_graph(jnp.zeros((1, num_features)), links, config.num_layers)
    return dict(build(config).init(key, node, train=False))


def gather_first(config: ModelConfig, links: Links, features: jax.Array) -> jax.Array | None:
    """What the first layer gathers from features that stay the same in every step.

    Returns: float [num_targets, num_features] for `Blocks.aggregate`; None for models whose first
      layer drops features out (GAT) or gathers nothing (MLP).
    """
    match config:
        case GCNConfig():
            return GCNConv.gather(links, features)
        case SAGEConfig():
            return SAGEConv.gather(links, features)
        case GINConfig():
            return GINConv.gather(links, features, config.eps)
    return None


def trainable(config: ModelConfig, params: Any) -> dict:
    """Which parameters get a gradient: a pytree of bool like `params`.

    The batch GCN's biases and the unused layers of the full-graph GIN get none.
    """

    def is_trained(path, _):
        names = [entry.key for entry in path]
        if isinstance(config, GCNConfig):
            return config.bias or names[-1] != "bias"
        if isinstance(config, GINConfig) and names[0].startswith(("conv", "norm")):
            return int(names[0].removeprefix("conv").removeprefix("norm")) < config.num_layers
        return True

    return jax.tree_util.tree_map_with_path(is_trained, params)
