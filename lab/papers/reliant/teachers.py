"""Teachers: GCN and GraphSAGE of the paper, and the others that the released code can build.

All take `lab.nn.graph.SymmetricLinks` with one loop a node, whose `scale` is that of
`links.normalised()`, and give (logits [N, C], embedding [N, hidden_dim]).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lab.errors import require, require_given
from lab.nn.graph import GATConv, GCNConv, SymmetricLinks, propagate
from lab.nn.hashed_dropout import dropout

Architecture = Literal["gcn", "sage", "gat", "appnp", "sgc", "gcnii", "monet"]
UNRESOLVED = "the teacher's config has fields that are None; take config.resolved()"
glorot_relu = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A teacher and how it is trained (full batch, Adam with L2 added to the gradient).

    Attributes:
      architecture: "gcn" (3 layers of 64) and "sage" (4 of 128) are the paper's.
      num_layers, hidden_dim, dropout_rate: as in the released code where None.
      learning_rate, weight_decay: the latter as in the released code where None.
      max_epochs, patience: training ends after so many epochs in a row with a strictly lower
        validation accuracy than the best, whose weights (the latest of equals) are kept.
      select_by: "val_accuracy" is the released code's. Where train nodes are balanced and
        validation nodes are not, it may keep a teacher that has learned nothing and names the
        larger class: "last" does not.
      gat_heads; appnp_alpha and appnp_steps; sgc_power; gcnii_alpha and gcnii_lambda (Chen et al.,
        2020); monet_kernels: of those architectures alone.
    """

    architecture: Architecture = "gcn"
    num_layers: int | None = None
    hidden_dim: int | None = None
    dropout_rate: float | None = None
    learning_rate: float = 0.01
    weight_decay: float | None = None
    max_epochs: int = 1000
    patience: int = 500
    select_by: Literal["val_accuracy", "val_loss", "last"] = "val_accuracy"
    gat_heads: int = 8
    appnp_alpha: float = 0.1
    appnp_steps: int = 10
    sgc_power: int = 2
    gcnii_alpha: float = 0.1
    gcnii_lambda: float = 0.5
    monet_kernels: int = 3

    def resolved(self) -> "TeacherConfig":
        """The same with the released code's values in place of None."""
        known = require_given(
            DEFAULTS.get(self.architecture),
            f"architecture is {self.architecture!r}; accepted: {', '.join(DEFAULTS)}",
        )
        rules = ("val_accuracy", "val_loss", "last")
        require(
            self.select_by in rules,
            f"select_by is {self.select_by!r}; accepted: {', '.join(rules)}",
        )
        given = {name: getattr(self, name) for name in known}
        chosen = {name: known[name] if value is None else value for name, value in given.items()}
        return dataclasses.replace(self, **chosen)


def _defaults(num_layers, hidden_dim, dropout_rate, weight_decay) -> dict:
    return {
        "num_layers": num_layers,
        "hidden_dim": hidden_dim,
        "dropout_rate": dropout_rate,
        "weight_decay": weight_decay,
    }


DEFAULTS = {
    "gcn": _defaults(3, 64, 0.8, 1e-3),
    "sage": _defaults(4, 128, 0.5, 5e-4),
    "gat": _defaults(2, 64, 0.6, 1e-3),
    "appnp": _defaults(2, 64, 0.5, 1e-3),
    "sgc": _defaults(1, 64, 0.0, 1e-3),
    "gcnii": _defaults(16, 64, 0.5, 1e-3),
    "monet": _defaults(2, 64, 0.5, 1e-3),
}


