"""What frozen features know: a linear probe, logistic regression, nearest neighbours.

    features = pooled_features(encoder, variables, images, "block4/block")
    variables, history = train_linear_probe(LinearProbe(num_classes=12), features, labels, key)
    accuracy = linear_probe_accuracy(variables, test_features, test_labels)

Each is a pure function of arrays that compiles as one call; `jax.vmap` over keys, or over features
of several networks, runs the copies together.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.errors import NonFiniteError, require
from lab.nn.norm import BatchNorm
from lab.nn.vit import ViT, ViTConfig
from lab.papers.tinymim.checks import check_labels
from lab.train.optimizers import lars
from lab.train.schedules import scaled_rate, warmup_cosine
from lab.train.state import Aux, TrainState, check_key, state_of
from lab.train.steps import LossFn, make_train_step, mean_over
from lab.train.whole import History, run


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """MAE's linear probe: batch normalisation without affine, a linear layer, LARS.

    Attributes:
      base_rate: the peak learning rate is base_rate * batch_size / 256.
      trust_coefficient: a weight moves by about this share of itself a step (times the rate); of
        MAE's 7,000 steps that is enough, a run of a few hundred needs more.
      batch_size: at most the number of examples; an epoch leaves out the last, smaller batch.
    """

    num_classes: int = 1000
    epochs: int = 90
    warmup_epochs: float = 10.0
    base_rate: float = 0.1
    batch_size: int = 16384
    momentum: float = 0.9
    trust_coefficient: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.num_classes >= 2, f"num_classes must be at least 2, got {self.num_classes}")
        require(self.batch_size >= 2, f"batch_size must be at least 2, got {self.batch_size}")
        require(
            0 <= self.warmup_epochs < self.epochs,
            f"warmup_epochs must lie in 0..{self.epochs} (epochs), got {self.warmup_epochs}",
        )

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """LARS with the schedule of `steps_per_epoch`."""
        peak = scaled_rate(self.base_rate, self.batch_size)
        by_epoch = warmup_cosine(peak, self.warmup_epochs, self.epochs)
        return self.lars(lambda step: by_epoch(step / steps_per_epoch))

    def lars(self, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        """LARS at any learning rate."""
        return lars(
            rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            trust_coefficient=self.trust_coefficient,
        )


class ProbeHead(nn.Module):
    """BatchNorm without affine (eps 1e-6) and a linear layer: features [B, D] -> logits."""

    num_classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        norm = BatchNorm(epsilon=1e-6, affine=False, axis_name=self.axis_name, name="norm")
        x = norm(features.astype(jnp.float32), train=train, mask=mask)
        init = nn.initializers.truncated_normal(0.01)
        return nn.Dense(self.num_classes, kernel_init=init, name="head")(x)


def linear_probe_loss_fn(num_classes: int, *, axis_name: str | None = None) -> LossFn:
    """Cross-entropy of `ProbeHead` on a batch {"features" [B, D], "labels" [B], opt. "mask" [B]}.

    For `lab.train.make_train_step` where features come as a stream.
    """
    model = ProbeHead(num_classes, axis_name)

    def loss_fn(params, model_state, batch, key):
        del key
        mask = batch.get("mask")
        logits, new_state = model.apply(
            {"params": params, **model_state},
            batch["features"],
            train=True,
            mask=None if mask is None else mask > 0,
            mutable=["batch_stats"],
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        loss = mean_over(losses, mask, axis_name)
        return loss, Aux(metrics={}, model_state=dict(new_state))

    return loss_fn


def train_linear_probe(
    config: LinearProbe, features: jax.Array, labels: jax.Array, key: jax.Array
) -> tuple[dict[str, Any], History]:
    """The whole run of a linear probe; traceable, so it may be jitted and vmapped over keys.

    Args:
      features: float [N, D], or [V, N, D]: V augmented views of each picture (crops, flips), of
        which every epoch takes one at random.
      labels: int [N]; check them with `checks.check_labels`.
      key: typed, of the initialisation and the order of the examples.
    Returns: (variables of `ProbeHead`, metrics of every epoch [epochs], with "finite").
    """
    views = features[None] if features.ndim == 2 else features
    num_views, count, width = views.shape
    batch_size = min(config.batch_size, count)
    steps_per_epoch = count // batch_size
    tx = config.optimizer(steps_per_epoch)
    take_step = make_train_step(linear_probe_loss_fn(config.num_classes), tx)

    def epoch(state: TrainState, data):
        views, labels = data
        order_key, view_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        order = jax.random.permutation(order_key, count)[: steps_per_epoch * batch_size]
        view = views[jax.random.randint(view_key, (), 0, num_views)]

        def step(state, rows):
            return take_step(state, {"features": view[rows], "labels": labels[rows]})

        state, metrics = jax.lax.scan(step, state, order.reshape(steps_per_epoch, batch_size))
        return state, jax.tree.map(jnp.mean, metrics)

    init_key, run_key = jax.random.split(check_key(key))
    head = ProbeHead(config.num_classes)
    variables = dict(head.init(init_key, jnp.zeros((1, width)), train=False))
    state, history = run(epoch, state_of(variables, tx, run_key), (views, labels), config.epochs)
    return {"params": state.params, **state.model_state}, history


def probe_logits(variables: Any, features: jax.Array) -> jax.Array:
    """Logits of a trained `ProbeHead`: float [N, D] -> [N, num_classes]."""
    num_classes = variables["params"]["head"]["bias"].shape[-1]
    logits: Any = ProbeHead(num_classes).apply(variables, features, train=False)
    return logits


def linear_probe_accuracy(variables: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of rows that a trained probe gets right."""
    return jnp.mean(probe_logits(variables, features).argmax(axis=-1) == labels)


