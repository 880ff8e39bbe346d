"""The networks that are distilled into, and those that judge them.

Two students: learned label propagation (CPF) and three-layer SGC (GraphAKD). Three discriminators
of GraphAKD (He et al., 2022): they tell the teacher's logits, the agreement of its neighbours'
embeddings and that of its nodes with a summary of the graph from the student's.
"""

import dataclasses
import itertools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from lab.errors import require, require_given
from lab.nn.graph import (
    Pairs,
    SymmetricLinks,
    dropped_neighbour_sum,
    pair_features,
    pair_products,
    propagate,
)
from lab.nn.hashed_dropout import dropout
from lab.nn.linear import symmetric_uniform

# Source scores this far below the largest count as this far: attention between 1 and e^-80 is what
# float32 can hold, and a neighbourhood of such sources is averaged instead of being 0 / 0.
LOWEST_SCORE = -80.0


@dataclasses.dataclass(frozen=True)
class PLPConfig:
    """Parameterised label propagation.

    Attributes:
      num_layers: one more than the number of propagations, as in the released code (CPF itself
        propagates `num_layers` times).
      emb_dim, mlp_layers: width and number of linear layers of the feature branch; 0 layers: none.
      feat_drop, attn_drop: dropout rates of features (and hidden units), and of attention.
      ptype: "ind" scores a source by its features, "tra" by a learned number of its own.
    """

    num_layers: int = 10
    emb_dim: int = 64
    mlp_layers: int = 2
    feat_drop: float = 0.8
    attn_drop: float = 0.2
    ptype: Literal["ind", "tra"] = "ind"

    def __post_init__(self) -> None:
        require(self.num_layers >= 2, f"num_layers is {self.num_layers}; accepted: 2 and above")
        require(self.mlp_layers >= 0, f"mlp_layers is {self.mlp_layers}; accepted: 0 and above")
        require(self.ptype in ("ind", "tra"), f"ptype is {self.ptype!r}; accepted: ind, tra")
        for name in ("feat_drop", "attn_drop"):
            rate = getattr(self, name)
            require(0 <= rate < 1, f"{name} is {rate}; accepted: from 0 to below 1")


class PLP(nn.Module):
    """Labels spread over the graph, mixed at each node with what a small MLP says (CPF).

    A node's mixing weight is its own parameter, so a trained model cannot score unseen nodes;
    `for_new_nodes` gives them the weight 1/2.
    """

    config: PLPConfig
    num_classes: int

    @nn.compact
    def __call__(
        self,
        links: SymmetricLinks,
        features: jax.Array,
        start: jax.Array,
        is_train_node: jax.Array,
        *,
        train: bool,
        return_steps: bool = False,
    ) -> Any:
        """Class scores, not negative, of every node.

        Args:
          links: with one loop a node; `scale` is not used.
          features: float [N, F].
          start: float [N, C], one-hot labels of train nodes, 1 / C elsewhere (`label_start`).
          is_train_node: bool [N], rows that stay at their label.
        Returns: logits float [N, C]; with `return_steps` (logits, {"scores" [N], "mixing" [N],
          "attention" [links] in the order of `links`, "mixed" and "states" [steps, N, C], before
          and after the train rows are overwritten}), evaluation mode only.
        """
        config, num_steps = self.config, self.config.num_layers - 1
        attention, mixing, layers = self._parameters(features)
        links = links.replace(scale=None)
        keys = jax.random.split(self.make_rng("dropout"), (num_steps, 3)) if train else None
        # What does not depend on the labels is made first: in evaluation once, in training for
        # each propagation with masks of its own. Masks and hidden units are made again for the
        # gradient, which costs less than to keep them.
        weights = self._of_every_step(
            lambda key: self._source_weights(attention, features, key), keys, 0
        )
        branch = None
        if layers:
            branch = self._of_every_step(
                lambda key: _mlp(layers, features, config.feat_drop, key), keys, 1
            )

        def step(state, index):
            at = jnp.where(train, index, 0)
            key = None if keys is None else keys[index, 2]
            spread = _attend(links, weights[at], state, config.attn_drop, key)
            if branch is not None:
                share = jax.nn.sigmoid(mixing)
                spread = share * spread + (1 - share) * branch[at]
            mixed = nn.relu(spread)
            state = jnp.where(is_train_node[:, None], start, mixed)
            return state, (mixed, state) if return_steps else None

        logits, steps = jax.lax.scan(step, start, jnp.arange(num_steps))
        if steps is None:
            return logits
        total = propagate(links, weights[0])
        ends = weights[0, links.senders, 0] / total[links.receivers, 0]
        scores = self._scores(attention, features, None)
        return logits, {
            "scores": scores[:, 0],
            "mixing": jax.nn.sigmoid(mixing)[:, 0],
            "attention": ends,
            "mixed": steps[0],
            "states": steps[1],
        }

    @staticmethod
    def _of_every_step(make, keys, column):
        """`make(key)` of each propagation, stacked; of one alone in evaluation."""
        if keys is None:
            return make(None)[None]
        return jax.lax.map(jax.checkpoint(make), keys[:, column])

    def _parameters(self, features):
        config, (num_nodes, num_features) = self.config, features.shape
        if config.ptype == "ind":
            std = math.sqrt(2) * math.sqrt(2 / (1 + num_features))
            attention = self.param("attention", nn.initializers.normal(std), (1, num_features))
        else:
            std = math.sqrt(2) * math.sqrt(2 / (1 + num_nodes))
            attention = self.param("attention", nn.initializers.normal(std), (num_nodes, 1))
        mixing = self.param("mixing", nn.initializers.zeros, (num_nodes, 1))
        hidden = [config.emb_dim] * (config.mlp_layers - 1)
        widths = [num_features, *hidden, self.num_classes] if config.mlp_layers else []
        layers = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            uniform = symmetric_uniform(fan_in**-0.5)
            kernel = self.param(f"mlp_{i}_kernel", uniform, (fan_in, fan_out))
            layers.append((kernel, self.param(f"mlp_{i}_bias", uniform, (fan_out,))))
        return attention, mixing, layers

    def _scores(self, attention, features, key):
        if self.config.ptype == "tra":
            return dropout(attention, self.config.feat_drop, key)
        return dropout(features, self.config.feat_drop, key) @ attention.T

    def _source_weights(self, attention, features, key):
        """exp(score) of each source, float [N, 1]; the softmax needs no more: see `_attend`."""
        scores = self._scores(attention, features, key)
        return jnp.exp(jnp.maximum(scores - jax.lax.stop_gradient(scores.max()), LOWEST_SCORE))