class Teacher(nn.Module):
    """Dropout that is cheap, and the two outputs; subclasses are the architectures."""

    config: TeacherConfig
    num_classes: int

    def drop(self, rows: jax.Array, train: bool) -> jax.Array:
        """Dropout at the config's rate in train mode (rng "dropout")."""
        rate = self.config.dropout_rate
        return dropout(rows, rate, self.make_rng("dropout")) if train and rate else rows

    def widths(self) -> tuple[int, ...]:
        """Output width of each layer."""
        return (self.hidden_dim,) * (self.num_layers - 1) + (self.num_classes,)

    @property
    def num_layers(self) -> int:
        return require_given(self.config.num_layers, UNRESOLVED)

    @property
    def hidden_dim(self) -> int:
        return require_given(self.config.hidden_dim, UNRESOLVED)


class GCN(Teacher):
    """DGL's GraphConv with norm "both"; the embedding is layer 1's output after ReLU."""

    @nn.compact
    def __call__(
        self,
        links: SymmetricLinks,
        features: jax.Array,
        aggregate: jax.Array | None = None,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """float [N, F] -> (logits [N, C], embedding [N, hidden_dim]).

        Args: aggregate, float [N, F], the links times the features where that was computed before.
        """
        rows = embedding = features
        widths = self.widths()
        for layer, width in enumerate(widths):
            if layer > 0:
                rows, aggregate = self.drop(rows, train), None
            rows = GCNConv(width, name=f"layers_{layer}")(links, rows, aggregate)
            if layer < len(widths) - 1:
                rows = nn.relu(rows)
            embedding = rows if layer == 0 else embedding
        return rows, embedding


class SAGEGCNConv(nn.Module):
    """DGL's SAGEConv with the "gcn" aggregator: W (sum_u h_u + h_v) / (deg_v + 1) + b.

    The graph holds loops already, so a node counts twice; the released code is so.
    """

    features: int

    @nn.compact
    def __call__(self, links: SymmetricLinks, rows: jax.Array) -> jax.Array:
        """float [N, d] -> [N, features]."""
        kernel = self.param("kernel", glorot_relu, (rows.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        narrows = rows.shape[-1] > self.features
        rows = rows @ kernel if narrows else rows
        rows = propagate(links.replace(scale=None), rows) + rows
        rows = rows / (links.degrees() + 1)[:, None]
        return (rows if narrows else rows @ kernel) + bias


class SAGE(Teacher):
    """GraphSAGE; the embedding is layer 1's output before ReLU."""

    @nn.compact
    def __call__(self, links, features, aggregate=None, *, train):
        """As `GCN`; the features are dropped out, so `aggregate` is of no use."""
        rows = embedding = features
        for layer, width in enumerate(self.widths()):
            rows = nn.relu(rows) if layer > 0 else rows
            rows = SAGEGCNConv(width, name=f"layers_{layer}")(links, self.drop(rows, train))
            embedding = rows if layer == 0 else embedding
        return rows, embedding


class GAT(Teacher):
    """Attention over neighbours: `gat_heads` heads side by side, one in the last layer."""

    @nn.compact
    def __call__(self, links, features, aggregate=None, *, train):
        """As `GCN`."""
        config, edges = self.config, links.replace(scale=None).as_edges()
        rows = embedding = features
        for layer, width in enumerate(self.widths()):
            rows = nn.relu(rows) if layer > 0 else rows
            is_last = layer == self.num_layers - 1
            heads = 1 if is_last else config.gat_heads
            conv = GATConv(
                heads,
                width // heads,
                self_loops=False,
                attention_dropout_rate=require_given(config.dropout_rate, UNRESOLVED),
                name=f"layers_{layer}",
            )
            rows = conv(edges, self.drop(rows, train), train=train)
            embedding = nn.relu(rows) if layer == 0 else embedding
        return rows, embedding


class APPNP(Teacher):
    """An MLP whose logits are spread by personalised PageRank (Gasteiger et al., 2019)."""

    @nn.compact
    def __call__(self, links, features, aggregate=None, *, train):
        """As `GCN`."""
        config = self.config
        rows = embedding = features
        for layer, width in enumerate(self.widths()):
            rows = nn.relu(rows) if layer > 0 else rows
            kernel_init = nn.initializers.glorot_uniform()
            dense = nn.Dense(width, kernel_init=kernel_init, name=f"layers_{layer}")
            rows = dense(self.drop(rows, train))
            embedding = nn.relu(rows) if layer == 0 else embedding
        start = rows
        for _ in range(config.appnp_steps):
            rows = (1 - config.appnp_alpha) * propagate(links, rows) + config.appnp_alpha * start
        return rows, embedding


class SGC(Teacher):
    """One linear map, without bias, of features propagated `sgc_power` times (Wu et al., 2019)."""

    @nn.compact
    def __call__(self, links, features, aggregate=None, *, train):
        """As `GCN`; the embedding is the propagated features."""
        rows = features if aggregate is None else aggregate
        for _ in range(self.config.sgc_power - (aggregate is not None)):
            rows = propagate(links, rows)
        kernel_init = nn.initializers.glorot_uniform()
        dense = nn.Dense(self.num_classes, use_bias=False, kernel_init=kernel_init, name="layers_0")
        return dense(self.drop(rows, train)), rows


class GCNII(Teacher):
    """Deep GCN with initial residual and identity mapping (Chen et al., 2020, eq. 5)."""

    @nn.compact
    def __call__(self, links, features, aggregate=None, *, train):
        """As `GCN`; the embedding is the rows that all layers start from."""
        config = self.config
        first = nn.relu(nn.Dense(self.hidden_dim, name="input")(self.drop(features, train)))
        rows = first
        for layer in range(self.num_layers):
            mixed = propagate(links, self.drop(rows, train))
            mixed = (1 - config.gcnii_alpha) * mixed + config.gcnii_alpha * first
            beta = jnp.log(config.gcnii_lambda / (layer + 1) + 1)
            dense = nn.Dense(self.hidden_dim, use_bias=False, name=f"layers_{layer}")
            rows = nn.relu((1 - beta) * mixed + beta * dense(mixed))
        return nn.Dense(self.num_classes, name="output")(self.drop(rows, train)), first


class MoNet(Teacher):
    """Gaussian mixtures over the degrees of both ends of a link (Monti et al., 2017)."""

    @nn.compact
    def __call__(self, links, features, aggregate=None, *, train):
        """As `GCN`."""
        config, edges = self.config, links.replace(scale=None).as_edges()
        scale = jax.lax.rsqrt(jnp.maximum(links.degrees(), 1))
        coordinates = jnp.stack([scale[links.senders], scale[links.receivers]], axis=1)
        rows, embedding, kernels = features, None, config.monet_kernels
        for layer, width in enumerate(self.widths()):
            rows = nn.relu(rows) if layer > 0 else rows
            place = jnp.tanh(nn.Dense(2, name=f"coordinates_{layer}")(coordinates))
            centre = self.param(f"centre_{layer}", nn.initializers.normal(0.1), (kernels, 2))
            inverse = self.param(f"inverse_deviation_{layer}", nn.initializers.ones, (kernels, 2))
            away = jnp.square((place[:, None] - centre) * inverse).sum(axis=-1)
            dense = nn.Dense(width * kernels, use_bias=False, name=f"layers_{layer}")
            values = dense(self.drop(rows, train)).reshape(-1, kernels, width)
            messages = jnp.einsum("ek,ekd->ed", jnp.exp(-0.5 * away), values[links.senders])
            rows = edges.sum_by_target(messages) / jnp.maximum(links.degrees(), 1)[:, None]
            embedding = nn.relu(rows) if layer == 0 else embedding
        return rows, embedding


MODULES = {
    "gcn": GCN,
    "sage": SAGE,
    "gat": GAT,
    "appnp": APPNP,
    "sgc": SGC,
    "gcnii": GCNII,
    "monet": MoNet,
}


def build_teacher(config: TeacherConfig, num_classes: int) -> Teacher:
    """The module of a config. Raises: InvalidInputError for an unknown architecture."""
    config = config.resolved()
    return MODULES[config.architecture](config, num_classes)
