"""In-processing peers: FairGNN (Dai & Wang, 2021) and NIFTY (Agarwal et al., 2021).

Each is a whole run in one compiled call, like the students. Scores are of class 1; logits are
(0, score), so that everything else reads them as two classes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from lab.errors import require
from lab.metrics.ranking import roc_auc
from lab.nn.graph import EdgeLinks, GCNConv
from lab.nn.hashed_dropout import keep_mask
from lab.papers.reliant.config import coupled_adam
from lab.papers.reliant.data import FairGraph
from lab.papers.reliant.selection import Best, follow, nothing_yet
from lab.train.devices import compile_copies
from lab.train.state import check_key, step_key
from lab.train.steps import mean_over
from lab.train.whole import History, run


@dataclasses.dataclass(frozen=True)
class FairGNNConfig:
    """Attributes: hidden_dim of the encoders; cov_weight, adv_weight of the two penalties."""

    hidden_dim: int = 32
    cov_weight: float = 4.0
    adv_weight: float = 0.01
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    max_epochs: int = 1000


@dataclasses.dataclass(frozen=True)
class NIFTYConfig:
    """Attributes: sim_weight (lambda); edge_drop, feature_noise, the rates of the views;
    sensitive_column, index of the attribute among the features, None where it is not there."""

    hidden_dim: int = 16
    sim_weight: float = 0.6
    edge_drop: float = 0.1
    feature_noise: float = 0.1
    sensitive_column: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    max_epochs: int = 1000


class BaselineState(struct.PyTreeNode):
    """State of a baseline's run; `variables` and `opt_states` by player."""

    step: jax.Array
    variables: Any
    opt_states: Any
    best: Best
    key: jax.Array


