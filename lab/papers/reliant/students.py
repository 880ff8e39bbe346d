"""The two students: learned label propagation (CPF) and three-layer SGC (GraphAKD)."""

import dataclasses
import itertools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lab.errors import require
from lab.nn.graph import SymmetricLinks, dropped_neighbour_sum, propagate
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

    def __post_init__(self):
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
            key = keys[index, 2] if train else None
            spread = _attend(links, weights[at], state, config.attn_drop, key)
            if branch is not None:
                share = jax.nn.sigmoid(mixing)
                spread = share * spread + (1 - share) * branch[at]
            mixed = nn.relu(spread)
            state = jnp.where(is_train_node[:, None], start, mixed)
            return state, (mixed, state) if return_steps else None

        logits, steps = jax.lax.scan(step, start, jnp.arange(num_steps))
        if not return_steps:
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

    def __post_init__(self):
        require(min(self.powers) >= 0, f"powers is {self.powers}; accepted: 0 and above")
        rate = self.dropout_rate
        require(0 <= rate < 1, f"dropout_rate is {rate}; accepted: from 0 to below 1")


class SGConv(nn.Module):
    """Linear((D^-1/2 A D^-1/2)^power h), multiplied in the cheaper order."""

    features: int
    power: int

    @nn.compact
    def __call__(self, links, rows, aggregate=None):
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
        config = self.config
        rows = features
        for layer in (0, 1):
            conv = SGConv(config.hidden_dim, config.powers[layer], name=f"layers_{layer}")
            rows, aggregate = nn.relu(conv(links, rows, aggregate)), None
            embedding = rows
            if train and config.dropout_rate:
                rows = dropout(rows, config.dropout_rate, self.make_rng("dropout"))
        if self.projection_dim is not None:
            embedding = nn.Dense(self.projection_dim, name="projection")(embedding)
        return SGConv(self.num_classes, config.powers[2], name="layers_2")(links, rows), embedding