def _attend(links, weights, state, rate, key):
    """Softmax attention over in-links whose scores depend on the source alone.

    sum_u exp(s_u) h_u / sum_u exp(s_u): two sums over neighbours, no array of attention; 0 where a
    node has no link.
    """
    rows = jnp.concatenate([weights * state, weights], axis=1)
    if key is None:
        sums = propagate(links, rows)
    else:
        # Dropout comes after the softmax: its denominator is summed over all links.
        sums = dropped_neighbour_sum(links, rows, key, rate, num_whole=1)
    total = sums[:, -1:]
    return jnp.where(total > 0, sums[:, :-1] / jnp.where(total > 0, total, 1), 0)


def _mlp(layers, rows, rate, key):
    keys = [None] * len(layers) if key is None else jax.random.split(key, len(layers))
    for i, (kernel, bias) in enumerate(layers):
        rows = dropout(rows, rate, keys[i]) @ kernel + bias
        rows = nn.relu(rows) if i < len(layers) - 1 else rows
    return rows


def label_start(labels: jax.Array, train_mask: jax.Array, num_classes: int) -> jax.Array:
    """What label propagation begins with: one-hot train labels, 1 / C elsewhere; float [N, C]."""
    one_hot = jax.nn.one_hot(labels, num_classes)
    return jnp.where(train_mask[:, None], one_hot, 1 / num_classes)


def for_new_nodes(params: dict[str, Any], num_nodes: int) -> dict[str, Any]:
    """Parameters of a PLP for a graph that has grown to num_nodes; new ones mix half and half.

    Not for ptype "tra", whose scores are also parameters of the nodes.
    """
    missing = num_nodes - len(params["mixing"])
    require(missing >= 0, f"the model has {len(params['mixing'])} nodes, more than {num_nodes}")
    return {**params, "mixing": jnp.pad(params["mixing"], ((0, missing), (0, 0)))}


@dataclasses.dataclass(frozen=True)
class SGCConfig:
    """Three-layer SGC.

    Attributes:
      hidden_dim: width of both hidden layers; None: that of the teacher's embedding.
      powers: how often each layer propagates.
      dropout_rate: after each hidden layer.
    """

    hidden_dim: int | None = None
    powers: tuple[int, int, int] = (1, 1, 1)
    dropout_rate: float = 0.5

    def __post_init__(self) -> None:
        require(min(self.powers) >= 0, f"powers is {self.powers}; accepted: 0 and above")
        rate = self.dropout_rate
        require(0 <= rate < 1, f"dropout_rate is {rate}; accepted: from 0 to below 1")