def binary_loss(scores: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean BCE of the scores' sigmoids over the masked rows. float [N]; targets 0 or 1."""
    terms = optax.losses.sigmoid_binary_cross_entropy(scores, targets.astype(jnp.float32))
    return mean_over(terms, mask)


def fairgnn_terms(
    scores: jax.Array,
    sensitive_scores: jax.Array,
    adversary_scores: jax.Array,
    labels: jax.Array,
    sensitive: jax.Array,
    train_mask: jax.Array,
) -> dict[str, jax.Array]:
    """The parts of FairGNN's loss over train nodes.

    Args: float [N]: class scores, estimates of the attribute, the adversary's guesses; labels,
      sensitive int [N], the latter -1 where unknown.
    Returns: "cls", "cov" (|covariance| of estimate and prediction) and "adv".
    """
    known = train_mask & (sensitive >= 0)
    estimate, prediction = jax.nn.sigmoid(sensitive_scores), jax.nn.sigmoid(scores)
    away = (estimate - mean_over(estimate, train_mask)) * (
        prediction - mean_over(prediction, train_mask)
    )
    return {
        "cls": binary_loss(scores, labels, train_mask),
        "cov": jnp.abs(mean_over(away, train_mask)),
        "adv": binary_loss(adversary_scores, sensitive, known),
    }


def fairgnn_loss(terms: dict[str, jax.Array], cov_weight: float, adv_weight: float) -> jax.Array:
    """Classification + cov_weight * covariance - adv_weight * the adversary's loss."""
    return terms["cls"] + cov_weight * terms["cov"] - adv_weight * terms["adv"]


class FairGNN(nn.Module):
    """Encoder, classifier, estimator of the attribute and adversary."""

    hidden_dim: int

    def setup(self) -> None:
        self.encoder, self.estimator = GCNConv(self.hidden_dim), GCNConv(self.hidden_dim)
        self.classifier, self.estimate, self.adversary = nn.Dense(1), nn.Dense(1), nn.Dense(1)

    def __call__(self, graph: FairGraph) -> dict[str, jax.Array]:
        """Scores float [N] of "classes", "sensitive" and "adversary", and "hidden" [N, d]."""
        hidden = self.encoder(graph.links, graph.features, graph.aggregate)
        guess = self.estimate(self.estimator(graph.links, graph.features, graph.aggregate))
        scores = self.classifier(nn.relu(hidden))
        judged = {"classes": scores, "sensitive": guess, "adversary": self.adversary(hidden)}
        return {name: x[:, 0] for name, x in judged.items()} | {"hidden": hidden}


def train_fairgnn(
    config: FairGNNConfig, graph: FairGraph, keys: jax.Array
) -> tuple[jax.Array, History]:
    """Trains one copy a key in one compiled call, selected by validation AUC.

    Returns: (logits float [seeds, N, 2], history).
    """
    return _train(_compiled_fairgnn(config), graph, keys)


def _train(call, graph, keys) -> tuple[jax.Array, History]:
    require(
        graph.num_classes == 2 and graph.num_groups == 2,
        "FairGNN and NIFTY are for two classes and two groups; got "
        f"{graph.num_classes} and {graph.num_groups}",
    )
    scores, history = call(check_key(keys), graph, jnp.flatnonzero(graph.val_mask))
    return jnp.stack([jnp.zeros_like(scores), scores], axis=-1), history


@functools.cache
def _compiled_fairgnn(config: FairGNNConfig) -> Callable:
    model = FairGNN(config.hidden_dim)
    tx = coupled_adam(config.learning_rate, config.weight_decay)

    def is_player(params, name):
        return {module: (module == "adversary") == (name == "adversary") for module in params}

    def epoch(state, data):
        graph, val_nodes = data
        mask = graph.train_mask

        def outputs(params) -> Any:
            return model.apply({"params": params}, graph)

        def main_loss(params):
            out = outputs(params)
            judged = (out["classes"], out["sensitive"], out["adversary"])
            terms = fairgnn_terms(*judged, graph.labels, graph.sensitive, mask)
            # The estimator also learns the attribute itself, where it is known.
            known = mask & (graph.sensitive >= 0)
            estimate = binary_loss(out["sensitive"], graph.sensitive, known)
            return fairgnn_loss(terms, config.cov_weight, config.adv_weight) + estimate, terms

        def adversary_loss(params):
            known = mask & (graph.sensitive >= 0)
            return binary_loss(outputs(params)["adversary"], graph.sensitive, known)

        params, opt_states = state.variables, dict(state.opt_states)
        (loss, terms), grads = jax.value_and_grad(main_loss, has_aux=True)(params)
        metrics = {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}
        for player in ("main", "adversary"):
            if player == "adversary":
                grads = jax.grad(adversary_loss)(params)
            chosen = is_player(params, player)
            masked = optax.masked(tx, chosen)
            updates, opt_states[player] = masked.update(grads, opt_states[player], params)
            moved: Any = optax.apply_updates(params, updates)
            params = {
                module: moved[module] if on else params[module] for module, on in chosen.items()
            }
        scores = outputs(params)["classes"]
        metrics["val_auc"] = roc_auc(scores[val_nodes], graph.labels[val_nodes])
        kept = {"scores": scores}
        best = follow(state.best, metrics["val_auc"], state.step, kept, ties_win=False)
        state = state.replace(
            step=state.step + 1, variables=params, opt_states=opt_states, best=best
        )
        return state, metrics

    def train(key, graph, val_nodes):
        params = model.init(key, graph)["params"]
        opt_states = {
            name: optax.masked(tx, is_player(params, name)).init(params)
            for name in ("main", "adversary")
        }
        return _whole(epoch, params, opt_states, key, (graph, val_nodes), config.max_epochs)

    return compile_copies(train, (0, None, None), in_turn=jax.default_backend() == "cpu")


def _whole(epoch, variables, opt_states, key, data, num_epochs):
    best = nothing_yet({"scores": jnp.zeros(data[0].num_nodes)})
    state = BaselineState(jnp.zeros((), jnp.int32), variables, opt_states, best, key)
    state, history = run(epoch, state, data, num_epochs)
    return state.best.value["scores"], history


def feature_views(
    features: jax.Array, drop_mask: jax.Array, noise: jax.Array, sensitive_column: int | None
) -> tuple[jax.Array, jax.Array]:
    """NIFTY's two views of the features.

    One shared number is added to the masked columns, never to the sensitive one; the second view
    also has the attribute flipped.

    Args: features float [N, F]; drop_mask bool [F]; noise float scalar.
    """
    columns = jnp.arange(features.shape[1])
    is_sensitive = columns == (-1 if sensitive_column is None else sensitive_column)
    first = features + jnp.where(drop_mask & ~is_sensitive, noise, 0)
    return first, jnp.where(is_sensitive, 1 - first, first)


def cosine_distance(predicted: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Minus the mean cosine over masked rows; no gradient reaches the target. float [N, d]."""
    target = jax.lax.stop_gradient(target)
    lengths = optax.safe_norm(predicted, 1e-8, axis=1) * optax.safe_norm(target, 1e-8, axis=1)
    return -mean_over(jnp.sum(predicted * target, axis=1) / lengths, mask)


def nifty_similarity(
    h1: jax.Array, h2: jax.Array, p1: jax.Array, p2: jax.Array, mask: jax.Array, sim_weight: float
) -> jax.Array:
    """lambda (D(h1, p2) + D(h2, p1)) / 2 of two views' predictions h and projections p."""
    return sim_weight * (cosine_distance(h1, p2, mask) + cosine_distance(h2, p1, mask)) / 2


def nifty_classification(
    c1: jax.Array, c2: jax.Array, labels: Any, mask: jax.Array, sim_weight: float
) -> jax.Array:
    """(1 - lambda) (BCE(c1) + BCE(c2)) / 2 of two views' scores."""
    losses = binary_loss(c1, labels, mask) + binary_loss(c2, labels, mask)
    return (1 - sim_weight) * losses / 2


class NIFTY(nn.Module):
    """Spectrally normalised encoder, projector, predictor and classifier."""

    hidden_dim: int

    def setup(self) -> None:
        width = self.hidden_dim
        self.encoder = nn.SpectralNorm(GCNConv(width))
        self.projector = [nn.SpectralNorm(nn.Dense(width)) for _ in range(2)]
        self.predictor = [nn.SpectralNorm(nn.Dense(width)) for _ in range(2)]
        self.norms = [nn.BatchNorm() for _ in range(3)]
        self.classifier = nn.SpectralNorm(nn.Dense(1))

    def __call__(self, links: Any, features: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """float [N, F] -> "scores" [N], "projected" and "predicted" [N, hidden_dim]."""
        stats: dict[str, Any] = {"update_stats": train}
        rest: dict[str, Any] = {"use_running_average": not train}
        hidden = self.encoder(links, features, **stats)
        rows = nn.relu(self.norms[0](self.projector[0](hidden, **stats), **rest))
        projected = self.norms[1](self.projector[1](rows, **stats), **rest)
        rows = nn.relu(self.norms[2](self.predictor[0](projected, **stats), **rest))
        predicted = self.predictor[1](rows, **stats)
        scores = self.classifier(hidden, **stats)[:, 0]
        return {"scores": scores, "projected": projected, "predicted": predicted}


def thinned_links(graph: FairGraph, key: jax.Array, rate: float) -> EdgeLinks:
    """The graph without a share of its undirected edges, loops kept, normalised again."""
    pairs = graph.pairs
    kept = keep_mask(key, pairs.first.shape, rate) | (pairs.first == pairs.second)
    weights = kept[pairs.of_link].astype(jnp.float32)
    edges = graph.links.replace(scale=None).as_edges()
    scale = jax.lax.rsqrt(jnp.maximum(edges.sum_by_target(weights), 1))
    return edges.replace(weights=weights * scale[edges.senders] * scale[edges.receivers])


def train_nifty(
    config: NIFTYConfig, graph: FairGraph, keys: jax.Array
) -> tuple[jax.Array, History]:
    """Trains one copy a key in one compiled call, selected by validation similarity + class loss.

    Returns: (logits float [seeds, N, 2], history).
    """
    return _train(_compiled_nifty(config), graph, keys)


@functools.cache
def _compiled_nifty(config: NIFTYConfig) -> Callable:
    model = NIFTY(config.hidden_dim)
    tx = coupled_adam(config.learning_rate, config.weight_decay)
    weight = config.sim_weight

    def views(graph, key):
        keys = jax.random.split(key, 4)
        drop = jax.random.bernoulli(keys[0], config.feature_noise, graph.features.shape[1:])
        noise = jax.random.normal(keys[1])
        rows = feature_views(graph.features, drop, noise, config.sensitive_column)
        links = [thinned_links(graph, k, config.edge_drop) for k in keys[2:]]
        return list(zip(links, rows, strict=True))

    def both(variables, seen, train):
        outs = []
        for links, rows in seen:
            mutable = ["batch_stats"] if train else False
            out = model.apply(variables, links, rows, train=train, mutable=mutable)
            out, stats = out if train else (out, {})
            variables = {**variables, **stats}
            outs.append(out)
        return outs, variables

    def losses(outs, graph, mask):
        (a, b) = outs
        similarity = nifty_similarity(
            a["predicted"], b["predicted"], a["projected"], b["projected"], mask, weight
        )
        classes = nifty_classification(a["scores"], b["scores"], graph.labels, mask, weight)
        return {"similarity": similarity, "classes": classes}

    def epoch(state, graph_and_nodes):
        graph, _ = graph_and_nodes
        seen = views(graph, step_key(state))
        variables, opt_states, metrics = state.variables, dict(state.opt_states), {}
        for name in ("similarity", "classes"):

            def loss_fn(params, name=name, variables=variables):
                outs, changed = both({**variables, "params": params}, seen, True)
                return losses(outs, graph, graph.train_mask)[name], changed

            gradient = jax.value_and_grad(loss_fn, has_aux=True)
            (metrics[name], changed), grads = gradient(variables["params"])
            updates, opt_states[name] = tx.update(grads, opt_states[name], variables["params"])
            params = optax.apply_updates(variables["params"], updates)
            variables = {**changed, "params": params}
        outs, _ = both(variables, seen, False)
        judged = losses(outs, graph, graph.val_mask)
        plain: Any = model.apply(variables, graph.links, graph.features, train=False)
        scores = plain["scores"]
        score = -(judged["similarity"] + judged["classes"])
        best = follow(state.best, score, state.step, {"scores": scores}, ties_win=False)
        loss = metrics["similarity"] + metrics["classes"]
        metrics = {**metrics, "loss": loss, "val_loss": -score}
        state = state.replace(
            step=state.step + 1, variables=variables, opt_states=opt_states, best=best
        )
        return state, metrics

    def train(key, graph, val_nodes):
        variables = model.init(key, graph.links, graph.features, train=False)
        names = ("similarity", "classes")
        opt_states = {name: tx.init(variables["params"]) for name in names}
        data = (graph, val_nodes)
        return _whole(epoch, dict(variables), opt_states, key, data, config.max_epochs)

    return compile_copies(train, (0, None, None), in_turn=jax.default_backend() == "cpu")