def logistic_regression(
    features: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    inverse_penalty: float = 0.1,
    max_steps: int = 200,
) -> dict[str, jax.Array]:
    """Multinomial logistic regression on standardised features, by L-BFGS; traceable.

    Minimises |W|^2 / 2 + C * (summed cross-entropy); the bias is not penalised (as scikit-learn).

    Args: features float [N, D]; labels int [N]; inverse_penalty, C.
    Returns: {"mean", "std" [D], "weights" [D, K], "bias" [K]} for `regression_logits`.
    """
    require(inverse_penalty > 0, f"inverse_penalty must be positive, got {inverse_penalty}")
    mean, std = features.mean(axis=0), features.std(axis=0)
    std = jnp.where(std > 0, std, 1.0)
    x = (features - mean) / std

    def objective(fit):
        logits = x @ fit["weights"] + fit["bias"]
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        # divided by C N, which moves no minimum and keeps the numbers near 1
        penalty = jnp.sum(jnp.square(fit["weights"])) / (2 * inverse_penalty * len(x))
        return losses.mean() + penalty

    solver = optax.lbfgs()
    start = {"weights": jnp.zeros((x.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}

    def step(carry, _):
        fit, state = carry
        value, grads = optax.value_and_grad_from_state(objective)(fit, state=state)
        updates, state = solver.update(
            grads, state, fit, value=value, grad=grads, value_fn=objective
        )
        moved: Any = optax.apply_updates(fit, updates)
        return (moved, state), value

    (fit, _), _ = jax.lax.scan(step, (start, solver.init(start)), length=max_steps)
    return {"mean": mean, "std": std, **fit}


def regression_logits(fit: dict[str, jax.Array], features: jax.Array) -> jax.Array:
    """Logits of `logistic_regression`'s result: float [N, D] -> [N, K]."""
    return (features - fit["mean"]) / fit["std"] @ fit["weights"] + fit["bias"]


def logistic_probe_accuracy(
    train_features: jax.Array,
    train_labels: jax.Array,
    test_features: jax.Array,
    test_labels: jax.Array,
    num_classes: int,
    *,
    inverse_penalty: float = 0.1,
) -> jax.Array:
    """The test accuracy of logistic regression on frozen features (the probe of `bench`)."""
    fit = logistic_regression(
        train_features, train_labels, num_classes, inverse_penalty=inverse_penalty
    )
    return jnp.mean(regression_logits(fit, test_features).argmax(axis=-1) == test_labels)


def knn_predict(
    train_features: jax.Array,
    train_labels: jax.Array,
    queries: jax.Array,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
    chunk: int = 256,
) -> jax.Array:
    """Classes of the k nearest training examples by cosine similarity; traceable.

    Args:
      train_features: float [N, D]; train_labels int [N]; queries float [M, D].
      temperature: neighbours vote with weight exp(similarity / temperature) (DINO's k-NN); None:
        each has one vote. Ties go to the lower class.
      chunk: how many queries are compared at a time; memory is chunk x N.
    Returns: int32 [M].
    Raises: InvalidInputError for a k outside 1..N.
    """
    count, total = len(train_features), len(queries)
    require(1 <= k <= count, f"k must be in 1..{count}, the training examples, got {k}")
    require(
        temperature is None or temperature > 0, f"temperature must be positive, got {temperature}"
    )
    train, train_labels = unit_rows(train_features), jnp.asarray(train_labels)

    def vote(rows):
        similarity = jnp.matmul(unit_rows(rows), train.T, precision="highest")
        nearest, index = jax.lax.top_k(similarity, k)
        weights = jnp.ones_like(nearest) if temperature is None else jnp.exp(nearest / temperature)
        votes = jax.nn.one_hot(train_labels[index], num_classes) * weights[..., None]
        return votes.sum(axis=1).argmax(axis=-1).astype(jnp.int32)

    chunk = min(chunk, total)
    padded = jnp.pad(queries, ((0, -total % chunk), (0, 0)))
    return jax.lax.map(vote, padded.reshape(-1, chunk, queries.shape[1])).reshape(-1)[:total]


def unit_rows(x: jax.Array) -> jax.Array:
    """Rows scaled to length 1; rows of zeros stay."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def pooled_features(
    encoder: ViTConfig,
    variables: Any,
    images: jax.Array,
    name: str = "norm",
    *,
    pooling: str = "mean",
) -> jax.Array:
    """One vector a picture from a frozen encoder: float32 [B, D].

    Args:
      variables: of the ViT itself (`stages.encoder_of`); images normalised float [B, H, W, C].
      name: of an intermediate, such as "block4/block" (`lab.nn.vit`).
      pooling: "mean" of the patch tokens, or the "cls" token.
    """
    require(pooling in ("mean", "cls"), f"pooling is 'mean' or 'cls', got {pooling!r}")
    out: Any = ViT(encoder).apply(variables, images, (name,))
    tokens = out[name].astype(jnp.float32)
    return tokens[:, 0] if pooling == "cls" else tokens[:, encoder.num_special :].mean(axis=1)


def check_features(features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Raises InvalidInputError unless features are [N, D] or [V, N, D] with N labels of classes,
    NonFiniteError unless they are finite.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    require(
        features.ndim in (2, 3) and features.shape[-2] == len(labels) and len(labels) > 1,
        f"features must be [N, D] or [views, N, D] with N labels, got {features.shape} and "
        f"{labels.shape}",
    )
    require(bool(np.isfinite(features).all()), "features hold NaN or infinity", NonFiniteError)
    check_labels(labels, num_classes)