class SGConv(nn.Module):
    """Linear((D^-1/2 A D^-1/2)^power h), multiplied in the cheaper order."""

    features: int
    power: int

    @nn.compact
    def __call__(self, links: Any, rows: jax.Array, aggregate: Any = None):
        """float [N, d] -> [N, features]; aggregate float [N, d], the links times the rows."""
        glorot = nn.initializers.glorot_uniform()
        kernel = self.param("kernel", glorot, (rows.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        power = self.power
        if aggregate is not None and power > 0:
            rows, power = aggregate, power - 1
        narrows = rows.shape[-1] > self.features
        rows = rows @ kernel if narrows else rows
        for _ in range(power):
            rows = propagate(links, rows)
        return (rows if narrows else rows @ kernel) + bias


class SGC(nn.Module):
    """The student of GraphAKD; the embedding is the second layer's output after ReLU.

    With `projection_dim` a linear map, trained with the student, brings the embedding to the
    teacher's width.
    """

    config: SGCConfig
    num_classes: int
    projection_dim: int | None = None

    @nn.compact
    def __call__(
        self,
        links: SymmetricLinks,
        features: jax.Array,
        aggregate: jax.Array | None = None,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """float [N, F] -> (logits [N, C], embedding [N, hidden_dim or projection_dim]).

        Args: links with `scale` (`normalised`); aggregate float [N, F], the links times the
          features.
        """
        config, rows = self.config, features
        width = require_given(config.hidden_dim, "sgc.hidden_dim is None; accepted: 1 and above")
        embedding = rows
        for layer in (0, 1):
            conv = SGConv(width, config.powers[layer], name=f"layers_{layer}")
            rows, aggregate = nn.relu(conv(links, rows, aggregate)), None
            embedding = rows
            if train and config.dropout_rate:
                rows = dropout(rows, config.dropout_rate, self.make_rng("dropout"))
        if self.projection_dim is not None:
            embedding = nn.Dense(self.projection_dim, name="projection")(embedding)
        return SGConv(self.num_classes, config.powers[2], name="layers_2")(links, rows), embedding


def init_discriminators(key: jax.Array, num_classes: int, embedding_dim: int) -> dict[str, Any]:
    """Parameters of all three, as PyTorch initialises them.

    Returns: {"logits": {"hidden_kernel" [C, C], "hidden_bias" [C], "out_kernel" [C, C + 1]},
      "local", "global": {"diagonal" [D], "scale" [1]}}.
    """
    uniform = symmetric_uniform(num_classes**-0.5)
    first, second, third = jax.random.split(key, 3)
    metric = {"diagonal": jnp.ones(embedding_dim), "scale": jnp.full(1, 0.5)}
    return {
        "logits": {
            "hidden_kernel": uniform(first, (num_classes, num_classes)),
            "hidden_bias": uniform(second, (num_classes,)),
            "out_kernel": uniform(third, (num_classes, num_classes + 1)),
        },
        "local": metric,
        "global": dict(metric),
    }


def judge_logits(params: dict[str, Any], logits: jax.Array) -> jax.Array:
    """C class scores and one real/fake score of each row: float [N, C] -> [N, C + 1]."""
    hidden = logits + logits @ params["hidden_kernel"] + params["hidden_bias"]
    return jax.nn.relu(hidden) @ params["out_kernel"]


def unit_rows(embedding: jax.Array) -> jax.Array:
    """Rows of length 1; a zero row stays zero, with gradient 0. float [N, D]."""
    squares = jnp.sum(jnp.square(embedding), axis=1, keepdims=True)
    is_zero = squares == 0
    norm = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1, squares)), 1e-12)
    return jnp.where(is_zero, 0, embedding / norm)


def summary(embedding: jax.Array) -> jax.Array:
    """sigmoid of the mean node embedding: float [N, D] -> [D]."""
    return jax.nn.sigmoid(embedding.mean(axis=0))


def judge_nodes(params: dict[str, Any], rows: jax.Array, graph_summary: jax.Array) -> jax.Array:
    """How well each node agrees with a summary: unit rows float [N, D] -> [N]."""
    return params["scale"][0] * (rows @ (params["diagonal"] * graph_summary))


class View(struct.PyTreeNode):
    """What the discriminators see of one network.

    Attributes: logits float [N, C]; rows float [N, D], unit embeddings; features float [P, D], the
    `pair_features` of the rows; summary float [D].
    """

    logits: jax.Array
    rows: jax.Array
    features: jax.Array
    summary: jax.Array


def view_of(logits: jax.Array, embedding: jax.Array, pairs: Pairs) -> View:
    """Both sides of a network's output; constant over training for a teacher: made once."""
    rows = unit_rows(embedding)
    return View(logits, rows, pair_features(pairs, rows), summary(embedding))


def judge_pairs(
    params: dict[str, Any], links: SymmetricLinks, pairs: Pairs, view: View
) -> jax.Array:
    """How well neighbours agree, one score a pair (both directions have the same): float [P]."""
    scores = pair_products(links, pairs, view.rows, view.features, params["diagonal"])
    return params["scale"][0] * scores
